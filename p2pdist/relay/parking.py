"""Frames that came before the word of the tracker that explains them, and generations that have ended.

Data and control travel on different connections, so a piece can overtake the news of its epoch. It waits here, within a
bound of bytes and time; then it is refused, and its parent hands the span to the heir. So do pieces that an agent
vouches for, while the tracker seems to be there: others may have noticed sooner that it is gone.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass

from p2pdist.relay.frames import OfferFrame, PieceFrame
from p2pdist.relay.session import Session

_MAX_BYTES = 8 * 1024 * 1024
_MAX_SECONDS = 2.0
_REMEMBERED = 1024
_FRAME_OVERHEAD_BYTES = 200


@dataclass(frozen=True, slots=True)
class Parked:
    """A frame and the connection that it came on."""

    session: Session
    frame: PieceFrame | OfferFrame
    data: bytes


class ParkingLot:
    """Frames of generations or epochs that aren't known yet, oldest first."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, Parked]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, parked: Parked, now: float) -> Iterator[Parked]:
        """Let a frame wait; gives those that have to go for it."""
        self._waiting.append((now, parked))
        self._bytes += len(parked.data) + _FRAME_OVERHEAD_BYTES
        return self.expired(now)

    def take(self, generation: int, epoch: int) -> list[Parked]:
        """The frames that this epoch explains, in the order in which they came."""
        taken: list[Parked] = []
        kept: deque[tuple[float, Parked]] = deque()
        for since, parked in self._waiting:
            if (parked.frame.generation, parked.frame.epoch) == (generation, epoch):
                taken.append(parked)
                self._bytes -= len(parked.data) + _FRAME_OVERHEAD_BYTES
            else:
                kept.append((since, parked))
        self._waiting = kept
        return taken

    def take_all(self) -> list[Parked]:
        """Every frame, in the order in which they came."""
        taken = [parked for _, parked in self._waiting]
        self._waiting.clear()
        self._bytes = 0
        return taken

    def expired(self, now: float) -> Iterator[Parked]:
        """Frames that waited too long, or beyond the bound; they are gone from here."""
        while self._waiting and (self._bytes > _MAX_BYTES or now - self._waiting[0][0] > _MAX_SECONDS):
            _, parked = self._waiting.popleft()
            self._bytes -= len(parked.data) + _FRAME_OVERHEAD_BYTES
            yield parked


class ClosedGenerations:
    """The last generations that this node was done with: late frames of theirs are acknowledged, not parked."""

    def __init__(self) -> None:
        self._closed: OrderedDict[int, None] = OrderedDict()

    def __contains__(self, generation: int) -> bool:
        return generation in self._closed

    def add(self, generation: int) -> None:
        """Remember that a generation has ended here."""
        self._closed[generation] = None
        while len(self._closed) > _REMEMBERED:
            self._closed.popitem(last=False)

    def discard(self, generation: int) -> None:
        """Take part again."""
        self._closed.pop(generation, None)
