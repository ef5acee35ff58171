"""The way to one node: its connection, or the attempt to get one. Owned by the relay's thread."""

from dataclasses import dataclass, field
from typing import NamedTuple

from p2pdist.relay.session import Session
from p2pdist.relay.transfer import Outgoing

_FIRST_BACKOFF_SECONDS = 0.2
_MAX_BACKOFF_SECONDS = 5.0
LATE_SECONDS = 0.75


class LinkKey(NamedTuple):
    """A node may have two links: a plain one, and one of mutual TLS for private blobs."""

    node: str
    secure: bool


@dataclass(slots=True)
class Link:
    """Where frames for a node go. Both ends may dial at once; the first connection that is ready sends."""

    key: LinkKey
    session: Session | None = None
    dialling: Session | None = None
    spares: list[Session] = field(default_factory=list)
    waiting: list[Outgoing | bytes] = field(default_factory=list)
    dialled_at: float = 0.0
    _backoff_seconds: float = 0.0
    _not_before: float = 0.0

    def may_dial(self, now: float) -> bool:
        """Whether the node may be tried again."""
        return now >= self._not_before

    def is_late(self, now: float) -> bool:
        """Whether an attempt takes so long that nothing should wait for it: a stopped process still has a kernel."""
        return self.dialling is not None and now - self.dialled_at >= LATE_SECONDS

    def failed(self, now: float) -> None:
        """An attempt failed: wait longer before the next."""
        self._backoff_seconds = min(max(_FIRST_BACKOFF_SECONDS, self._backoff_seconds * 2), _MAX_BACKOFF_SECONDS)
        self._not_before = now + self._backoff_seconds

    def reached(self) -> None:
        """A connection is there."""
        self._backoff_seconds = self._not_before = 0.0

    def drop_generation(self, generation: int) -> None:
        """Forget what waits of a generation."""
        self.waiting = [item for item in self.waiting if isinstance(item, bytes) or item.frame.generation != generation]

    def take_waiting(self) -> list[Outgoing | bytes]:
        """What waited for the connection."""
        waiting, self.waiting = self.waiting, []
        return waiting
