"""Zones: the tracker deals to its own, members there deal to the others; and latecomers that stand beside a ring."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from p2pdist.relay.dealing import Lane
from p2pdist.tracker.generation import (
    LATE_SHARE,
    MEMBERS_FOR_ONE_APART,
    MOST_DEALERS,
    STRIPE_PIECES,
    Generation,
    Share,
)
from tests.unit.tracker.generations import PIECES, TRACKER, dealers, filled, generation, join, next_epoch

HOME = "home"


def at_home(pieces: int = PIECES) -> Generation:
    one = generation(pieces)
    one.home = HOME
    return one


def of_zone(shares: list[Share], zone: str) -> list[Share]:
    return [share for share in shares if share.zone == zone]


def pieces_of(shares: list[Share]) -> Counter[int]:
    return Counter(index for share in shares for index in share.pieces or ())


@given(st.integers(1, 30), st.integers(1, 300))
def test_members_at_home_deal_each_piece_once_to_another_zone(members: int, pieces: int) -> None:
    one = at_home(pieces)
    names = [f"h{number}" for number in range(members)]
    join(one, *names, zone=HOME)
    join(one, "x", "y", zone="away")
    shares = next_epoch(one)
    (own,) = of_zone(shares, HOME)
    assert (own.ring.dealer, own.pieces, sorted(own.ring.members)) == (TRACKER, None, sorted(names))
    away = of_zone(shares, "away")
    assert len(away) == min(MOST_DEALERS, members, -(-pieces // STRIPE_PIECES))
    assert {share.ring.dealer for share in away} <= {*names}
    assert {share.ring.members for share in away} == {("x", "y")}
    assert pieces_of(away) == Counter(range(pieces))
    assert sorted(share.lane for share in away) == [Lane(number, len(away)) for number in range(len(away))]


def test_while_nobody_is_at_home_the_tracker_deals_to_the_others() -> None:
    one = at_home()
    join(one, "x", zone="away")
    join(one, "y", zone="far")
    assert {(share.zone, share.ring.dealer, share.pieces) for share in next_epoch(one)} == {
        ("away", TRACKER, None),
        ("far", TRACKER, None),
    }


def test_whoever_comes_home_deals_the_rest_to_the_others() -> None:
    one = at_home(4 * STRIPE_PIECES)
    join(one, "x", zone="away")
    (first,) = next_epoch(one)
    join(one, "h", zone=HOME)
    join(one, "y", zone="away")
    shares = next_epoch(one)
    (ended,) = of_zone(shares, "away")
    assert (ended.number, ended.ring.members) == (first.number, ())
    assert [share.ring.members for share in of_zone(shares, HOME)] == [("h",)]
    # The tracker says what it had dealt: the newcomer gets that by a fill, and both the rest from home.
    dealt = (0, 3, 5)
    heirs, orders = one.handed_over(ended.ring.epoch, dealt)
    assert {share.ring.dealer for share in heirs} == {"h"}
    assert {share.ring.members for share in heirs} == {("x", "y")}
    assert pieces_of(heirs) == Counter(set(range(4 * STRIPE_PIECES)) - {*dealt})
    assert {node: sorted(pieces) for node, pieces in filled(orders).items()} == {"y": [*dealt]}
    assert dealers(orders) == {"x"}
    # It happens once.
    assert one.handed_over(ended.ring.epoch, dealt) == ([], [])
    join(one, "g", zone=HOME)
    assert {share.zone for share in next_epoch(one)} == {HOME}


def test_an_epoch_that_hands_nothing_over_makes_no_shares() -> None:
    """A fleet without labels: every ring of the tracker's is of the zone "", and home is "" too."""
    one = generation()
    join(one, "a", "b")
    (share,) = next_epoch(one)
    assert one.handed_over(share.ring.epoch, ()) == ([], [])
    assert [*one.shares.values()] == [share]


