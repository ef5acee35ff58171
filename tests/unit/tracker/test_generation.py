"""Epochs and fills: every newcomer is told of fills for exactly what was dealt before it and isn't held."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from p2pdist.core.digest import Digest
from p2pdist.core.pieces import PieceLayout, PieceSet
from p2pdist.tracker.generation import FILL_DEALERS, Generation, Order, Stage

PIECES = 12
LAYOUT = PieceLayout(PIECES * 32768, 32768)


def generation() -> Generation:
    return Generation(1, Digest.of(b""), "registry.example", "a", LAYOUT, False, "tracker")


def epoch(one: Generation, *nodes: str, dealt: tuple[int, ...] = ()) -> list[Order]:
    for node in nodes:
        one.join(node, PieceSet(PIECES))
    ring = one.next_epoch(sorted(one.members | one.waiting.keys()))
    return one.began(ring.epoch, dealt)


def filled(orders: list[Order]) -> dict[str, list[int]]:
    """The pieces that each node is filled with."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for order in orders:
        for node in order.ring.members:
            found[node] += order.pieces
    return found


def test_joins_that_come_together_share_an_epoch() -> None:
    one = generation()
    one.join("a", PieceSet(PIECES))
    one.join("b", PieceSet(PIECES))
    ring = one.next_epoch(["a", "b"])
    assert (ring.members, ring.dealer, ring.epoch) == (("a", "b"), "tracker", 1)
    assert one.began(1, ()) == []


def test_the_first_epoch_needs_no_fills_even_when_pieces_wait() -> None:
    assert epoch(generation(), "a", "b") == []


def test_latecomers_that_lack_the_same_are_a_cohort_striped_over_members() -> None:
    one = generation()
    epoch(one, *"abcdef")
    orders = epoch(one, "x", "y", dealt=tuple(range(8)))
    assert len(orders) == FILL_DEALERS
    assert {order.ring.members for order in orders} == {("x", "y")}
    assert len({order.dealer for order in orders} & set("abcdef")) == FILL_DEALERS
    assert sorted(piece for order in orders for piece in order.pieces) == list(range(8))


def test_two_latecomers_do_not_wait_for_each_other() -> None:
    one = generation()
    epoch(one, "a")
    epoch(one, "x", dealt=(0, 1))
    one.leave("a")
    orders = epoch(one, "y", dealt=(0, 1, 2))
    assert {order.dealer for order in orders} == {"tracker"}
    assert {order.dealer for order in one.lacking("x", [0])} == {"tracker"}
    one.finished("x")
    assert {order.dealer for order in one.lacking("y", [0])} == {"x"}


def test_a_newcomer_that_left_before_its_epoch_began_is_not_filled() -> None:
    one = generation()
    epoch(one, "a")
    one.join("x", PieceSet(PIECES))
    ring = one.next_epoch(["a", "x"])
    one.leave("x")
    assert one.began(ring.epoch, (0, 1)) == []


def test_who_never_took_part_lacks_nothing() -> None:
    one = generation()
    epoch(one, "a")
    assert one.lacking("stranger", [1]) == []
    assert one.lacking("a", []) == []


def test_done_when_all_members_are_and_nobody_waits() -> None:
    one = generation()
    epoch(one, "a", "b")
    one.stage = Stage.DEALT
    one.finished("a")
    assert not one.all_done
    one.finished("b")
    assert one.all_done
    one.join("c", PieceSet(PIECES))
    assert not one.all_done


def test_a_new_ring_is_needed_when_a_member_leaves_others_behind() -> None:
    one = generation()
    epoch(one, "a", "b")
    assert one.leave("a")
    assert not one.leave("a")
    assert not one.leave("b")
    assert one.deserted


HELD = st.frozensets(st.integers(0, PIECES - 1), max_size=PIECES)
STEP = st.one_of(
    st.tuples(st.just("join"), st.sampled_from("abcdef"), HELD),
    st.tuples(st.just("leave"), st.sampled_from("abcdef"), st.just(frozenset[int]())),
    st.tuples(st.just("finish"), st.sampled_from("abcdef"), st.just(frozenset[int]())),
    st.tuples(st.just("epoch"), st.just(""), st.just(frozenset[int]())),
    st.tuples(st.just("deal"), st.just(""), st.just(frozenset[int]())),
    st.tuples(st.just("begin"), st.just(""), st.just(frozenset[int]())),
    st.tuples(st.just("lack"), st.sampled_from("abcdef"), HELD),
)


@given(st.lists(STEP, max_size=60))
def test_fills_are_exactly_what_is_missing(steps: list[tuple[str, str, frozenset[int]]]) -> None:
    """`epoch` is the tracker's, `begin` the relay's answer to the oldest epoch that it hasn't begun yet."""
    one = generation()
    dealt = 0
    pending: list[tuple[int, dict[str, frozenset[int]], frozenset[str]]] = []
    waiting: dict[str, frozenset[int]] = {}
    epochs: list[int] = []
    for step, node, pieces in steps:
        orders: list[Order] = []
        match step:
            case "join":
                one.join(node, PieceSet(PIECES, pieces))
                waiting[node] = pieces
            case "leave":
                one.leave(node)
                waiting.pop(node, None)
            case "finish":
                one.finished(node)
            case "epoch":
                ring = one.next_epoch(sorted(one.members | one.waiting.keys()))
                epochs.append(ring.epoch)
                assert set(ring.members) >= waiting.keys()
                pending.append((ring.epoch, dict(waiting), frozenset()))
                waiting.clear()
            case "deal":
                dealt = min(PIECES, dealt + 1)
            case "begin" if pending:
                number, newcomers, _ = pending.pop(0)
                orders = one.began(number, range(dealt))
                expected = {
                    newcomer: [index for index in range(dealt) if index not in held]
                    for newcomer, held in newcomers.items()
                    if newcomer in one.members
                }
                assert {n: sorted(p) for n, p in filled(orders).items()} == {n: p for n, p in expected.items() if p}
            case "lack":
                orders = one.lacking(node, sorted(pieces))
                told = filled(orders)
                if node in one.took_part and pieces:
                    assert {n: sorted(p) for n, p in told.items()} == {node: sorted(pieces)}
                else:
                    assert not told
        epochs += [order.ring.epoch for order in orders]
        assert all(order.dealer not in order.ring.members for order in orders)
        assert all(order.dealer in one.members | {"tracker"} for order in orders)
    assert len(set(epochs)) == len(epochs)
    assert epochs == sorted(epochs)
