"""Spans and places: every tree covers its ring once, and all members carry the same."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.core.errors import InvalidInput
from p2pdist.relay.spans import Ring, arcs, child_offsets, place


@given(members=st.integers(1, 300), fan=st.integers(1, 9))
def test_a_tree_reaches_every_member_once_and_places_agree(members: int, fan: int) -> None:
    reached: Counter[int] = Counter()
    todo = [(0, members - 1, None)]
    while todo:
        offset, span, parent = todo.pop()
        reached[offset] += 1
        assert place(offset, members, fan) == (parent, span)
        todo += [(offset + arc.offset, arc.span, offset) for arc in arcs(span, fan)]
    assert reached == Counter(range(members))


@given(members=st.integers(2, 200), fan=st.integers(1, 8))
def test_children_stand_at_few_distances_whoever_is_root(members: int, fan: int) -> None:
    seen = set()
    for offset in range(members):
        seen |= {arc.offset for arc in arcs(place(offset, members, fan).span, fan)}
    assert seen == set(child_offsets(members, fan))


def test_sixteen_members_need_six_connections_at_fan_four() -> None:
    assert len(child_offsets(16, 4)) == 6


def uploads(members: list[int], count: int, fan: int) -> Counter[int]:
    """Pieces sent by each member over one rotation of roots when spans count all `count` slots of the table."""
    present, sent = set(members), Counter[int]()

    def serve(slot: int, span: int) -> None:
        for arc in arcs(span, fan):
            for skipped in range(arc.span + 1):
                child = (slot + arc.offset + skipped) % count
                if child in present:
                    sent[slot] += 1
                    serve(child, arc.span - skipped)
                    break

    for root in members:
        serve(root, count - 1)
    return sent


def test_spans_over_members_are_even_where_spans_over_slots_are_not() -> None:
    neighbours = list(range(16))
    over_slots = uploads(neighbours, 1000, 4)
    over_members = uploads(neighbours, 16, 4)
    assert set(over_members.values()) == {15}
    assert sum(over_slots.values()) == sum(over_members.values())
    assert max(over_slots.values()) >= 1.5 * 15


def test_ring_places() -> None:
    ring = Ring(3, ["a", "b", "c", "d", "e"], "tracker")
    assert ring.parent("c", root=2, fan=2) == "tracker"
    assert ring.place("c", root=2, fan=2).span == 4
    assert ring.at(7) == "c"
    assert "tracker" not in ring
    assert ring.children_of("d", fan=4) == ["e", "a", "b", "c"]


@given(members=st.integers(1, 60), leaves=st.integers(0, 20), fan=st.integers(1, 6), root=st.integers(0, 200))
def test_each_leaf_gets_each_piece_from_one_member_of_the_ring(members: int, leaves: int, fan: int, root: int) -> None:
    root %= members
    ring = Ring(1, [f"m{n}" for n in range(members)], "tracker", [f"l{n}" for n in range(leaves)])
    served = [(node, leaf) for node in ring.members for leaf in ring.leaves_of(node, root)]
    assert sorted(leaf for _, leaf in served) == sorted(ring.leaves)
    for node, leaf in served:
        assert ring.parent(leaf, root, fan) == node
        assert ring.place(leaf, root, fan).span == 0
        assert leaf in ring.children_of(node, fan)
        assert ring.children_of(leaf, fan) == []


def test_leaves_are_shared_by_their_servers() -> None:
    ring = Ring(1, [f"m{n}" for n in range(14)], "tracker", ["l0", "l1"])
    carried = Counter(node for root in range(14 * 8) for node in ring.members if ring.leaves_of(node, root))
    assert max(carried.values()) <= 2 * 14
    assert len(carried) == 14


def test_a_ring_of_leaves_alone_is_refused() -> None:
    with pytest.raises(InvalidInput, match="leaves and no ring"):
        Ring(1, [], "tracker", ["l0"])
