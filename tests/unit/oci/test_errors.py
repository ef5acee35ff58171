import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.core.errors import BlobUnknown, Denied, P2PDistError, Unavailable
from p2pdist.oci.errors import error_body, parse_error_body


@pytest.mark.parametrize("error", [BlobUnknown("no blob"), Denied("not you"), Unavailable("later"), P2PDistError('"')])
def test_what_we_render_is_what_we_read(error: P2PDistError) -> None:
    assert parse_error_body(error_body(error)) == [(error.oci_code, str(error))]


def test_the_body_has_the_form_of_the_spec() -> None:
    assert json.loads(error_body(BlobUnknown("no blob"))) == {
        "errors": [{"code": "BLOB_UNKNOWN", "message": "no blob"}]
    }


def test_texts_of_the_origin_are_cut_and_cleaned() -> None:
    body = json.dumps({"errors": [{"code": "X", "message": "a\nb" + "c" * 1000}, "junk", {"message": 1}] + [{}] * 50})
    errors = parse_error_body(body.encode())
    assert errors[0] == ("X", "a b" + "c" * 297)
    assert errors[1] == ("UNKNOWN", "")
    assert len(errors) == 7


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"errors":{}}', b"\xff", b"[" * 100000])
def test_other_bodies_say_nothing(body: bytes) -> None:
    assert parse_error_body(body) == []


@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_never_raises(document: object) -> None:
    for code, message in parse_error_body(json.dumps({"errors": document}).encode()):
        assert "\n" not in code + message
