"""Who is dealt the next piece, against a reference that looks at everybody each time."""

import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pdist.relay.dealing import CREDIT_FLOOR_BYTES, CREDIT_PIECES, Deal, Dealings, Lane
from p2pdist.relay.spans import Ring

PIECE_BYTES = CREDIT_FLOOR_BYTES
NODES = "abcde"


def dealings(seed: int = 0, unable: set[tuple[int, str]] | None = None) -> Dealings:
    away = unable if unable is not None else set()
    return Dealings(random.Random(seed), lambda generation, node: (generation, node) not in away)


def drain(deals: Dealings) -> list[Deal]:
    found = []
    while (deal := deals.next()) is not None:
        found.append(deal)
    return found


@dataclass
class Plain:
    """What is dealt of one generation over one ring."""

    ring: Ring
    credit: dict[str, int]
    given: dict[str, int]
    ready: list[tuple[int, bool]] = field(default_factory=list)

    @classmethod
    def over(cls, ring: Ring) -> "Plain":
        return cls(ring, dict.fromkeys(ring.members, CREDIT_PIECES), dict.fromkeys(ring.members, 0))

    def replaced(self, ring: Ring) -> "Plain":
        new = Plain.over(ring)
        least = min((self.given[node] for node in ring.members if node in self.given), default=0)
        new.given = {node: self.given.get(node, least) for node in ring.members}
        new.credit |= {node: credit for node, credit in self.credit.items() if node in new.credit}
        new.ready = self.ready
        return new

    def best(self, able: set[str]) -> set[str]:
        """Of the roots that have credit: those with most, and of these those that were dealt least."""
        can = [node for node, credit in self.credit.items() if credit > 0 and node in able]
        if not can:
            return set()
        first = min((-self.credit[node], self.given[node]) for node in can)
        return {node for node in can if (-self.credit[node], self.given[node]) == first}


GENERATION = st.integers(1, 2)
STEP = st.one_of(
    st.tuples(st.just("queue"), GENERATION, st.integers(0, 99), st.booleans()),
    st.tuples(st.just("next"), st.just(0), st.just(0), st.just(False)),
    st.tuples(st.just("credit"), GENERATION, st.sampled_from(NODES), st.booleans()),
    st.tuples(st.just("able"), GENERATION, st.sampled_from(NODES), st.booleans()),
    st.tuples(st.just("ring"), GENERATION, st.sets(st.sampled_from(NODES), min_size=1), st.booleans()),
    st.tuples(st.just("stop"), GENERATION, st.just(0), st.booleans()),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(STEP, max_size=120), st.integers(0, 1 << 30))
def test_the_next_root_has_most_credit_and_then_was_dealt_least(
    steps: list[tuple[str, int, object, bool]], seed: int
) -> None:
    """A step may name the epoch that is in force or, with `True`, the first one of its line, which was replaced."""
    unable: set[tuple[int, str]] = set()
    tested = dealings(seed, unable)
    plain: dict[int, Plain] = {}
    first: dict[int, int] = {}
    epoch = 0
    for step, generation, what, flag in steps:
        current = plain.get(generation)
        named = 0
        if current is not None:
            named = first[generation] if flag else current.ring.epoch
        match step, what:
            case "ring", set(members):
                epoch += 1
                ring = Ring(epoch, sorted(members), "dealer")
                if current is None:
                    tested.start(generation, ring, PIECE_BYTES)
                    plain[generation], first[generation] = Plain.over(ring), epoch
                else:
                    tested.replace(generation, current.ring.epoch, ring, PIECE_BYTES)
                    plain[generation] = current.replaced(ring)
            case "queue", int(index):
                tested.queue(generation, named, index, flag)
                if current is not None:
                    current.ready.append((index, flag))
            case "credit", str(node):
                means_something = current is not None and node in current.credit
                assert tested.return_credit(generation, named, node) == means_something
                if current is not None and means_something:
                    current.credit[node] += 1
            case "able", str(node):
                (unable.discard if flag else unable.add)((generation, node))
            case "stop", _ if current is not None:
                tested.stop(generation, named)
                del plain[generation]
            case "next", _:
                possible = {
                    number: best
                    for number, each in plain.items()
                    if each.ready and (best := each.best({node for node in NODES if (number, node) not in unable}))
                }
                deal = tested.next()
                assert (deal is None) == (not possible)
                if deal is not None:
                    dealt = plain[deal.generation]
                    assert deal.root in possible[deal.generation]
                    assert (deal.index, deal.by_offer) == dealt.ready.pop(0)
                    assert deal.ring is dealt.ring
                    dealt.credit[deal.root] -= 1
                    dealt.given[deal.root] += 1
            case _:
                pass
        for number in (1, 2):
            waits = [index for index, _ in plain[number].ready] if number in plain else []
            assert tested.undealt(number) == len(waits)
            if number in plain:
                assert tested.waiting(number, plain[number].ring.epoch) == waits
                assert tested.ring(number, plain[number].ring.epoch) is plain[number].ring


