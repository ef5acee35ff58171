"""Who lags behind its siblings, for how long."""

from collections import Counter

import pytest

from p2pdist.relay.lag import AGAIN_TICKS, LAG_TICKS, LagWatch, Queue


class Parent:
    """Sends pieces to children that take so many of them a tick."""

    def __init__(self) -> None:
        self.watch = LagWatch()
        self.queued: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()

    def run(self, ticks: int, takes: dict[str, float], sends: float) -> list[tuple[int, str]]:
        """Who is named at which tick while each child is sent `sends` pieces a tick and takes at most these."""
        named, sent, able = [], Counter[str](), Counter[str]()
        begun, had = Counter(self.queued), Counter(self.taken)
        for tick in range(1, ticks + 1):
            for node, rate in takes.items():
                sent[node] = int(tick * sends)
                able[node] = int(tick * rate)
                self.queued[node] = begun[node] + sent[node]
                self.taken[node] = min(self.queued[node], max(self.taken[node], had[node] + able[node]))
            named += [(tick, node) for node in self.tick(*takes)]
        return named

    def tick(self, *nodes: str) -> list[str]:
        return self.watch.tick({node: Queue(self.queued[node], self.queued[node] - self.taken[node]) for node in nodes})


@pytest.mark.parametrize("sends", [0.5, 1, 20])
def test_a_child_that_lags_is_named_whether_pieces_are_many_or_few(sends: float) -> None:
    named = Parent().run(60, {"a": sends, "b": sends, "slow": sends / 5}, sends)
    assert {node for _, node in named} == {"slow"}
    first, second = named[0][0], named[1][0]
    assert LAG_TICKS <= first <= 2 * LAG_TICKS
    assert second - first == AGAIN_TICKS


def test_a_burst_that_drains_is_not_a_lag() -> None:
    parent = Parent()
    for _ in range(5):
        parent.queued["c"] += 500
        for _ in range(LAG_TICKS):
            assert parent.tick("a", "b", "c") == []
            parent.taken["c"] += 50
        parent.taken["c"] = parent.queued["c"]


def test_when_all_wait_the_uplink_is_ours() -> None:
    assert Parent().run(60, {"a": 2, "b": 2, "c": 1}, 10) == []


def test_two_children_say_nothing() -> None:
    assert Parent().run(60, {"a": 10, "b": 1}, 10) == []


def test_a_child_that_is_gone_is_forgotten() -> None:
    parent = Parent()
    parent.run(LAG_TICKS, {"a": 1, "b": 1, "c": 0}, 1)
    parent.tick("a", "b")
    assert parent.run(LAG_TICKS - 1, {"a": 1, "b": 1, "c": 0}, 1) == []
