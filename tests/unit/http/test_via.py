import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.http.via import naming, nodes_in


@pytest.mark.parametrize(
    ("field", "nodes"),
    [
        (None, []),
        ("", []),
        ("1.1 cache.test", []),
        ("1.1 p2pdist-a1", ["a1"]),
        ("1.0 fred, 1.1 p2pdist-a1,1.1\tp2pdist-b2 (Debian), HTTP/2 x", ["a1", "b2"]),
        ("1.1 notp2pdist-a1, 2 p2pdist-b2", []),
        ("1.1 p2pdist-", []),
    ],
)
def test_the_nodes_of_a_field(field: str | None, nodes: list[str]) -> None:
    assert nodes_in(field) == nodes


def test_a_node_is_named_last() -> None:
    assert naming("me", {"Accept": "x"}) == {"Accept": "x", "Via": "1.1 p2pdist-me"}
    assert naming("me", {"via": "1.0 fred"}) == {"Via": "1.0 fred, 1.1 p2pdist-me"}
    assert naming("", {"via": "1.0 fred"}) == {"via": "1.0 fred"}


@given(st.text(), st.from_regex("[a-z0-9]{32}", fullmatch=True))
def test_whatever_was_there_before_our_node_is_found(before: str, node: str) -> None:
    assert nodes_in(naming(node, {"Via": before})["Via"])[-1:] == [node]