def test_who_joins_while_a_zone_is_handed_over_is_on_its_next_ring() -> None:
    one = at_home()
    join(one, "x", zone="away")
    next_epoch(one)
    join(one, "h", zone=HOME)
    (ended,) = of_zone(next_epoch(one), "away")
    join(one, "y", zone="away")
    assert of_zone(next_epoch(one), "away") == []
    (heir,), orders = one.handed_over(ended.ring.epoch, (0, 1))
    assert heir.ring.members == ("x", "y")
    assert filled(orders) == {"y": [0, 1]}


def test_a_zone_that_was_left_while_it_is_handed_over_is_dealt_nothing() -> None:
    one = at_home()
    join(one, "x", zone="away")
    next_epoch(one)
    join(one, "h", zone=HOME)
    (ended,) = of_zone(next_epoch(one), "away")
    one.leave("x")
    assert one.handed_over(ended.ring.epoch, ()) == ([], [])


def test_holders_deal_wherever_home_is() -> None:
    one = at_home()
    one.add_holder("holder", "away")
    join(one, "h", zone=HOME)
    join(one, "x", zone="away")
    assert {share.ring.dealer for share in next_epoch(one)} == {"holder"}


def test_the_share_of_a_member_at_home_that_is_gone_is_dealt_by_another_or_the_tracker() -> None:
    one = at_home()
    join(one, "g", "h", zone=HOME)
    join(one, "x", zone="away")
    (share,) = of_zone(next_epoch(one), "away")[:1]
    gone = share.ring.dealer
    one.leave(gone)
    (heir,), _ = one.dealer_gone(gone)
    other = ({"g", "h"} - {gone}).pop()
    assert (heir.ring.dealer, heir.ring.members, heir.by_offer) == (other, ("x",), True)
    assert pieces_of([heir]) == pieces_of([share])
    one.leave(other)
    heirs, _ = one.dealer_gone(other)
    assert {each.ring.dealer for each in heirs} == {TRACKER}


# Apart.


def ring_of(members: int) -> Generation:
    one = generation()
    join(one, *(f"m{number:02}" for number in range(members)))
    next_epoch(one)
    return one


def epoch_of(one: Generation, dealt_share: float) -> Share:
    (share,) = one.next_epoch(sorted(one.members | one.waiting.keys()), dealt_share=dealt_share)
    return share


def test_few_latecomers_stand_beside_the_ring_and_are_filled() -> None:
    one = ring_of(2 * MEMBERS_FOR_ONE_APART)
    join(one, "x")
    share = epoch_of(one, LATE_SHARE)
    assert share.ring.leaves == ("x",)
    assert len(share.ring.members) == 2 * MEMBERS_FOR_ONE_APART
    assert filled(one.began(share.ring.epoch, (0, 1))) == {"x": [0, 1]}
    # It stays there when others come, however early they would be.
    join(one, *(f"y{number}" for number in range(5)))
    share = epoch_of(one, LATE_SHARE)
    assert share.ring.leaves == ("x",)


def test_many_latecomers_or_early_ones_are_on_the_ring() -> None:
    one = ring_of(MEMBERS_FOR_ONE_APART)
    join(one, "x", "y")
    assert epoch_of(one, LATE_SHARE).ring.leaves == ()
    early = ring_of(2 * MEMBERS_FOR_ONE_APART)
    join(early, "x")
    assert epoch_of(early, LATE_SHARE / 2).ring.leaves == ()


def test_nobody_stands_beside_a_ring_that_would_be_empty() -> None:
    one = generation()
    join(one, *(f"m{number}" for number in range(MEMBERS_FOR_ONE_APART)), zone="east")
    next_epoch(one)
    join(one, "x", zone="west")
    shares = one.next_epoch(sorted(one.members | one.waiting.keys()), dealt_share=0.5)
    assert [(share.zone, share.ring.members, share.ring.leaves) for share in shares] == [("west", ("x",), ())]


def test_who_left_is_apart_no_more() -> None:
    one = ring_of(2 * MEMBERS_FOR_ONE_APART)
    join(one, "x")
    epoch_of(one, LATE_SHARE)
    one.leave("x")
    assert not one.apart
    assert epoch_of(one, LATE_SHARE).ring.leaves == ()