@pytest.mark.parametrize(
    ("members", "piece_bytes", "credit"),
    [
        (1, CREDIT_FLOOR_BYTES, CREDIT_PIECES),
        (1, CREDIT_FLOOR_BYTES // 32, 32),
        (4, CREDIT_FLOOR_BYTES // 32, 8),
        (3, CREDIT_FLOOR_BYTES // 32, 11),
        (100, CREDIT_FLOOR_BYTES // 32, CREDIT_PIECES),
    ],
)
def test_credit_is_for_two_pieces_a_root_and_a_mebibyte_in_all(members: int, piece_bytes: int, credit: int) -> None:
    tested = dealings()
    tested.start(1, Ring(1, [f"n{number}" for number in range(members)], "dealer"), piece_bytes)
    for index in range(members * credit + 5):
        tested.queue(1, 1, index, False)
    dealt = Counter(deal.root for deal in drain(tested))
    assert dealt == {f"n{number}": credit for number in range(members)}
    assert tested.undealt(1) == 5
    assert tested.return_credit(1, 1, "n0")
    assert [deal.root for deal in drain(tested)] == ["n0"]


def test_dealings_take_turns_one_piece_each() -> None:
    tested = dealings()
    for generation, count in ((1, 40), (2, 3), (3, 3)):
        tested.start(generation, Ring(1, ["a"], "dealer"), CREDIT_FLOOR_BYTES // 64)
        for index in range(count):
            tested.queue(generation, 1, index, False)
    order = [deal.generation for deal in drain(tested)]
    assert [sorted(order[start : start + 3]) for start in (0, 3, 6)] == [[1, 2, 3]] * 3
    assert order[9:] == [1] * 37


def test_whoever_has_no_root_keeps_nobody_waiting() -> None:
    away = {(1, "a")}
    tested = dealings(unable=away)
    for generation in (1, 2):
        tested.start(generation, Ring(1, ["a"], "dealer"), PIECE_BYTES)
        tested.queue(generation, 1, 0, False)
    assert [deal.generation for deal in drain(tested)] == [2]
    away.clear()
    assert [deal.generation for deal in drain(tested)] == [1]


def test_a_slow_root_is_dealt_as_much_as_it_gives_credit_for() -> None:
    tested = dealings()
    tested.start(1, Ring(1, ["fast", "slow"], "dealer"), PIECE_BYTES)
    for index in range(100):
        tested.queue(1, 1, index, False)
    dealt: Counter[str] = Counter()
    owes: defaultdict[str, int] = defaultdict(int)
    for turn in range(60):
        for deal in drain(tested):
            dealt[deal.root] += 1
            owes[deal.root] += 1
        for root, every in (("fast", 1), ("slow", 4)):
            if turn % every == 0 and owes[root]:
                owes[root] -= 1
                assert tested.return_credit(1, 1, root)
    assert dealt["fast"] > 3 * dealt["slow"] > 0


def test_a_member_that_is_new_is_not_dealt_everything() -> None:
    tested = dealings()
    tested.start(1, Ring(1, ["a", "b"], "dealer"), PIECE_BYTES)
    for index in range(20):
        tested.queue(1, 1, index, False)
        for deal in drain(tested):
            tested.return_credit(1, 1, deal.root)
    tested.replace(1, 1, Ring(2, ["a", "b", "new"], "dealer"), PIECE_BYTES)
    dealt: Counter[str] = Counter()
    for index in range(30):
        tested.queue(1, 2, index, False)
        for deal in drain(tested):
            dealt[deal.root] += 1
            tested.return_credit(1, 2, deal.root)
    assert sorted(dealt.values()) == [10, 10, 10]


def test_what_was_replaced_or_stopped_is_not_dealt() -> None:
    tested = dealings()
    tested.start(1, Ring(1, ["a"], "dealer"), PIECE_BYTES)
    tested.queue(1, 1, 5, True)
    tested.replace(1, 1, Ring(2, ["b"], "dealer"), PIECE_BYTES)
    assert not tested.return_credit(1, 1, "a")
    tested.queue(1, 1, 6, False)
    assert [(deal.root, deal.index, deal.by_offer) for deal in drain(tested)] == [("b", 5, True), ("b", 6, False)]
    tested.queue(1, 2, 7, False)
    tested.stop(1, 1)
    tested.queue(1, 2, 8, False)
    assert drain(tested) == []
    assert tested.undealt(1) == 0
    assert tested.ring(1, 2) is None
    assert not tested.return_credit(1, 2, "b")


def test_a_generation_that_is_closed_is_forgotten() -> None:
    tested = dealings()
    for generation in (1, 2):
        tested.start(generation, Ring(1, ["a"], "dealer"), PIECE_BYTES)
        tested.replace(generation, 1, Ring(2, ["a"], "dealer"), PIECE_BYTES)
        tested.start(generation, Ring(3, ["a"], "dealer"), PIECE_BYTES)
        for epoch in (1, 3):
            tested.queue(generation, epoch, epoch, False)
    tested.close(1)
    assert (tested.undealt(1), tested.undealt(2)) == (0, 2)
    assert {deal.generation for deal in drain(tested)} == {2}
    tested.queue(1, 1, 0, False)
    assert drain(tested) == []


# Lanes.


@given(st.integers(1, 40), st.integers(1, 40))
def test_lanes_share_the_roots_out(members: int, lanes: int) -> None:
    ring = Ring(1, [f"n{number:02}" for number in range(members)], "dealer")
    roots = [Lane(number, lanes).roots(ring) for number in range(lanes)]
    if lanes <= members:
        assert sorted(node for each in roots for node in each) == sorted(ring.members)
        assert max(map(len, roots)) - min(map(len, roots)) <= 1
    else:
        # Each dealer has one root, and no member is the root of many more dealers than another.
        assert {len(each) for each in roots} == {1}
        busy = Counter(node for each in roots for node in each)
        assert len(busy) == members
        assert max(busy.values()) - min(busy.values()) <= 1


def test_no_roots_without_members() -> None:
    assert Lane(3, 5).roots(Ring(1, (), "dealer")) == ()


def test_a_dealer_deals_to_its_lane_and_to_others_when_nobody_in_it_can_be_reached() -> None:
    away = set[tuple[int, str]]()
    tested = dealings(unable=away)
    ring = Ring(1, ["a", "b", "c", "d"], "dealer")
    tested.start(1, ring, PIECE_BYTES, Lane(1, 2))
    for index in range(20):
        tested.queue(1, 1, index, False)
    assert Counter(deal.root for deal in drain(tested)) == {"b": CREDIT_PIECES, "d": CREDIT_PIECES}
    # Nobody else is dealt to while one of them only lacks credit.
    away.add((1, "b"))
    assert drain(tested) == []
    away.add((1, "d"))
    assert Counter(deal.root for deal in drain(tested)) == {"a": CREDIT_PIECES}
    assert tested.return_credit(1, 1, "a")
    assert [deal.root for deal in drain(tested)] == ["a"]
    # A stand-in that goes too is stood in for.
    away.add((1, "a"))
    assert Counter(deal.root for deal in drain(tested)) == {"c": CREDIT_PIECES}
    away.clear()
    assert tested.return_credit(1, 1, "d")
    assert [deal.root for deal in drain(tested)] == ["d"]


def test_a_lane_moves_with_the_ring() -> None:
    tested = dealings()
    tested.start(1, Ring(1, ["a", "b"], "dealer"), PIECE_BYTES, Lane(0, 2))
    for index in range(9):
        tested.queue(1, 1, index, False)
    assert {deal.root for deal in drain(tested)} == {"a"}
    tested.replace(1, 1, Ring(2, ["a", "b", "c", "d"], "dealer"), PIECE_BYTES, Lane(0, 2))
    assert Counter(deal.root for deal in drain(tested)) == {"c": CREDIT_PIECES}
    assert tested.return_credit(1, 1, "a")
    assert [deal.root for deal in drain(tested)] == ["a"]
    assert not tested.return_credit(1, 2, "b")
