"""Parts of a blob that nobody pulls whole, passed through: the origin's bytes, as the client itself would get them.

A part can't be checked: only the whole has a digest, and piece hashes exist once somebody fetched all of it. So what
is passed through is shown to whoever asked for just that part (who reads lazily checks by hashes of its own), and is
neither stored, nor passed on to other agents, nor counted as a piece. It goes through a file without a name, in the
store's directory, that lives as long as somebody reads: so it is sent like everything else, a client that takes it
slowly costs no memory, and requests for the same part at the same time share one fetch.

What is passed through costs the origin a copy for every host, which is what this program is there to avoid. So of one
blob no more than a share is (`Allowance`), and who wants more of it has it pulled whole.
"""

import os
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from p2pdist.agent.slices import Slices
from p2pdist.core.digest import Digest
from p2pdist.core.errors import P2PDistError, ProtocolError, Unavailable
from p2pdist.http.ranges import ByteRange
from p2pdist.oci.bearer import BearerToken
from p2pdist.oci.origin import OriginClient, RangesIgnored
from p2pdist.oci.rights import Asker, Place
from p2pdist.telemetry.logging import get_logger

PATIENCE_SECONDS = 4.0
"""How long an origin may bring nothing, or not answer at all, before another way is taken."""
SHUNNED_SECONDS = 60.0
"""For how long an origin isn't asked for parts after it didn't give one."""
SHARE = 0.5
_REMEMBERED_BLOBS = 4096
_FETCHES = 16
log = get_logger("agent.passage")


@dataclass(frozen=True, slots=True)
class Source:
    """Which blob, where, and with whose token; parts are shared by those who show the same."""

    upstream: str
    repository: str
    digest: Digest
    token: BearerToken | None = None

    @property
    def asker(self) -> Asker:
        """On whose behalf, and from where."""
        return Asker(Place(self.upstream, self.repository), self.token)


class Allowance:
    """How much of each blob may still be passed through: a SHARE of it in all, so that a host never costs the origin
    more than that on top of what a pull costs the whole fleet.
    """

    def __init__(self) -> None:
        self._taken: OrderedDict[Digest, int] = OrderedDict()

    def left_bytes(self, digest: Digest, size_bytes: int) -> int:
        """What is left of the share of a blob of `size_bytes`."""
        return max(0, int(size_bytes * SHARE) - self._taken.get(digest, 0))

    def take(self, digest: Digest, count: int) -> None:
        """`count` bytes more were passed through."""
        self._taken[digest] = self._taken.get(digest, 0) + count
        self._taken.move_to_end(digest)
        if len(self._taken) > _REMEMBERED_BLOBS:
            self._taken.popitem(last=False)


class _Slice:
    """A slice that is being fetched, or is here; `reached` is where the bytes that can be read end."""

    def __init__(self, span: ByteRange) -> None:
        self.span = span
        self.reached = span.start
        self.error: P2PDistError | None = None
        self.scope = trio.CancelScope()
        self.changed = trio.Event()

    @property
    def whole(self) -> bool:
        return self.reached == self.span.end

    def wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def beyond(self, offset: int) -> int:
        """Where what can be read from `offset` on ends; waits until that is beyond it."""
        while self.reached <= offset:
            if self.error is not None:
                raise self.error
            reached = self.reached
            with trio.move_on_after(PATIENCE_SECONDS):
                await self.changed.wait()
            if self.reached == reached and self.error is None:
                raise Unavailable(f"the origin brought nothing within {PATIENCE_SECONDS:g} s")
        return self.reached


