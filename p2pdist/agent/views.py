"""Blobs as the shim reads them (`BlobView`): one that is here, one that is being pulled, parts of one nobody pulls."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import trio

from p2pdist.agent.arrival import READER_SECONDS, Arrival, run_bytes
from p2pdist.agent.content import BlobView
from p2pdist.agent.passage import Passage, Passages, Source
from p2pdist.agent.slices import Slices
from p2pdist.core.errors import P2PDistError
from p2pdist.http.ranges import ByteRange
from p2pdist.store import CommittedBlob, PartialBlob
from p2pdist.store.errors import BlobDiscarded

PROBE_BYTES = 8 * 1024 * 1024
"""How much somebody takes from some byte on, without saying how far, before it counts as wanting all the rest."""
AHEAD_SECONDS = 2.0
"""How long parts that are asked for are waited for while the whole blob arrives, before they are passed through."""


class Whole:
    """A committed blob as a view."""

    committed = True

    def __init__(self, blob: CommittedBlob) -> None:
        self.size_bytes = blob.size_bytes
        self.fd = blob.fd

    async def available(self, offset: int) -> int:
        """All of it."""
        return self.size_bytes


class Growing:
    """A blob that is being pulled as a view: its last piece shows when its digest held.

    The first bytes show at once; those after them by runs, or after a moment, since every look costs. The file is held
    open in `stack`, from the first look on that finds it.
    """

    def __init__(self, pull: Arrival, stack: AsyncExitStack) -> None:
        self._pull = pull
        self._stack = stack
        self._partial: PartialBlob | None = None
        self._told: int | None = None
        self.fd = -1

    def _found(self) -> PartialBlob | None:
        """The file, if the pull has got as far; raises `BlobDiscarded` when it is gone again already."""
        if self._partial is None and self._pull.partial is not None:
            self.fd = self._stack.enter_context(self._pull.partial.held())
            self._partial = self._pull.partial
        return self._partial

    async def begun(self) -> PartialBlob:
        """Wait until the size is known; raises what failed the pull, `BlobDiscarded` when all was over meanwhile."""
        pull = self._pull
        while pull.partial is None and not pull.done:
            await pull.news.wait()
        if pull.error is not None:
            raise pull.error
        partial = self._found()
        if partial is None:
            raise BlobDiscarded(f"{pull.wanted.digest} came and went")
        return partial

    @property
    def failed(self) -> bool:
        """Whether the pull has failed."""
        return self._pull.error is not None

    @property
    def size_bytes(self) -> int:
        """The size, once `begun` has returned."""
        assert self._partial is not None
        return self._partial.layout.size_bytes

    @property
    def committed(self) -> bool:
        """Whether the digest held; the record of it may still be on its way to the disk."""
        return self._partial is not None and self._partial.verified

    def _shown(self, partial: PartialBlob, offset: int) -> int:
        """Where what may be shown from `offset` on ends now."""
        if partial.verified:
            return partial.layout.size_bytes
        return min(partial.available_from(offset), _before_last(partial))

    def ready(self, offset: int) -> int:
        """Like `available`, without waiting: `offset` itself when nothing is there. Raises `BlobDiscarded`."""
        partial = self._found()
        if partial is None or (self.failed and not partial.verified):
            return offset
        return max(offset, self._shown(partial, offset))

    async def available(self, offset: int) -> int:
        """See `BlobView`. A pull that has failed shows nothing more, whatever has come: its bytes may be wrong."""
        pull, partial = self._pull, await self.begun()
        fresh = self._told is None or offset < self._told
        run_end = min(offset + run_bytes(self.size_bytes), max(_before_last(partial), offset + 1))
        goal = offset + 1 if fresh else run_end
        with pull.reading(offset, goal):
            waited = False
            while True:
                if partial.verified:
                    return self.size_bytes
                if pull.error is not None:
                    raise pull.error
                end = self._shown(partial, offset)
                if end >= goal or (waited and end > offset):
                    self._told = end
                    return end
                with trio.move_on_after(READER_SECONDS) as moment:
                    await pull.progress.wait()
                waited = waited or moment.cancelled_caught


def _before_last(partial: PartialBlob) -> int:
    """Where the last piece begins, which shows only when the digest held."""
    return max(0, partial.layout.offset(partial.layout.count - 1))


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for: `parts` of a blob; `open_ended` when it doesn't say how far it will read."""

    source: Source
    size_bytes: int
    parts: tuple[ByteRange, ...]
    open_ended: bool

    @property
    def wanted_bytes(self) -> int:
        """How much of the blob it certainly reads."""
        return 1 if self.open_ended else Slices(self.parts).wanted_bytes


class Parts:
    """Parts of a blob as a view, from the origin by `passages` for as long as they allow it, else from a pull.

    `join` makes the request one of those who read from a pull, which begins if need be (None: the one that is under way
    isn't for whoever asks); `whole` waits for a view of
    the whole blob. `pull` is one that is under way, which gives what it has, and is waited for a moment.
    Whoever asks open-ended has the blob pulled once he took PROBE_BYTES, and from then on reads from the pull when it
    gets to him in time.
    """

    committed = False

    def __init__(
        self,
        asked: Asked,
        passages: Passages,
        stack: AsyncExitStack,
        join: Callable[[], Growing | None],
        whole: Callable[[], Awaitable[BlobView]],
        pull: Growing | None = None,
    ) -> None:
        self.size_bytes = asked.size_bytes
        self.fd = -1
        self._asked = asked
        self._slices = Slices(asked.parts)
        self._passages = passages
        self._stack = stack
        self._join = join
        self._whole = whole
        self._pull = pull
        self._patient = pull is not None
        self._passage: Passage | None = None
        self._may_pass = True
        self._view: BlobView | None = None

    async def available(self, offset: int) -> int:
        """See `BlobView`."""
        end = self._from_pull(offset)
        if end is None and self._patient:
            end = await self._soon_from_pull(offset)
        if end is None and self._may_pass and self._passages.allows(self._asked.source, self.size_bytes):
            end = await self._from_origin(offset)
        if end is not None:
            return end
        if self._view is None:
            self._view = await self._whole()
        end = await self._view.available(offset)
        self.fd = self._view.fd
        return end

    def _from_pull(self, offset: int) -> int | None:
        """What a pull has here already. One that is over has left the whole blob, unless it failed."""
        if self._pull is None:
            return None
        try:
            end = self._pull.ready(offset)
        except BlobDiscarded:
            self._may_pass = self._may_pass and self._pull.failed
            self._pull = None
            return None
        self.fd = self._pull.fd
        return end if end > offset else None

    async def _soon_from_pull(self, offset: int) -> int | None:
        """What the pull that was under way brings within a moment; who has waited for it in vain doesn't again."""
        pull, self._patient = self._pull, False
        if pull is None:
            return None
        try:
            with trio.move_on_after(AHEAD_SECONDS):
                end = await pull.available(offset)
                self.fd, self._patient = pull.fd, True
                return end
        except P2PDistError:
            self._pull = None
        return None

    async def _from_origin(self, offset: int) -> int | None:
        try:
            if self._passage is None:
                opened = self._passages.opened(self._asked.source, self.size_bytes)
                self._passage = await self._stack.enter_async_context(opened)
            end = await self._passage.available(offset, self._slices)
        except P2PDistError as error:
            self._may_pass = False
            self._passages.failed(self._asked.source, self.size_bytes, error)
            return None
        self.fd = self._passage.fd
        if self._pull is None and self._asked.open_ended and end - self._asked.parts[0].start > PROBE_BYTES:
            self._pull, self._patient = self._join(), True
        return end
