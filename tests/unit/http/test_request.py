from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.http.request import BadRequest, Target


@pytest.mark.parametrize(
    ("raw", "path", "query"),
    [
        ("/", "/", {}),
        ("/v2/?ns=docker.io", "/v2/", {"ns": ["docker.io"]}),
        ("/v2/a%2Fb/c?ns=localhost%3A5000&x=&x=2", "/v2/a/b/c", {"ns": ["localhost:5000"], "x": ["", "2"]}),
        ("/caf%C3%A9", "/café", {}),
        ("/100%/x", "/100%/x", {}),
        ("http://host:80/v2/?a=b", "/v2/", {"a": ["b"]}),
        ("HTTPS://host?a=b", "/", {"a": ["b"]}),
        ("http://host", "/", {}),
        ("/http://x/y", "/http://x/y", {}),
        ("*", "*", {}),
    ],
)
def test_targets(raw: str, path: str, query: dict[str, list[str]]) -> None:
    target = Target.parse(raw)
    assert target.path == path
    assert target.query == query


@pytest.mark.parametrize("raw", ["", "v2/", "host:443", "/%ff", "/?a=%ff", "/?" + "a=1&" * 200])
def test_refused(raw: str) -> None:
    with pytest.raises(BadRequest):
        Target.parse(raw)


@given(st.text(), st.dictionaries(st.text(min_size=1), st.text(), max_size=5))
def test_what_was_quoted_comes_back(path: str, query: dict[str, str]) -> None:
    target = Target.parse(f"/{quote(path)}?{urlencode(query)}")
    assert target.path == f"/{path}"
    assert target.query == {name: [value] for name, value in query.items()}


@given(st.text(st.characters(min_codepoint=33, max_codepoint=255)))
def test_anything_else_is_a_target_or_a_bad_request(raw: str) -> None:
    try:
        target = Target.parse(raw)
    except BadRequest:
        return
    assert target.path == "*" or target.path.startswith("/")
