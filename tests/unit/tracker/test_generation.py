"""Epochs and fills: every newcomer is told of fills for exactly what was dealt before it and isn't held."""

from hypothesis import given
from hypothesis import strategies as st

from p2pdist.core.pieces import PieceSet
from p2pdist.tracker.generation import STRIPE_PIECES, TRACKER_FILLS_AFTER, Order, Stage
from tests.unit.tracker.generations import PIECES, TRACKER, dealers, epoch, filled, generation, join, next_epoch


def test_joins_that_come_together_share_an_epoch() -> None:
    one = generation()
    join(one, "a", "b")
    (share,) = one.next_epoch(["a", "b"])
    assert (share.ring.members, share.ring.dealer, share.pieces) == (("a", "b"), TRACKER, None)
    assert one.began(share.ring.epoch, ()) == []


def test_the_first_epoch_needs_no_fills_even_when_pieces_wait() -> None:
    assert epoch(generation(), "a", "b") == []


def test_nothing_changes_when_nobody_came_or_went() -> None:
    one = generation()
    epoch(one, "a", "b")
    assert next_epoch(one) == []
    (share,) = one.next_epoch(["a", "b"], {"": ["b"]})
    assert (share.ring.members, share.ring.leaves) == (("a",), ("b",))
    assert one.next_epoch(["a", "b"], {"": ["b"]}) == []


def test_who_joins_again_gets_a_new_epoch_though_the_members_are_the_same() -> None:
    one = generation()
    epoch(one, "a", "b")
    assert filled(epoch(one, "b", dealt=(0, 1))) == {"b": [0, 1]}


def test_latecomers_that_lack_the_same_are_a_cohort_striped_over_members() -> None:
    one = generation(4 * STRIPE_PIECES)
    epoch(one, *"abcdef")
    dealt = tuple(range(3 * STRIPE_PIECES))
    orders = epoch(one, "x", "y", dealt=dealt)
    assert len(orders) == 3
    assert {order.ring.members for order in orders} == {("x", "y")}
    assert len(dealers(orders) & set("abcdef")) == 3
    assert sorted(piece for order in orders for piece in order.pieces) == [*dealt]


def test_a_latecomer_is_dealt_by_those_before_it_and_never_by_those_after_it() -> None:
    one = generation()
    epoch(one, "a")
    epoch(one, "x", dealt=(0, 1))
    one.leave("a")
    assert dealers(epoch(one, "y", dealt=(0, 1, 2))) == {"x"}
    assert dealers(one.lacking("x", [0])) == {TRACKER}


def test_who_lacks_the_same_does_not_deal_it_and_who_has_the_blob_does() -> None:
    one = generation()
    epoch(one, "a")
    epoch(one, "x", dealt=(0, 1))
    one.leave("a")
    one.lacking("x", [0])
    assert dealers(one.lacking("x", [0])) == {TRACKER}
    epoch(one, "y")
    assert dealers(one.lacking("y", [0])) == {TRACKER}
    assert dealers(one.lacking("y", [1])) == {"x"}
    one.finished("x")
    epoch(one, "z")
    assert dealers(one.lacking("z", [0])) == {"x"}


def test_where_fills_by_members_do_not_help_the_tracker_deals() -> None:
    one = generation()
    epoch(one, "a", "b")
    one.finished("a")
    asked = [dealers(one.lacking("b", [3])) for _ in range(TRACKER_FILLS_AFTER)]
    assert asked == [{"a"}] * (TRACKER_FILLS_AFTER - 1) + [{TRACKER}]
    # What it has asked for less often still comes from members.
    assert {order.dealer: order.pieces for order in one.lacking("b", [3, 4])} == {TRACKER: (3,), "a": (4,)}


def test_a_newcomer_that_left_before_its_epoch_began_is_not_filled() -> None:
    one = generation()
    epoch(one, "a")
    join(one, "x")
    (share,) = next_epoch(one)
    one.leave("x")
    assert one.began(share.ring.epoch, (0, 1)) == []


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
    join(one, "c")
    assert not one.all_done


def test_a_new_ring_is_needed_when_a_member_leaves_others_behind() -> None:
    one = generation()
    epoch(one, "a", "b")
    assert one.leave("a")
    assert not one.leave("a")
    assert not one.leave("b")
    assert one.deserted


