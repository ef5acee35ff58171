"""Who may stay: leases that are granted, renewed by any sign of life, and ended.

A lease outlives a broken connection, so that an agent that comes back within it keeps its slot. It ends by a farewell,
by silence, or because an operator revoked the agent. What else must happen when an agent is gone is told by `on_gone`.
"""

from collections.abc import Callable
from pathlib import Path

import trio

from p2pdist.core.errors import P2PDistError
from p2pdist.pki import revocations
from p2pdist.telemetry.logging import get_logger
from p2pdist.telemetry.metrics import TrackerMetrics
from p2pdist.tracker.fleet import Agent, Fleet
from p2pdist.tracker.lines import Line, Lines
from p2pdist.tracker.table import TableSpread
from p2pdist.wire.messages import Endpoint, Hello

_CHECKS_A_LEASE = 10
_REVOCATION_CHECKS_A_LEASE = 3
log = get_logger("tracker.leases")


class Leases:
    """The leases of one tracker. `on_gone(node)`: a node's connection broke or its lease ended."""

    def __init__(
        self, fleet: Fleet, lines: Lines, table: TableSpread, metrics: TrackerMetrics, on_gone: Callable[[str], None]
    ) -> None:
        self._fleet = fleet
        self._lines = lines
        self._table = table
        self._metrics = metrics
        self._on_gone = on_gone

    @property
    def seconds(self) -> float:
        """How long a lease lasts without a sign of life."""
        return self._fleet.lease_seconds

    def grant(self, hello: Hello, relay: Endpoint, swarm: Endpoint) -> tuple[Agent, Line]:
        """A lease for the agent that says hello, and the line to it; an older connection of the same node is cut."""
        line, replaced = self._lines.open(hello.node)
        if replaced:
            self._on_gone(hello.node)
        agent, change = self._fleet.register(hello.node, hello.name, hello.zone, relay, swarm, trio.current_time())
        self._metrics.registrations.inc()
        self._table.change(change)
        return agent, line

    async def known(self) -> None:
        """Wait until everybody is told of the leases so far; our relay takes no connection of others."""
        await self._table.settled()

    def renew(self, node: str) -> None:
        """The node gave a sign of life."""
        self._fleet.renew(node, trio.current_time())

    def disconnected(self, line: Line, farewell: bool) -> None:
        """A connection has ended; the lease goes on unless the agent said goodbye."""
        if not self._lines.close(line):
            return
        if farewell:
            self._end(line.node)
        else:
            self._fleet.disconnected(line.node)
            self._on_gone(line.node)

    def _end(self, node: str) -> None:
        self._on_gone(node)
        self._table.change(self._fleet.remove(node))

    async def watch(self) -> None:
        """End the leases of those who gave no sign of life.

        When this process itself stood still, what they said is still unread; so they get another lease.
        """
        pause = self.seconds / _CHECKS_A_LEASE
        while True:
            before = trio.current_time()
            await trio.sleep(pause)
            now = trio.current_time()
            if now - before > pause + self.seconds / 2:
                log.warning("tracker_stood_still", seconds=round(now - before, 2))
                self._fleet.renew_all(now)
            for node in self._fleet.expired(now):
                log.warning("lease_lost", node=node)
                self._metrics.leases_lost.inc()
                self._lines.cut(node)
                self._end(node)

    async def watch_revocations(self, database: Path) -> None:
        """Shut out agents that were revoked while their lease held."""
        while True:
            await trio.sleep(self.seconds / _REVOCATION_CHECKS_A_LEASE)
            try:
                revoked = await trio.to_thread.run_sync(revocations.listed, database)
            except P2PDistError as error:
                log.error("revocations_unreadable", database=database, reason=str(error))
                continue
            for node in revoked:
                if self._fleet.get(node) is not None:
                    log.warning("agent_shut_out", node=node, reason="it was revoked")
                    self._lines.part(node, f"agent {node} was revoked", final=True)
                    self._end(node)
