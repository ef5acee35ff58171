"""Holders that deal, guests that get everything by fills, and dealers that fall away."""

from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.core.pieces import PieceSet
from p2pdist.relay.dealing import EVERY_ROOT, Lane
from p2pdist.tracker.generation import FEWEST_HOLDERS, MOST_DEALERS, STRIPE_PIECES, Generation, Order, Share, Stage
from tests.unit.tracker.generations import PIECES, TRACKER, dealers, epoch, filled, generation, join, next_epoch

EVERYTHING = [*range(PIECES)]


def held_by(*holders: str, zone: str = "", pieces: int = PIECES) -> Generation:
    one = generation(pieces)
    for holder in holders:
        one.add_holder(holder, zone)
    return one


def names(letter: str, count: int) -> list[str]:
    return [f"{letter}{number}" for number in range(count)]


def lanes(dealt: list[Share] | list[Order]) -> list[Lane]:
    return sorted(each.lane for each in dealt)


def wanted(share: Share) -> set[int]:
    assert share.pieces is not None
    return {*share.pieces}


# Shares.


@given(st.integers(1, 40), st.integers(1, 300))
def test_the_stripes_of_holders_are_the_whole_blob(holders: int, pieces: int) -> None:
    one = held_by(*names("h", holders), pieces=pieces)
    join(one, "a", "b")
    shares = next_epoch(one)
    assert len(shares) == min(MOST_DEALERS, holders, -(-pieces // STRIPE_PIECES))
    assert len({share.ring.dealer for share in shares}) == len(shares)
    assert {share.ring.dealer for share in shares} <= one.holders
    assert Counter(index for share in shares for index in wanted(share)) == Counter(range(pieces))
    assert {share.ring.members for share in shares} == {("a", "b")}
    assert set(lanes(shares)) == {EVERY_ROOT}
    sizes = [len(wanted(share)) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_holders_in_another_zone_deal_to_roots_of_their_own() -> None:
    one = generation(10 * STRIPE_PIECES)
    for holder in ("h0", "h1", "h2"):
        one.add_holder(holder, "east")
    join(one, "a", "b", zone="west")
    shares = next_epoch(one)
    assert lanes(shares) == [Lane(number, 3) for number in range(3)]


def test_each_zone_is_dealt_by_its_own_holders_where_it_has_any() -> None:
    one = generation(10 * STRIPE_PIECES)
    for holder in ("h0", "h1"):
        one.add_holder(holder, "east")
    one.add_holder("h2", "west")
    join(one, "a", zone="east")
    join(one, "b", zone="west")
    join(one, "c", zone="north")
    found: defaultdict[str, set[str]] = defaultdict(set)
    for share in next_epoch(one):
        found[share.zone].add(share.ring.dealer)
    assert found == {"east": {"h0", "h1"}, "west": {"h2"}, "north": {"h0", "h1", "h2"}}


def test_a_share_keeps_its_dealer_and_its_pieces_when_somebody_comes() -> None:
    one = held_by("h0", "h1", pieces=4 * STRIPE_PIECES)
    join(one, "a", "b", "c")
    first = {share.number: (share.ring.dealer, wanted(share)) for share in next_epoch(one)}
    join(one, "d")
    second = next_epoch(one)
    assert {share.number: (share.ring.dealer, wanted(share)) for share in second} == first
    assert {share.ring.members for share in second} == {("a", "b", "c", "d")}
    # Each dealer says what it had dealt; the newcomer gets that, each piece once, from whoever has it.
    orders = [order for share in second for order in one.began(share.ring.epoch, sorted(wanted(share))[:3])]
    given_before = sorted(index for share in second for index in sorted(wanted(share))[:3])
    assert sorted(filled(orders)["d"]) == given_before
    assert filled(orders).keys() == {"d"}
    assert TRACKER not in dealers(orders)


# Guests.


def test_newcomers_are_guests_when_everything_was_dealt_or_holders_are_many() -> None:
    alone = held_by(*names("h", FEWEST_HOLDERS - 1))
    join(alone, "a")
    assert not alone.newcomers_are_guests
    one = held_by(*names("h", FEWEST_HOLDERS))
    join(one, *names("m", FEWEST_HOLDERS - 2), "a", "b")
    assert one.newcomers_are_guests
    join(one, "c")
    assert not one.newcomers_are_guests
    next_epoch(one)
    assert not one.newcomers_are_guests
    # Members who have finished hold the blob, and don't want it any more.
    one.finished("a")
    assert one.newcomers_are_guests
    late = generation()
    epoch(late, "a", "b", "c")
    join(late, "d")
    assert not late.newcomers_are_guests
    late.stage = Stage.DEALT
    assert late.newcomers_are_guests


HELD = st.frozensets(st.integers(0, PIECES - 1), max_size=PIECES)
ZONE = st.sampled_from(["", "east", "west"])


@given(
    st.dictionaries(st.sampled_from(names("g", 6)), st.tuples(HELD, ZONE), min_size=1),
    st.lists(ZONE, max_size=8),
    st.lists(ZONE, max_size=4),
)
def test_guests_are_filled_with_exactly_what_they_lack(
    guests: dict[str, tuple[frozenset[int], str]], holders: list[str], members: list[str]
) -> None:
    one = generation()
    zones = {f"h{number}": zone for number, zone in enumerate(holders)}
    for node, zone in zones.items():
        one.add_holder(node, zone)
    for number, zone in enumerate(members):
        zones[f"m{number}"] = zone
        join(one, f"m{number}", zone=zone)
    next_epoch(one)
    for node, (held, zone) in guests.items():
        one.join(node, PieceSet(PIECES, held), zone)
    orders = one.invite()
    told = {node: sorted(pieces) for node, pieces in filled(orders).items()}
    lacking = {node: [index for index in EVERYTHING if index not in held] for node, (held, _) in guests.items()}
    assert told == {node: pieces for node, pieces in lacking.items() if pieces}
    assert not one.waiting
    assert one.guests == guests.keys()
    assert one.guests <= one.took_part
    # Nobody else hears of them.
    assert {node for order in orders for node in order.ring.members} <= guests.keys()
    assert next_epoch(one) == []
    for order in orders:
        assert not order.by_offer
        (zone,) = {guests[node][1] for node in order.ring.members}
        near = [node for node in zones if zones[node] == zone]
        assert order.dealer in (near or zones or [TRACKER])


def test_with_many_holders_each_guest_has_a_ring_and_dealers_of_its_own() -> None:
    one = held_by(*names("h", 4), pieces=4 * STRIPE_PIECES)
    join(one, "a", "b")
    orders = one.invite()
    assert {order.ring.members for order in orders} == {("a",), ("b",)}
    for guest in "ab":
        own = [order for order in orders if order.ring.members == (guest,)]
        assert len(own) == len(dealers(own)) == 4
        assert lanes(own) == [Lane(number, 4) for number in range(4)]
    assert len({order.ring.epoch for order in orders}) == len(orders)


def test_with_few_holders_guests_share_a_ring_that_each_piece_enters_once() -> None:
    one = held_by("h0", "h1", "h2", pieces=4 * STRIPE_PIECES)
    join(one, "a", "b", "c", "d")
    orders = one.invite()
    assert {order.ring.members for order in orders} == {("a", "b", "c", "d")}
    assert sorted(index for order in orders for index in order.pieces) == [*range(4 * STRIPE_PIECES)]
    assert dealers(orders) == {"h0", "h1", "h2"}


def test_holders_of_another_zone_do_not_make_a_guest_stand_alone() -> None:
    """Each piece would cross the link between the zones once for everybody."""
    one = held_by(*names("h", 10), zone="east")
    join(one, "a", "b", zone="west")
    orders = one.invite()
    assert {order.ring.members for order in orders} == {("a", "b")}
    assert dealers(orders) <= {*names("h", 10)}


def test_where_whole_holders_are_enough_nobody_else_deals() -> None:
    one = held_by(*names("h", MOST_DEALERS), pieces=MOST_DEALERS * STRIPE_PIECES)
    join(one, *names("m", 40))
    next_epoch(one)
    join(one, "late")
    orders = one.invite()
    assert dealers(orders) == {*names("h", MOST_DEALERS)}


def test_a_guest_that_joins_the_ring_is_a_guest_no_more() -> None:
    one = held_by("h0", "h1")
    join(one, "a")
    one.invite()
    one.join("a", PieceSet(PIECES, [1]))
    (share, *_) = next_epoch(one)
    assert (one.guests, one.members, share.ring.members) == (set(), {"a"}, ("a",))


def test_done_and_deserted_count_guests_too() -> None:
    one = held_by("h0", "h1")
    assert one.deserted
    join(one, "a")
    one.invite()
    assert not one.deserted
    one.stage = Stage.DEALT
    assert not one.all_done
    one.finished("a")
    assert one.all_done
    assert not one.leave("a")
    assert one.deserted


# Dealers that fall away.


def test_a_share_goes_to_somebody_else_who_has_the_blob_by_offer() -> None:
    one = held_by("h0", "h1", pieces=2 * STRIPE_PIECES)
    join(one, "a", "b")
    shares = {share.ring.dealer: share for share in one.next_epoch(["a", "b"], {"": ["b"]})}
    lost = shares["h0"]
    (heir,), orders = one.dealer_gone("h0")
    assert orders == []
    assert (heir.ring.dealer, heir.ring.members, heir.ring.leaves) == ("h1", ("a",), ("b",))
    assert wanted(heir) == wanted(lost)
    assert heir.by_offer
    assert heir.number not in {share.number for share in shares.values()}
    assert heir.ring.epoch > lost.ring.epoch
    assert {share.ring.dealer for share in one.shares.values()} == {"h1"}
    # From now on members who have finished are as good as holders; those of the zone go first.
    one.finished("a")
    heirs, _ = one.dealer_gone("h1")
    assert {share.ring.dealer for share in heirs} == {"a"}
    assert Counter(index for share in heirs for index in wanted(share)) == Counter(range(2 * STRIPE_PIECES))


def test_the_heir_of_a_share_is_of_its_zone_if_possible() -> None:
    one = generation()
    for number in range(6):
        one.add_holder(f"far{number}", "west")
    for number in range(2):
        one.add_holder(f"near{number}", "east")
    join(one, "a", zone="east")
    (share, *_) = next_epoch(one)
    (heir, *_), _ = one.dealer_gone(share.ring.dealer)
    assert {share.ring.dealer, heir.ring.dealer} == {"near0", "near1"}


def test_the_tracker_is_nobodys_lost_dealer() -> None:
    one = generation()
    epoch(one, "a", "b")
    assert one.dealer_gone("a") == ([], [])
    assert [share.ring.dealer for share in one.shares.values()] == [TRACKER]


def owed(shares: list[Share], orders: list[Order], dealer: str) -> Counter[tuple[str, int]]:
    """What a dealer was to bring to whom."""
    found: Counter[tuple[str, int]] = Counter()
    for share in shares:
        if share.ring.dealer == dealer:
            found.update((node, index) for node in share.ring.members for index in wanted(share))
    for order in orders:
        if order.dealer == dealer:
            found.update((node, index) for node in order.ring.members for index in order.pieces)
    return found


@given(
    holders=st.integers(2, 20),
    members=st.integers(0, 5),
    guests=st.integers(0, 5),
    pieces=st.integers(1, 200),
    data=st.data(),
)
def test_nothing_is_lost_with_a_dealer(
    holders: int, members: int, guests: int, pieces: int, data: st.DataObject
) -> None:
    one = held_by(*names("h", holders), pieces=pieces)
    join(one, *names("m", members))
    next_epoch(one)
    join(one, *names("g", guests))
    orders = one.invite()
    wanting = names("m", members) + names("g", guests)
    for node in data.draw(st.lists(st.sampled_from(wanting), unique=True)) if wanting else []:
        one.finished(node)
    gone = data.draw(st.sampled_from(names("h", holders)))
    lost = owed([*one.shares.values()], orders, gone)
    shares, again = one.dealer_gone(gone)
    assert all(heir.by_offer for heir in shares)
    assert all(order.by_offer for order in again)
    assert gone not in one.holders | dealers(again) | {share.ring.dealer for share in one.shares.values()}
    replaced: Counter[tuple[str, int]] = Counter()
    for dealer in dealers(again) | {share.ring.dealer for share in shares}:
        replaced += owed(shares, again, dealer)
    assert TRACKER not in dealers(again)
    for (node, index), count in lost.items():
        if node in one.guests and node in one.done:
            continue
        assert replaced[node, index] == count
    assert one.dealer_gone(gone) == ([], [])


def test_fills_of_a_dealer_that_is_gone_are_dealt_by_those_who_came_before() -> None:
    one = generation()
    epoch(one, "a", "b")
    (order,) = epoch(one, "x", dealt=(0, 1))
    other = ({"a", "b"} - {order.dealer}).pop()
    one.leave(order.dealer)
    _, (again,) = one.dealer_gone(order.dealer)
    assert (again.dealer, again.pieces, again.ring.members, again.by_offer) == (other, (0, 1), ("x",), True)
    assert again.ring.epoch > order.ring.epoch
    one.leave(other)
    _, (last,) = one.dealer_gone(other)
    assert (last.dealer, last.pieces) == (TRACKER, (0, 1))


def test_who_has_left_or_finished_is_not_filled_anew() -> None:
    one = generation()
    epoch(one, "a", "b")
    (order,) = epoch(one, "x", "y", "z", dealt=(0, 1))
    one.leave("x")
    one.finished("y")
    one.leave(order.dealer)
    _, (again,) = one.dealer_gone(order.dealer)
    assert again.ring.members == ("z",)


def test_dealers_of_a_piece_are_those_whose_share_or_fill_it_is_in() -> None:
    one = held_by("h0", "h1", pieces=2 * STRIPE_PIECES)
    join(one, "a", "b")
    stripes = {share.ring.dealer: wanted(share) for share in next_epoch(one)}
    assert one.dealers_of("a", [min(stripes["h0"])]) == {"h0"}
    assert one.dealers_of("a", [min(stripes["h0"]), min(stripes["h1"])]) == {"h0", "h1"}
    assert one.dealers_of("stranger", [0, 1]) == set()
    orders = one.lacking("b", sorted(stripes["h0"]))
    assert one.dealers_of("b", sorted(stripes["h0"])) == {"h0"} | dealers(orders)
    dealt_by_tracker = generation()
    epoch(dealt_by_tracker, "a")
    assert dealt_by_tracker.dealers_of("a", [0]) == set()


# Silent members.


def test_a_silent_member_is_left_out_of_the_ring_until_it_is_heard() -> None:
    one = generation()
    epoch(one, "a", "b")
    assert one.leave_out("b")
    assert not one.leave_out("b")
    assert [share.ring.members for share in next_epoch(one)] == [("a",)]
    assert not one.deserted
    one.stage = Stage.DEALT
    one.finished("a")
    assert not one.all_done
    one.stage = Stage.DEALING
    assert one.take_back("b")
    assert not one.take_back("b")
    (share,) = next_epoch(one)
    assert share.ring.members == ("a", "b")
    # Nobody knows what it has by now: it is offered everything that was dealt.
    orders = one.began(share.ring.epoch, (0, 1, 2))
    assert filled(orders) == {"b": [0, 1, 2]}
    assert all(order.by_offer for order in orders)


def test_a_silent_guest_is_left_out_too() -> None:
    one = held_by("h0", "h1")
    join(one, "a")
    one.invite()
    assert one.leave_out("a")
    assert not one.guests
    assert one.take_back("a")
    orders = one.invite()
    assert filled(orders)["a"] == EVERYTHING or sorted(filled(orders)["a"]) == EVERYTHING
    assert all(order.by_offer for order in orders)


def test_who_is_done_or_has_no_part_is_not_left_out() -> None:
    one = generation()
    epoch(one, "a", "b")
    one.finished("a")
    assert not one.leave_out("a")
    assert not one.leave_out("stranger")
    assert not one.take_back("a")
    assert one.members == {"a", "b"}


def test_a_silent_member_that_leaves_or_finishes_keeps_nobody_waiting() -> None:
    for end in (Generation.leave, Generation.finished):
        one = generation()
        epoch(one, "a", "b")
        one.finished("a")
        one.leave_out("b")
        one.stage = Stage.DEALT
        assert not one.all_done
        end(one, "b")
        assert one.all_done


def test_who_is_back_comes_after_those_who_stayed() -> None:
    """Nobody waits for it any more, so they can fill it, and it fills none of them."""
    one = generation()
    epoch(one, "a", "b")
    one.leave_out("a")
    one.dealer_gone("a")
    one.take_back("a")
    assert dealers(epoch(one, dealt=(0,))) == {"b"}
    assert dealers(one.lacking("b", [1])) == {TRACKER}


@pytest.mark.parametrize("held", [(), (0, 2)])
def test_who_was_left_out_and_joins_by_itself_says_what_it_has(held: tuple[int, ...]) -> None:
    one = generation()
    epoch(one, "a", "b")
    one.leave_out("b")
    one.join("b", PieceSet(PIECES, held))
    assert not one.take_back("b")
    (share,) = next_epoch(one)
    orders = one.began(share.ring.epoch, (0, 1, 2))
    assert filled(orders) == {"b": [index for index in (0, 1, 2) if index not in held]}
    assert not any(order.by_offer for order in orders)


def test_a_silent_member_deals_nothing() -> None:
    one = generation()
    epoch(one, "a", "b")
    one.leave_out("a")
    one.dealer_gone("a")
    assert dealers(one.lacking("b", [1])) == {TRACKER}
    assert dealers(epoch(one, "c", dealt=(0,))) == {"b"}


def test_the_last_holders_share_is_not_given_to_a_member_that_lacks_it() -> None:
    one = generation()
    one.add_holder("h0")
    join(one, "a")
    next_epoch(one)
    shares, _ = one.dealer_gone("h0")
    assert {share.ring.dealer for share in shares} <= {TRACKER}
    assert dealers(one.lacking("a", [0])) == {TRACKER}