class Passage:
    """One blob of which parts are passed through; made by `Passages`."""

    def __init__(
        self,
        source: Source,
        size_bytes: int,
        client: OriginClient,
        directory: Path,
        count: Callable[[int], None],
        nursery: trio.Nursery,
        places: trio.CapacityLimiter,
    ) -> None:
        self.readers = 0
        self._source = source
        self._size_bytes = size_bytes
        self._client = client
        self._count = count
        self._nursery = nursery
        self._places = places
        self._slices: dict[ByteRange, _Slice] = {}
        self._fetching = 0
        self._token = trio.lowlevel.current_trio_token()
        self.fd = _nameless_file(directory)

    async def available(self, offset: int, slices: Slices) -> int:
        """Where what can be read from `offset` on ends; fetches that and what is worth fetching with it.

        Raises what `OriginClient.blob` raises, and `Unavailable` when the origin takes too long.
        """
        for span in slices.needed_from(offset):
            if span not in self._slices:
                self._slices[span] = _Slice(span)
                self._fetching += 1
                self._nursery.start_soon(self._fetch, self._slices[span])
        return await self._slices[slices.at(offset)].beyond(offset)

    async def _fetch(self, piece: _Slice) -> None:
        """One slice. Whatever goes wrong with it is the matter of those who wait for it."""
        try:
            with piece.scope:
                async with self._places:
                    await self._receive(piece)
        except P2PDistError as error:
            piece.error = error
        except Exception as error:
            log.exception("passage_failed_by_bug", error, digest=self._source.digest)
            piece.error = Unavailable(f"a part of {self._source.digest} failed by a bug of the agent")
        finally:
            if not piece.whole:
                piece.error = piece.error or Unavailable(f"a part of {self._source.digest} was called off")
                self._slices.pop(piece.span, None)
            piece.wake()
            self._fetching -= 1
            await self.let_go()

    async def _receive(self, piece: _Slice) -> None:
        at = piece.span.start

        def came(reached: int, count: int) -> None:
            piece.reached = reached
            self._count(count)
            piece.wake()

        def sink(data: memoryview) -> None:
            nonlocal at
            _write(self.fd, data, at)
            at += len(data)
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(came, at, len(data))

        def on_size(size_bytes: int) -> None:
            if size_bytes != self._size_bytes:
                raise ProtocolError(
                    f"the origin gives {self._source.digest} {size_bytes} bytes, a manifest {self._size_bytes}"
                )

        source, span = self._source, piece.span
        await self._client.blob(
            source.repository, source.digest, sink, on_size=on_size, offset=span.start, end=span.end, exact=True
        )
        # Whatever the thread had the loop do has been done before its end was.

    def call_off(self) -> None:
        """Nobody reads any more."""
        for piece in self._slices.values():
            piece.scope.cancel()

    async def let_go(self) -> None:
        """Close the file when nobody needs it any more."""
        if self.readers == 0 and self._fetching == 0:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(os.close, self.fd)


class Passages:
    """All blobs of which parts are passed through; fetches run in `nursery`, files are made in `directory`."""

    def __init__(
        self,
        origin: Callable[[Asker], OriginClient | None],
        directory: Path,
        count: Callable[[int], None],
        nursery: trio.Nursery,
    ) -> None:
        self._origin = origin
        self._directory = directory
        self._count = count
        self._nursery = nursery
        self._places = trio.CapacityLimiter(_FETCHES)
        self._passages: dict[tuple[Source, int], Passage] = {}
        self._shunned: dict[str, float] = {}
        self._allowance = Allowance()

    def allows(self, source: Source, size_bytes: int, more_bytes: int = 1) -> bool:
        """Whether `more_bytes` of a blob of `size_bytes` may be passed through, and its origin is worth asking."""
        return (
            self._allowance.left_bytes(source.digest, size_bytes) >= more_bytes
            and trio.current_time() >= self._shunned.get(source.upstream, 0.0)
            and self._origin(source.asker) is not None
        )

    @asynccontextmanager
    async def opened(self, source: Source, size_bytes: int) -> AsyncIterator[Passage]:
        """The passage of a blob, shared by all who read at the same time.

        Raises `Unavailable` when no origin is known, or no file can be made.
        """
        key = source, size_bytes
        if key not in self._passages:
            self._passages[key] = self._begin(source, size_bytes)
        passage = self._passages[key]
        passage.readers += 1
        try:
            yield passage
        finally:
            passage.readers -= 1
            if passage.readers == 0:
                del self._passages[key]
                passage.call_off()
                await passage.let_go()

    def _begin(self, source: Source, size_bytes: int) -> Passage:
        client = self._origin(source.asker)
        if client is None:
            raise Unavailable(f"no origin is known for {source.upstream}")

        def count(count_bytes: int) -> None:
            self._allowance.take(source.digest, count_bytes)
            self._count(count_bytes)

        return Passage(source, size_bytes, client, self._directory, count, self._nursery, self._places)

    def failed(self, source: Source, size_bytes: int, error: P2PDistError) -> None:
        """The origin didn't give a part: of this blob nothing more is asked for, of others not for a while either if
        it is the origin that can't, rather than that it won't give this one.
        """
        log.warning("part_not_passed", digest=source.digest, upstream=source.upstream, reason=str(error))
        if isinstance(error, (Unavailable, RangesIgnored)):
            self._shunned[source.upstream] = trio.current_time() + SHUNNED_SECONDS
        else:
            self._allowance.take(source.digest, size_bytes)


def _nameless_file(directory: Path) -> int:
    """A descriptor of a file that is gone when it is closed."""
    try:
        fd, path = tempfile.mkstemp(prefix="part-", dir=directory)
        os.unlink(path)
    except OSError as error:
        raise Unavailable(f"can't make a file in {directory}: {error.strerror}") from error
    return fd


def _write(fd: int, data: memoryview, at: int) -> None:
    while data:
        try:
            count = os.pwrite(fd, data, at)
        except OSError as error:
            raise Unavailable(f"the store's disk takes no part of a blob: {error.strerror}") from error
        data, at = data[count:], at + count
