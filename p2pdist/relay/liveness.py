"""When a silent peer counts as frozen. Pure: the clock is a parameter.

A peer that owes something and says nothing is pinged. The ping waits behind what was queued before it, so a peer behind
a thin link isn't called frozen while those bytes drain; once they are delivered, it has half a second to answer. What
is queued later doesn't matter: the kernel of a process that is stopped still takes megabytes, so that draining alone
proves nothing.
"""

from dataclasses import dataclass

SILENT_SECONDS = 0.25
FROZEN_SECONDS = 0.5
STUCK_SECONDS = 0.5


@dataclass(slots=True)
class Liveness:
    """What one connection has seen of its peer; times are of one monotonic clock, in seconds."""

    heard_at: float
    pinged_at: float | None = None
    _mark_bytes: int = 0
    _delivered_bytes: int = 0
    _moved_at: float = 0.0
    _delivered_at: float | None = None

    def heard(self, now: float) -> None:
        """Something was read from the peer."""
        self.heard_at = now
        self.pinged_at = None

    def owing_since(self, now: float) -> None:
        """The peer owes something from now on; earlier silence says nothing."""
        self.heard(now)

    def wants_ping(self, now: float) -> bool:
        """Whether it is time to ask a silent peer for a sign of life."""
        return self.pinged_at is None and now - self.heard_at >= SILENT_SECONDS

    def pinged(self, now: float, mark_bytes: int) -> None:
        """A ping was queued; it is delivered at the latest when `mark_bytes` of this connection are."""
        self.pinged_at = self._moved_at = now
        self._mark_bytes = mark_bytes
        self._delivered_at = None

    def is_frozen(self, now: float, delivered_bytes: int, idle: bool) -> bool:
        """Whether the peer is to be given up.

        `delivered_bytes`: what the peer's host has acknowledged of this connection; `idle`: nothing is on its way.
        """
        if self.pinged_at is None:
            return False
        if self._delivered_at is None and (idle or delivered_bytes >= self._mark_bytes):
            self._delivered_at = now
        if self._delivered_at is not None:
            return now - self._delivered_at >= FROZEN_SECONDS
        if delivered_bytes != self._delivered_bytes:
            self._delivered_bytes, self._moved_at = delivered_bytes, now
        return now - self._moved_at >= STUCK_SECONDS
