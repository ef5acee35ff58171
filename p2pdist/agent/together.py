"""A rescue by all members of a relay that has lost its tracker: each fetches its stripe, signs it and passes it on.

Who fetches what is in `stripes`. What this agent fetched goes to the file and, with a vouch of its own, to the others;
what they fetched comes by the relay, with theirs. Such pieces are provisional: nobody who saw the whole blob stands for
them, so when the blob's digest doesn't hold, those who vouched are believed no more (`Pull`), and the next pull of the
blob gets it otherwise. An enrolled liar costs one failed pull, never a wrong image.

Two fetches at most go on at once: one of the own column, and one of what others are late with, so that a long segment
of ours holds up nobody who waits for the front. When the tracker is back it ends the relay, and is asked again.
"""

import random
import time
from collections.abc import Callable

import trio

from p2pdist.agent.arrival import Arrival
from p2pdist.agent.relays import Membership
from p2pdist.agent.rescue import Source
from p2pdist.agent.stripes import Stripes
from p2pdist.core.errors import P2PDistError
from p2pdist.core.pieces import PieceSet, piece_hash
from p2pdist.pki.vouch import BlobContext
from p2pdist.relay.spans import Ring
from p2pdist.store import PartialBlob

JITTER_SECONDS_A_MEMBER = 0.002
MOST_JITTER_SECONDS = 2.0
HELPLESS_SECONDS = 10.0


class Together:
    """One agent's part in a rescue over `ring`; `run` is all of it."""

    def __init__(self, arrival: Arrival, membership: Membership, ring: Ring, source: Source) -> None:
        assert arrival.partial is not None
        self._arrival = arrival
        self._partial: PartialBlob = arrival.partial
        self._membership = membership
        self._ring = ring
        self._source = source
        layout, generation = self._partial.layout, membership.generation
        self._context = BlobContext(self._partial.digest, layout.size_bytes, layout.piece_bytes, generation)
        self._stripes = Stripes(layout, ring.members, arrival.means.relays.node, time.monotonic())
        self._own = _Pace()
        self._helping = False
        self._failure: P2PDistError | None = None
        self._ranges = True

    async def run(self) -> bool:
        """Returns when every piece is here or the tracker is back, which ends the relay; False when the origin gives no
        ranges, so that whoever lacks something must get it alone.

        Raises what the origin says when it gives us nothing, and nothing comes from others either.
        """
        partial, membership = self._partial, self._membership
        await trio.sleep(random.uniform(0, min(len(self._ring) * JITTER_SECONDS_A_MEMBER, MOST_JITTER_SECONDS)))
        present, moved_at = partial.present_bytes, time.monotonic()
        async with trio.open_nursery() as nursery:
            while self._ranges and not partial.complete and membership.ended is None:
                now, pieces = time.monotonic(), partial.pieces
                if partial.present_bytes != present:
                    present, moved_at = partial.present_bytes, now
                if self._failure is not None and now > moved_at + HELPLESS_SECONDS:
                    break
                self._stripes.look(pieces, now, self._own.piece_seconds(now))
                self._begin_what_is_due(nursery, pieces, now)
                await self._arrival.wait_a_moment()
            nursery.cancel_scope.cancel()
        if membership.failure is not None:
            raise membership.failure
        if self._failure is not None and not partial.complete and membership.ended is None:
            raise self._failure
        return self._ranges

    def _begin_what_is_due(self, nursery: trio.Nursery, pieces: PieceSet, now: float) -> None:
        if self._failure is not None:
            return
        if not self._own.running and (gap := self._stripes.own(pieces)) is not None:
            self._own.begin(now)
            nursery.start_soon(self._fetch_own, *gap)
        if not self._helping and (gap := self._stripes.inherited(pieces)) is not None:
            self._helping = True
            nursery.start_soon(self._fetch_late, *gap)

    async def _fetch_own(self, first: int, last: int) -> None:
        await self._fetch(first, last, lambda index, data: self._pass_on(index, data, by_offer=False))
        self._own.running = False
        self._arrival.wake()

    async def _fetch_late(self, first: int, last: int) -> None:
        """What others are late with, and may have by now; some have it."""
        await self._fetch(first, last, lambda index, data: self._pass_on(index, data, by_offer=True))
        self._helping = False
        self._arrival.wake()

    async def _fetch(self, first: int, last: int, on_piece: Callable[[int, bytearray], None]) -> None:
        try:
            fetched = await self._source.fetch(self._partial, first, last, on_piece)
        except P2PDistError as error:
            self._failure = error
        else:
            self._ranges = self._ranges and fetched.honours_ranges is not False

    def _pass_on(self, index: int, data: bytearray, *, by_offer: bool) -> None:
        """A piece that nobody had sent was written; in the worker thread that fetches."""
        if not by_offer:
            self._own.note(time.monotonic())
        means = self._arrival.means
        hashed = piece_hash(self._partial.layout, data)
        (vouch,) = means.signer.vouch(self._context, index, [hashed])
        means.relays.inject(self._membership, self._ring.epoch, [(index, hashed, vouch.encode())], by_offer)


class _Pace:
    """How fast the origin gives pieces of the own column."""

    def __init__(self) -> None:
        self.running = False
        self._pieces = 0
        self._seconds = 0.0
        self._since = 0.0

    def begin(self, now: float) -> None:
        """A fetch begins."""
        self.running, self._since = True, now

    def note(self, now: float) -> None:
        """A piece has come."""
        self._pieces += 1
        self._seconds += now - self._since
        self._since = now

    def piece_seconds(self, now: float) -> float:
        """How long a piece takes: on average, or longer, if the next one has been awaited for longer."""
        average = self._seconds / self._pieces if self._pieces else 0.0
        return max(average, now - self._since) if self.running else average
