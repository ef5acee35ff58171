"""What an Authorization field of a caller may be, and that nothing of it shows."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.oci.bearer import MAX_TOKEN_LENGTH, BearerToken


def jwt(claims: object) -> str:
    part = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{part}.c2ln"


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Bearer abc", "abc"),
        ("bearer   a.b-c_d~e+f/g==", "a.b-c_d~e+f/g=="),
        (" BEARER x ", "x"),
        (None, None),
        ("", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("Basic dXNlcjpwYXNz", None),
        ("Bearer a b", None),
        ("Bearer a, Bearer b", None),
        ("Bearer a\r\nX: y", None),
        ("Bearer ä", None),
        ("Bearer " + "x" * MAX_TOKEN_LENGTH, None),
    ],
)
def test_what_is_a_token(header: str | None, value: str | None) -> None:
    found = BearerToken.from_header(header)
    assert (found.value if found else None) == value
    if found:
        assert found.authorization == f"Bearer {value}"


@given(st.text(max_size=60))
def test_any_text_is_a_token_that_fits_into_a_field_or_none(text: str) -> None:
    found = BearerToken.from_header(f"Bearer {text}")
    if found is not None:
        assert BearerToken.from_header(found.authorization) == found
        assert found.authorization.isascii()
        assert found.authorization.isprintable()


def test_a_token_shows_nowhere() -> None:
    token = BearerToken("very-secret")
    assert "secret" not in f"{token!r} {token} {[token]}"


@pytest.mark.parametrize(
    ("token", "expires"),
    [
        (jwt({"exp": 1700000000}), 1700000000.0),
        (jwt({"exp": 1700000000.5}), 1700000000.5),
        (jwt({"exp": "soon"}), None),
        (jwt({"exp": True}), None),
        (jwt({"exp": 10**400}), None),
        (jwt({}), None),
        (jwt([1]), None),
        ("opaque", None),
        ("a.b.c", None),
        ("a..c", None),
        ("a.____.c", None),
    ],
)
def test_when_a_token_ends(token: str, expires: float | None) -> None:
    assert BearerToken(token).expires_at == expires


@given(st.text("abcXYZ019._-=+/", max_size=40), st.binary(max_size=40))
def test_whatever_stands_in_a_token_its_end_is_a_number_or_unknown(text: str, claims: bytes) -> None:
    for value in (text, f"a.{base64.urlsafe_b64encode(claims).decode()}.c"):
        assert isinstance(BearerToken(value).expires_at, float | None)
