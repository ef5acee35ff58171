import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.agent.links import Naming, query_of, replaced, without
from p2pdist.core.errors import ProtocolError
from p2pdist.http.url import Url

ROOT = Url.parse("https://registry.test/prefix/v2/team/app")
ASKED = Url.parse("https://registry.test/prefix/v2/team/app/tags/list?n=2")
PLAIN = Naming("/v2/registry.test/team/app", None, ROOT)


@pytest.mark.parametrize(
    ("location", "seen"),
    [
        ("/prefix/v2/team/app/blobs/uploads/1?_state=a%2Fb", "/v2/registry.test/team/app/blobs/uploads/1?_state=a%2Fb"),
        (f"{ROOT}/manifests/1", "/v2/registry.test/team/app/manifests/1"),
        ("list?last=b&n=2", "/v2/registry.test/team/app/tags/list?last=b&n=2"),
        ("?last=b", "/v2/registry.test/team/app/tags/list?last=b"),
        ("/prefix/v2/team/apple/tags/list", "https://registry.test/prefix/v2/team/apple/tags/list"),
        ("/v2/team/app/tags/list", "https://registry.test/v2/team/app/tags/list"),
        ("http://registry.test/prefix/v2/team/app/x", "http://registry.test/prefix/v2/team/app/x"),
        ("https://storage.test/upload?sig=1", "https://storage.test/upload?sig=1"),
    ],
)
def test_what_stays_in_the_repository_leads_through_the_shim(location: str, seen: str) -> None:
    assert PLAIN.seen(location, ASKED) == seen


def test_the_namespace_comes_along() -> None:
    naming = Naming("/v2/team/app", "registry.test:5000", ROOT)
    assert naming.seen("?last=b", ASKED) == "/v2/team/app/tags/list?last=b&ns=registry.test%3A5000"
    assert naming.seen(f"{ROOT}/blobs/uploads/1", ASKED) == "/v2/team/app/blobs/uploads/1?ns=registry.test%3A5000"


def test_every_target_of_a_link_field_is_shown() -> None:
    field = '<?last=b&n=2>; rel="next", <https://else.test/x>; rel="help"'
    assert PLAIN.seen_links(field, ASKED) == (
        '</v2/registry.test/team/app/tags/list?last=b&n=2>; rel="next", <https://else.test/x>; rel="help"'
    )


def test_something_that_isnt_a_url_is_the_upstreams_fault() -> None:
    with pytest.raises(ProtocolError, match="isn't a URL"):
        PLAIN.seen("ftp://registry.test/x", ASKED)


@pytest.mark.parametrize(
    ("target", "query"),
    [("/v2/a", ""), ("/v2/a?", ""), ("/v2/a?n=1&last=%2F", "n=1&last=%2F"), ("/v2/a?x=?#y", "x=?")],
)
def test_the_query_is_what_the_client_wrote(target: str, query: str) -> None:
    assert query_of(target) == query


def test_parameters_go_and_change_and_the_others_stay() -> None:
    assert without("a=%2f&ns=x&b&%6Es=y", "ns") == "a=%2f&b"
    assert without("ns=x", "ns") == ""
    assert replaced("mount=sha256:1&from=a&from=b&_s=%20", {"from": "c/d"}) == "mount=sha256:1&_s=%20&from=c/d"
    assert replaced("", {"from": "c d"}) == "from=c+d"


@given(st.text(), st.text(min_size=1))
def test_no_query_breaks_the_arithmetic(query: str, name: str) -> None:
    assert without(without(query, name), name) == without(query, name)
    replaced(query, {"from": name})
