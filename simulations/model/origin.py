"""The origin of the model: a rate, and the batches in which the tracker signs and deals what comes from it."""

from collections import deque
from collections.abc import Callable

from p2pdist.tracker.supply import BATCH_SECONDS, STORE_BATCH
from simulations.model.blobs import Blob, HeldFile
from simulations.model.events import Events


class Origin:
    """Sends blobs to the tracker: those under way share its link piece by piece."""

    def __init__(self, events: Events, bytes_per_second: float) -> None:
        self._events = events
        self._bytes_per_second = bytes_per_second
        self._queue: deque[tuple[Blob, int, Callable[[int], None]]] = deque()
        self._busy = False
        self.sent_bytes = 0

    def send(self, blob: Blob, on_piece: Callable[[int], None]) -> None:
        """Send a blob piece by piece."""
        self._queue.append((blob, 0, on_piece))
        if not self._busy:
            self._send()

    def _send(self) -> None:
        self._busy = bool(self._queue)
        if self._busy:
            blob, index, on_piece = self._queue.popleft()
            size = blob.layout.length(index)
            self._events.after(size / self._bytes_per_second, self._sent, blob, index, size, on_piece)

    def _sent(self, blob: Blob, index: int, size: int, on_piece: Callable[[int], None]) -> None:
        self.sent_bytes += size
        if index + 1 < blob.layout.count:
            self._queue.append((blob, index + 1, on_piece))
        self._send()
        on_piece(index)


class Fetch:
    """A blob that comes from the origin: signed and dealt in batches, as `tracker.supply.Pipeline` does."""

    def __init__(self, events: Events, file: HeldFile, deal: Callable[[list[tuple[int, bytes, bytes]]], None]) -> None:
        self._events = events
        self._file = file
        self._deal = deal
        self._signed = 0

    def piece(self, index: int) -> None:
        """The next piece is here."""
        self._file.write_piece(index, b"")
        waiting = index + 1 - self._signed
        if waiting >= min(STORE_BATCH, 1 + self._signed) or self._file.pieces.complete:
            self._deal_unsigned()
        elif waiting == 1:
            self._events.after(BATCH_SECONDS, self._deal_stale, index)

    def _deal_stale(self, first: int) -> None:
        if self._signed == first:
            self._deal_unsigned()

    def _deal_unsigned(self) -> None:
        first, self._signed = self._signed, len(self._file.pieces)
        self._deal([(index, b"", b"") for index in range(first, self._signed)])
