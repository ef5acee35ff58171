"""How the parts of a blob that a client asks for are fetched from an origin: in slices, in the order of need. Pure.

Parts that lie close together are one request, since a gap of GAP_BYTES costs less than a request. A long part is cut,
so that a client that hangs up leaves little behind that was fetched in vain: the first slice of a run is short, each
further one twice as long, because who has read so much will read on.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from p2pdist.core.errors import InvalidInput
from p2pdist.http.ranges import ByteRange

GAP_BYTES = 32 * 1024
FIRST_SLICE_BYTES = 512 * 1024
MOST_SLICE_BYTES = 4 * 1024 * 1024
AHEAD_BYTES = 2 * 1024 * 1024
AHEAD_SLICES = 8


def _joined(parts: Sequence[ByteRange]) -> list[ByteRange]:
    """The runs that hold all parts, by position."""
    runs: list[ByteRange] = []
    for part in sorted(parts, key=lambda part: part.start):
        if runs and part.start <= runs[-1].end + GAP_BYTES:
            runs[-1] = ByteRange(runs[-1].start, max(runs[-1].end, part.end))
        else:
            runs.append(part)
    return runs


def _cut(run: ByteRange) -> Iterator[ByteRange]:
    start, length = run.start, FIRST_SLICE_BYTES
    while start < run.end:
        end = min(run.end, start + length)
        yield ByteRange(start, end)
        start, length = end, min(2 * length, MOST_SLICE_BYTES)


class Slices:
    """The slices that the `parts` of one request come to; every byte of a part is in exactly one."""

    def __init__(self, parts: Sequence[ByteRange]) -> None:
        self._by_position = [piece for run in _joined(parts) for piece in _cut(run)]
        self._starts = [piece.start for piece in self._by_position]
        self.wanted_bytes = sum(piece.length for piece in self._by_position)
        """What all of them come to, gaps included."""
        order: dict[int, None] = {}
        for part in parts:
            for position in range(self._position(part.start), self._position(part.end - 1) + 1):
                order.setdefault(position)
        self._order = list(order)
        self._places = {position: place for place, position in enumerate(self._order)}

    def _position(self, offset: int) -> int:
        return bisect_right(self._starts, offset) - 1

    def at(self, offset: int) -> ByteRange:
        """The slice that holds the byte at `offset`; raises `InvalidInput` when nobody asked for it."""
        position = self._position(offset)
        if position < 0 or offset >= self._by_position[position].end:
            raise InvalidInput(f"byte {offset} is in none of the parts that were asked for")
        return self._by_position[position]

    def needed_from(self, offset: int) -> Iterator[ByteRange]:
        """The slice that holds the byte at `offset`, and those that are worth fetching while it is sent.

        The next one always; more of them while they are small.
        """
        self.at(offset)
        place = self._places[self._position(offset)]
        ahead_bytes = 0
        for count, position in enumerate(self._order[place : place + AHEAD_SLICES]):
            piece = self._by_position[position]
            if count:
                ahead_bytes += piece.length
            if count > 1 and ahead_bytes > AHEAD_BYTES:
                return
            yield piece
