"""How everybody learns who came and who went: changes of the table, spread in batches.

The first change goes out at once; what comes within the next 20 ms is one message, so that a fleet that comes back all
together costs messages by time, not by the square of its size.
"""

from collections.abc import Callable

import trio

from p2pdist.telemetry.metrics import TrackerMetrics
from p2pdist.tracker.fleet import Fleet, TableChange
from p2pdist.tracker.lines import Lines
from p2pdist.wire.messages import Table

WINDOW_SECONDS = 0.02


class TableSpread:
    """Changes that must be told. `on_nodes` is called when the relay's own view of the fleet must follow."""

    def __init__(self, fleet: Fleet, lines: Lines, metrics: TrackerMetrics, on_nodes: Callable[[], None]) -> None:
        self._fleet = fleet
        self._lines = lines
        self._metrics = metrics
        self._on_nodes = on_nodes
        self._changes: list[TableChange] = []
        self._changed = trio.Event()
        self._flushed = trio.Event()

    def change(self, change: TableChange) -> None:
        """Somebody came, went, or moved."""
        if change.added or change.removed:
            self._changes.append(change)
            self._changed.set()
            self._metrics.agents_leased.set(len(self._fleet))

    async def settled(self) -> None:
        """Wait until all changes so far were told, to the relay's thread too."""
        if self._changes:
            await self._flushed.wait()

    def flush(self) -> None:
        """Queue what has changed: whatever names a slot must come after it."""
        if not self._changes:
            return
        changes, self._changes = self._changes, []
        self._on_nodes()
        self._flushed.set()
        self._flushed = trio.Event()
        present = {agent.member.slot: agent.member for agent in self._fleet.agents()}
        touched = {member.slot for change in changes for member in change.added}
        gone = {slot for change in changes for slot in change.removed}
        table = Table(
            False,
            tuple(present[slot] for slot in sorted(touched) if slot in present),
            tuple(slot for slot in sorted(gone) if slot not in present),
        )
        if table.added or table.removed:
            for line in self._lines.all():
                self._lines.say(line.node, table)

    async def run(self) -> None:
        """Flush whenever something has changed, at most every `WINDOW_SECONDS`."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            self.flush()
            await trio.sleep(WINDOW_SECONDS)
