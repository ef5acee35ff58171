"""When a silent peer counts as frozen. Pure: the clock is a parameter.

A peer that owes something and says nothing is pinged. The ping waits behind what is queued in front of it, so the wait
counts only from the moment that the ping has left this host; a peer behind a thin link isn't called frozen while bytes
drain towards it. A process that is stopped still has a kernel that takes bytes, which is why draining alone proves
nothing.
"""

from dataclasses import dataclass

SILENT_SECONDS = 0.25
FROZEN_SECONDS = 0.5
STUCK_SECONDS = 0.5


@dataclass(slots=True)
class Liveness:
    """What one connection has seen of its peer; times are of one monotonic clock, in seconds."""

    heard_at: float
    drained_at: float
    pinged_at: float | None = None
    _unsent_bytes: int = 0

    def heard(self, now: float) -> None:
        """Something was read from the peer."""
        self.heard_at = now
        self.pinged_at = None

    def owing_since(self, now: float) -> None:
        """The peer owes something from now on; earlier silence says nothing."""
        self.heard_at = self.drained_at = now
        self.pinged_at = None

    def wants_ping(self, now: float) -> bool:
        """Whether it is time to ask a silent peer for a sign of life."""
        return self.pinged_at is None and now - self.heard_at >= SILENT_SECONDS

    def pinged(self, now: float) -> None:
        """A ping was put behind what is queued."""
        self.pinged_at = self.drained_at = now

    def is_frozen(self, now: float, unsent_bytes: int) -> bool:
        """Whether the peer is to be given up; `unsent_bytes` is what is queued towards it, in us and in the kernel."""
        if self.pinged_at is None:
            return False
        if unsent_bytes and unsent_bytes != self._unsent_bytes:
            self._unsent_bytes = unsent_bytes
            self.drained_at = now
            return False
        self._unsent_bytes = unsent_bytes
        return now - self.drained_at >= (STUCK_SECONDS if unsent_bytes else FROZEN_SECONDS)
