"""Who fetches what of a blob whose tracker is gone: everything once, and soon what somebody doesn't bring."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pdist.agent.stripes import LATE_SECONDS, Stripes
from p2pdist.core.pieces import PieceLayout, PieceSet

MIB = 1 << 20


class _Members:
    """Members that fetch in turn, one gap each, and tell each other at once; the `dead` do nothing."""

    def __init__(self, size_bytes: int, count: int, dead: set[int], leaves: int = 0) -> None:
        self.layout = PieceLayout.for_size(size_bytes)
        self.pieces = PieceSet(self.layout.count)
        self.fetched = Counter[int]()
        self.now = 0.0
        self.pauses = 0
        names = [f"n{number}" for number in range(count)]
        beside = [f"leaf{number}" for number in range(leaves)]
        alive = [name for number, name in enumerate(names) if number not in dead] + beside
        self.stripes = [Stripes(self.layout, names, name, self.now) for name in alive]

    def go_on(self) -> bool:
        """One gap for each who has one; whether anybody had."""
        gaps = [gap for each in self.stripes for gap in (each.own(self.pieces), each.inherited(self.pieces)) if gap]
        for first, last in gaps:
            for index in range(first, last + 1):
                self.fetched[index] += 1
                self.pieces.add(index)
        for each in self.stripes:
            each.look(self.pieces, self.now, 0.0)
        return bool(gaps)

    def finish(self) -> None:
        while not self.pieces.complete:
            if not self.go_on():
                self.now += LATE_SECONDS
                self.pauses += 1
                for each in self.stripes:
                    each.look(self.pieces, self.now, 0.0)


@settings(deadline=None, max_examples=50)
@given(size_bytes=st.integers(1, 300 * MIB), count=st.integers(2, 60), held=st.integers(0, 100))
def test_everything_is_fetched_once(size_bytes: int, count: int, held: int) -> None:
    members = _Members(size_bytes, count, dead=set())
    for index in range(members.layout.count * held // 100):
        members.pieces.add(index)
    members.finish()
    assert set(members.fetched.values()) <= {1}
    assert members.pauses == 0


@settings(deadline=None, max_examples=50)
@given(data=st.data(), size_bytes=st.integers(1, 300 * MIB), count=st.integers(2, 60))
def test_what_the_dead_do_not_fetch_others_do(data: st.DataObject, size_bytes: int, count: int) -> None:
    dead = data.draw(st.sets(st.integers(0, count - 1), max_size=count - 1))
    members = _Members(size_bytes, count, dead)
    members.finish()
    assert members.pauses <= 5


def test_one_lost_member_costs_one_pause_and_few_copies() -> None:
    members = _Members(256 * MIB, 16, dead={3})
    members.finish()
    assert members.pauses == 1
    assert members.fetched.total() <= members.layout.count * (1 + 1 / 16)


def test_half_the_members_lost() -> None:
    members = _Members(256 * MIB, 16, dead=set(range(0, 16, 2)))
    members.finish()
    assert members.pauses <= 2
    assert members.fetched.total() <= 1.5 * members.layout.count


def test_who_stands_beside_the_ring_fetches_when_nobody_else_does() -> None:
    members = _Members(64 * MIB, 4, dead={0, 1, 2, 3}, leaves=1)
    assert not members.go_on()
    members.finish()
    assert members.pauses == 2


def test_bytes_come_without_a_gap_from_the_start() -> None:
    members = _Members(256 * MIB, 16, dead=set())
    members.go_on()
    assert members.pieces.first_missing == len(members.pieces) == members.layout.count // 8


def test_an_origin_that_gives_us_nothing_is_slow_and_nobody_late() -> None:
    layout = PieceLayout.for_size(64 * MIB)
    stripes = Stripes(layout, ["a", "b"], "a", 0.0)
    pieces = PieceSet(layout.count)
    for now in range(100):
        stripes.look(pieces, float(now), own_piece_seconds=float(now))
        assert stripes.inherited(pieces) is None
