import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.core.errors import ProtocolError
from p2pdist.oci.challenge import Challenge, parse_challenges, relayed

HUB = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/app:pull"'


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", []),
        (" , ,", []),
        (
            HUB,
            [
                Challenge(
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:library/app:pull",
                    },
                )
            ],
        ),
        ("Negotiate", [Challenge("negotiate")]),
        ("Negotiate, Basic realm=x", [Challenge("negotiate"), Challenge("basic", {"realm": "x"})]),
        ("Negotiate YWJj==", [Challenge("negotiate", token68="YWJj==")]),
        ("Negotiate YWJj=, NTLM", [Challenge("negotiate", token68="YWJj="), Challenge("ntlm")]),
        ("A b=c, D e=f, g=h", [Challenge("a", {"b": "c"}), Challenge("d", {"e": "f", "g": "h"})]),
        ('BASIC Realm = "a, b" , charset="UTF-8"', [Challenge("basic", {"realm": "a, b", "charset": "UTF-8"})]),
        (r'Basic realm="say \"hi\" \\ x"', [Challenge("basic", {"realm": r'say "hi" \ x'})]),
        (
            'Basic realm="",, ,Bearer realm="x"',
            [Challenge("basic", {"realm": ""}), Challenge("bearer", {"realm": "x"})],
        ),
        ('Bearer realm="Basic realm=x"', [Challenge("bearer", {"realm": "Basic realm=x"})]),
        ("Basic ,realm=x", [Challenge("basic", {"realm": "x"})]),
    ],
)
def test_reads_challenges(line: str, expected: list[Challenge]) -> None:
    assert parse_challenges(line) == expected


@pytest.mark.parametrize("line", ['Basic realm="open', "=x", "Basic realm=x y", 'Basic "x"', "Basic a=b, A=c", "Ä x=y"])
def test_refuses_what_isnt_a_challenge(line: str) -> None:
    with pytest.raises(ProtocolError, match="WWW-Authenticate"):
        parse_challenges(line)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(line: str) -> None:
    try:
        challenges = parse_challenges(line)
    except ProtocolError:
        return
    assert all(challenge.scheme == challenge.scheme.lower() for challenge in challenges)


_token = st.from_regex(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,8}", fullmatch=True)
_value = _token | st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=12)


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(
    st.lists(
        st.tuples(_token, st.dictionaries(_token.map(str.lower), _value, max_size=3)),
        max_size=3,
    )
)
def test_several_challenges_in_one_line_are_told_apart(challenges: list[tuple[str, dict[str, str]]]) -> None:
    line = ", ".join(
        scheme + " " + ", ".join(f"{name}={_quoted(value)}" for name, value in parameters.items())
        for scheme, parameters in challenges
    )
    assert parse_challenges(line) == [Challenge(scheme.lower(), parameters) for scheme, parameters in challenges]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (HUB, HUB),
        (f'Basic realm="x", {HUB}, more="y"', HUB),
        ('Bearer realm="https://a.test",error="invalid_token"', 'Bearer realm="https://a.test",error="invalid_token"'),
        (r'Bearer realm="https://a.test",service="a \"b\" \\"', r'Bearer realm="https://a.test",service="a \"b\" \\"'),
        ('Bearer realm="https://a.test",scope=""', 'Bearer realm="https://a.test"'),
        ('Basic realm="x"', None),
        ("Bearer", None),
        ('Bearer service="x"', None),
        ('Bearer realm="https://a.test/\r\nX: y"', None),
        ('Bearer realm="https://ä.test"', None),
        (f'Bearer realm="https://a.test/{"x" * 4096}"', None),
        ("", None),
    ],
)
def test_what_is_relayed_to_a_caller(line: str, expected: str | None) -> None:
    found = relayed(line)
    assert (str(found) if found else None) == expected


@given(st.dictionaries(st.sampled_from(["realm", "service", "scope", "error", "other"]), st.text(max_size=20)))
def test_what_is_relayed_reads_as_what_it_was(parameters: dict[str, str]) -> None:
    found = relayed(str(Challenge("bearer", parameters)))
    if found is not None:
        assert str(found).isprintable()
        assert parse_challenges(str(found)) == [found]
        assert found.parameters.items() <= parameters.items()
