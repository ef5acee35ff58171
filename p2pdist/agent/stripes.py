"""Who fetches what when a fleet has lost its tracker and the origin must give the rest of a blob. Pure.

Every member knows the ring of its last epoch, so all agree, without a word, on who is to fetch what. The blob is cut
into *segments*, dealt round the ring like cards: the member of rank c has the segments c, c + N, c + 2N..., its
*column*. All members begin at the front at once, so bytes without a gap go on coming to every reader, at the sum of
what all of them get from the origin. What a member fetched it passes on, as the root of those pieces, over the ring
that the tracker had made; so the origin gives about one copy.

A member may be gone, or slow, or its way to the origin shut. That shows at the *front*: the first piece that is
missing doesn't come, while others do. When the front stands for a while, every column that lacks something in the
front's row is *late*, and others help with it from then on: two members a segment, drawn by its number; when the front
stands again, eight, then thirty-two, until everybody is asked. So one lost member costs one pause of a second and a
half, and about nothing in copies; a fleet of which nobody is left costs the last member a few such pauses. A member
whose own fetch brings nothing blames nobody: then it is the origin that is slow.
"""

import zlib
from collections.abc import Iterable, Sequence

from p2pdist.core.pieces import PieceLayout, PieceSet

LATE_SECONDS = 1.5
SLOW_PIECES = 4
FIRST_HEIRS = 2
MORE_HEIRS_BITS = 2
SEGMENTS_A_MEMBER = 8
LEAST_SEGMENT_BYTES = 256 * 1024
MOST_SEGMENT_BYTES = 8 * 1024 * 1024


class Stripes:
    """The segments of one blob as `me` sees them; `members` stand on the ring, in its order.

    Who stands beside the ring has no column, and helps when everybody is asked.
    """

    def __init__(self, layout: PieceLayout, members: Sequence[str], me: str, now: float) -> None:
        self._layout = layout
        self._count = len(members)
        self._rank = members.index(me) if me in members else None
        wanted = layout.size_bytes // (SEGMENTS_A_MEMBER * self._count)
        segment_bytes = min(max(wanted, LEAST_SEGMENT_BYTES), MOST_SEGMENT_BYTES)
        self._segment_pieces = max(1, segment_bytes // layout.piece_bytes)
        self._segments = -(-layout.count // self._segment_pieces)
        self._lateness = [0] * self._count
        self._front = (-1, now)

    def own(self, pieces: PieceSet) -> tuple[int, int] | None:
        """First and last piece to fetch next of this member's column."""
        if self._rank is None:
            return None
        return self._first_gap(pieces, range(self._rank, self._segments, self._count))

    def inherited(self, pieces: PieceSet) -> tuple[int, int] | None:
        """First and last piece to fetch next of late columns of others."""
        late = (segment for segment in range(self._segments) if self._is_heir(segment))
        return self._first_gap(pieces, late)

    def look(self, pieces: PieceSet, now: float, own_piece_seconds: float) -> None:
        """Find out who is late; a piece of this member's own takes `own_piece_seconds`, or longer, from the origin."""
        front, since = self._front
        if pieces.first_missing != front:
            self._front = pieces.first_missing, now
            return
        if now - since < max(LATE_SECONDS, SLOW_PIECES * own_piece_seconds):
            return
        self._front = front, now
        row = front // self._segment_pieces // self._count
        for segment in range(row * self._count, min((row + 1) * self._count, self._segments)):
            if self._gap(pieces, segment) is not None:
                self._lateness[segment % self._count] += 1

    def _is_heir(self, segment: int) -> bool:
        lateness = self._lateness[segment % self._count]
        if not lateness or segment % self._count == self._rank:
            return False
        heirs = FIRST_HEIRS << MORE_HEIRS_BITS * (lateness - 1)
        if self._rank is None:
            return heirs >= self._count
        first = zlib.crc32(segment.to_bytes(4, "big"))
        return (self._rank - first) % self._count < heirs

    def _first_gap(self, pieces: PieceSet, segments: Iterable[int]) -> tuple[int, int] | None:
        return next((gap for segment in segments if (gap := self._gap(pieces, segment)) is not None), None)

    def _gap(self, pieces: PieceSet, segment: int) -> tuple[int, int] | None:
        """The first and the last piece that a segment lacks."""
        first = pieces.first_missing_from(segment * self._segment_pieces)
        end = min((segment + 1) * self._segment_pieces, self._layout.count)
        if first >= end:
            return None
        last = next(index for index in range(end - 1, first - 1, -1) if index not in pieces)
        return first, last