def test_whoever_came_when_pieces_had_been_dealt_is_being_filled_until_it_is_done() -> None:
    one = generation()
    epoch(one, "a")
    epoch(one, "b", dealt=(0,))
    assert [one.is_being_filled(node) for node in "abc"] == [False, True, False]
    one.finished("b")
    assert not one.is_being_filled("b")


# Zones.


def test_each_zone_has_a_ring_of_its_own() -> None:
    one = generation()
    join(one, "a", "c", zone="east")
    join(one, "b", "d", zone="west")
    shares = one.next_epoch(["a", "b", "c", "d"], {"west": ["b"]})
    assert {(share.zone, share.ring.members, share.ring.leaves) for share in shares} == {
        ("east", ("a", "c"), ()),
        ("west", ("d",), ("b",)),
    }
    assert len({share.ring.epoch for share in shares}) == len({share.number for share in shares}) == 2
    assert all((share.ring.dealer, share.pieces) == (TRACKER, None) for share in shares)


def test_a_ring_that_begins_hands_no_share_over() -> None:
    """Also in the zone of agents that name none."""
    one = generation()
    join(one, "a", "b")
    shares = next_epoch(one)
    assert [one.handed_over(share.ring.epoch, ()) for share in shares] == [([], [])]
    assert len(one.shares) == 1


def test_a_zones_ring_stays_when_another_zones_changes() -> None:
    one = generation()
    join(one, "a", zone="east")
    join(one, "b", zone="west")
    east, west = next_epoch(one)
    before = west.ring
    join(one, "c", zone="east")
    assert next_epoch(one) == [east]
    assert east.ring.members == ("a", "c")
    assert west.ring is before


def test_a_zone_that_is_emptied_ends_its_share_and_begins_anew() -> None:
    one = generation()
    join(one, "a", zone="east")
    join(one, "b", zone="west")
    east, west = next_epoch(one)
    one.leave("b")
    last = west.ring.epoch
    assert next_epoch(one) == [west]
    assert (west.ring.members, west.ring.dealer) == ((), TRACKER)
    assert west.ring.epoch > last
    assert [*one.shares.values()] == [east]
    join(one, "d", zone="west")
    (again,) = next_epoch(one)
    assert again.number not in (east.number, west.number)
    assert (again.zone, again.ring.members) == ("west", ("d",))


def test_latecomers_of_two_zones_are_two_cohorts_each_dealt_by_its_own_zone() -> None:
    one = generation()
    join(one, "a", zone="east")
    join(one, "b", zone="west")
    next_epoch(one)
    join(one, "c", zone="east")
    join(one, "d", zone="west")
    orders = [order for share in next_epoch(one) for order in one.began(share.ring.epoch, (0, 1))]
    assert {(order.dealer, order.ring.members) for order in orders} == {("a", ("c",)), ("b", ("d",))}
    assert filled(orders) == {"c": [0, 1], "d": [0, 1]}


def test_a_zone_without_anybody_who_can_deal_is_filled_from_another() -> None:
    one = generation()
    join(one, "a", zone="east")
    next_epoch(one)
    join(one, "d", zone="west")
    # It is the first of its zone: the tracker deals it everything, and what it lacks comes from the other zone.
    (share,) = next_epoch(one)
    assert one.began(share.ring.epoch, ()) == []
    assert dealers(one.lacking("d", [1])) == {"a"}


HELD = st.frozensets(st.integers(0, PIECES - 1), max_size=PIECES)
NOBODY, NOTHING = st.just(""), st.just(frozenset[int]())
NODE = st.sampled_from("abcdef")
ZONES = {"a": "east", "b": "east", "c": "east", "d": "west", "e": "west", "f": ""}
STEP = st.one_of(
    st.tuples(st.just("join"), NODE, HELD),
    st.tuples(st.just("leave"), NODE, NOTHING),
    st.tuples(st.just("finish"), NODE, NOTHING),
    st.tuples(st.just("epoch"), NOBODY, NOTHING),
    st.tuples(st.just("deal"), NOBODY, NOTHING),
    st.tuples(st.just("begin"), NOBODY, NOTHING),
    st.tuples(st.just("lack"), NODE, HELD),
)


