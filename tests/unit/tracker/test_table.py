"""Changes of the table: told at once, gathered when many come, never lost."""

import trio
import trio.testing

from p2pdist.tracker.fleet import Fleet
from p2pdist.tracker.lines import Line, Lines
from p2pdist.tracker.table import WINDOW_SECONDS, TableSpread
from p2pdist.wire.messages import Beat, Endpoint, Table
from tests.unit.tracker.bench import metrics

HERE = Endpoint("10.0.0.1", 1)


class Bench:
    def __init__(self) -> None:
        counts = metrics()
        self.fleet, self.lines, self.spread_nodes = Fleet(10), Lines(counts), 0
        self.table = TableSpread(self.fleet, self.lines, counts, self._nodes)
        self.line, _ = self.lines.open("listener")

    def _nodes(self) -> None:
        self.spread_nodes += 1

    def come(self, node: str, host: str = "10.0.0.1") -> None:
        _, change = self.fleet.register(node, node, "", Endpoint(host, 1), HERE, 0.0)
        self.table.change(change)

    def go(self, node: str) -> None:
        self.table.change(self.fleet.remove(node))

    def told(self) -> list[tuple[list[str], tuple[int, ...]]]:
        """Names that came and slots that went, message by message."""
        found: list[tuple[list[str], tuple[int, ...]]] = []
        while True:
            try:
                message = self.line.receive.receive_nowait()
            except trio.WouldBlock:
                return found
            assert isinstance(message, Table)
            found.append(([member.name for member in message.added], message.removed))

    def close(self) -> None:
        self.lines.close(self.line)


async def test_a_change_is_told_at_once_and_the_next_are_gathered(autojump_clock: trio.testing.MockClock) -> None:
    bench = Bench()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.table.run)
        bench.come("a")
        await bench.table.settled()
        assert bench.told() == [(["a"], ())]
        began = trio.current_time()
        for node in "bcd":
            bench.come(node)
        await bench.table.settled()
        assert trio.current_time() - began <= WINDOW_SECONDS
        assert bench.told() == [(["b", "c", "d"], ())]
        assert bench.spread_nodes == 2
        nursery.cancel_scope.cancel()
    bench.close()


async def test_flushing_nothing_loses_no_later_change(autojump_clock: trio.testing.MockClock) -> None:
    bench = Bench()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.table.run)
        await trio.testing.wait_all_tasks_blocked()
        bench.table.flush()
        bench.come("a")
        with trio.fail_after(1):
            await bench.table.settled()
        assert bench.told() == [(["a"], ())]
        nursery.cancel_scope.cancel()
    bench.close()


async def test_only_the_last_word_on_a_slot_is_told() -> None:
    bench = Bench()
    bench.come("a")
    bench.come("b")
    bench.table.flush()
    bench.told()
    bench.go("a")
    bench.come("x")
    bench.come("b", "10.0.0.9")
    bench.come("y")
    bench.go("y")
    bench.table.flush()
    assert bench.told() == [(["x", "b"], (2,))]
    bench.table.flush()
    assert bench.told() == []
    bench.close()


async def test_a_line_that_is_taken_over_is_cut_and_gone() -> None:
    lines = Lines(metrics())
    first, replaced = lines.open("a")
    assert not replaced
    second, replaced = lines.open("a")
    assert replaced
    assert first.scope.cancel_called
    assert not lines.close(first)
    lines.say("a", Beat())
    assert second.receive.receive_nowait() == Beat()
    lines.say("nobody", Beat())
    assert "a" in lines
    assert lines.close(second)
    assert "a" not in lines
    lines.part("a", "too late", final=True)
    assert lines.all() == []


async def test_a_full_line_is_cut_rather_than_waited_for() -> None:
    lines = Lines(metrics())
    line, _ = lines.open("a")
    send, receive = trio.open_memory_channel[Beat](1)
    full = Line("b", send, receive)  # type: ignore[arg-type]
    lines._lines["b"] = full
    lines.say("b", Beat())
    lines.say("b", Beat())
    assert full.scope.cancel_called
    assert not line.scope.cancel_called
    for one in (line, full):
        lines.close(one)