@given(st.lists(STEP, max_size=60))
def test_fills_are_exactly_what_is_missing(steps: list[tuple[str, str, frozenset[int]]]) -> None:
    """`epoch` is the tracker's, `begin` the relay's answer to the oldest ring that it hasn't begun yet.

    Over the first ring of a share everything is dealt; so whoever is on it needs no fills.
    """
    one = generation()
    # Where the tracker has members at home, it hands zones over to them; test_generation_whole.py looks after that.
    one.home = "nowhere"
    dealt = 0
    pending: list[tuple[int, bool, dict[str, frozenset[int]]]] = []
    waiting: dict[str, frozenset[int]] = {}
    epochs: list[int] = []
    known: set[int] = set()
    for step, node, pieces in steps:
        orders: list[Order] = []
        match step:
            case "join":
                one.join(node, PieceSet(PIECES, pieces), ZONES[node])
                waiting[node] = pieces
            case "leave":
                one.leave(node)
                waiting.pop(node, None)
            case "finish":
                one.finished(node)
            case "epoch":
                rings = {share.number: share.ring for share in one.shares.values()}
                changed = next_epoch(one)
                epochs += [share.ring.epoch for share in changed]
                assert {node for share in changed for node in share.ring.members} >= waiting.keys()
                for share in changed:
                    zone = {node: held for node, held in waiting.items() if ZONES[node] == share.zone}
                    if share.ring.members:
                        pending.append((share.ring.epoch, share.number not in known, zone))
                    known.add(share.number)
                    assert (share.number in one.shares) == bool(share.ring.members)
                unchanged = one.shares.keys() - {share.number for share in changed}
                assert all(one.shares[number].ring is rings[number] for number in unchanged)
                on_rings = [node for share in one.shares.values() for node in share.ring.members]
                assert sorted(on_rings) == sorted(one.members)
                assert all(ZONES[node] == share.zone for share in one.shares.values() for node in share.ring.members)
                waiting.clear()
            case "deal":
                dealt = min(PIECES, dealt + 1)
            case "begin" if pending:
                number, is_first, newcomers = pending.pop(0)
                before = range(0 if is_first else dealt)
                orders = one.began(number, before)
                expected = {
                    newcomer: [index for index in before if index not in held]
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
        assert all(order.dealer in one.members | {TRACKER} for order in orders)
        assert all(len({ZONES[node] for node in order.ring.members}) == 1 for order in orders)
    assert len(set(epochs)) == len(epochs)
    assert epochs == sorted(epochs)


COMING = st.one_of(
    st.tuples(st.sampled_from(("join", "leave", "finish", "lost", "heard")), NODE),
    st.tuples(st.sampled_from(("epoch", "invite")), NOBODY),
    st.tuples(st.just("lack"), NODE),
)


@given(st.lists(COMING, max_size=80))
def test_nobody_waits_in_a_circle(steps: list[tuple[str, str]]) -> None:
    """Who has the blob may deal to anybody; everybody else only to those who came after it, however often it comes."""
    one = generation()
    came: dict[str, int] = {}
    for number, (step, node) in enumerate(steps):
        orders: list[Order] = []
        match step:
            case "join" if node not in one.members | one.guests:
                one.join(node, PieceSet(PIECES), ZONES[node])
            case "leave":
                one.leave(node)
                orders = one.dealer_gone(node)[1]
            case "finish" if node in one.members | one.guests:
                one.finished(node)
            case "lost":
                one.leave_out(node)
                orders = one.dealer_gone(node)[1]
            case "heard":
                one.take_back(node)
            case "epoch" | "invite":
                for newcomer in one.waiting:
                    came.setdefault(newcomer, number)
                if step == "invite":
                    orders = one.invite()
                else:
                    shares = next_epoch(one)
                    orders = [order for share in shares for order in one.began(share.ring.epoch, range(PIECES))]
            case "lack":
                orders = one.lacking(node, [0, 5])
        for order in orders:
            if order.dealer not in one.done | {TRACKER}:
                assert order.dealer in one.members | one.guests
                assert all(came[order.dealer] < came[member] for member in order.ring.members)
