"""Bytes from the origin for a pull that neither relay nor swarm can finish: only what is missing, by range.

What is fetched here is vouched for by nobody. It goes to this host's own daemon, whose last bytes wait for the blob's
digest, and is passed on to nobody before that held; unless all members of a relay rescue it together (`together`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from p2pdist.core.digest import Digest
from p2pdist.core.errors import ProtocolError
from p2pdist.core.pieces import PieceSet
from p2pdist.oci.origin import FetchedBlob, OriginClient
from p2pdist.store import PartialBlob

WORTH_A_REQUEST_BYTES = 256 * 1024
"""Pieces that are here between two gaps are fetched again when they are shorter than what a request costs."""


class _Pieces:
    """Puts successive bytes together into pieces; lives in the worker thread that reads them."""

    def __init__(
        self,
        partial: PartialBlob,
        first: int,
        count_bytes: Callable[[int], None],
        on_piece: Callable[[int, bytearray], None] | None,
    ) -> None:
        self._partial = partial
        self._next = first
        self._piece = bytearray()
        self._count_bytes = count_bytes
        self._on_piece = on_piece

    def feed(self, data: memoryview) -> None:
        """The next bytes."""
        self._count_bytes(len(data))
        layout = self._partial.layout
        while data:
            if self._next >= layout.count:
                digest = self._partial.digest
                raise ProtocolError(f"the origin sends more than the {layout.size_bytes} bytes of {digest}")
            wanted = layout.length(self._next) - len(self._piece)
            self._piece += data[:wanted]
            data = data[wanted:]
            if len(self._piece) == layout.length(self._next):
                new = self._partial.write_piece(self._next, self._piece)
                if new and self._on_piece is not None:
                    self._on_piece(self._next, self._piece)
                self._piece = bytearray()
                self._next += 1


@dataclass(frozen=True, slots=True)
class Source:
    """A blob at its origin. `count_bytes` and `on_private` (the origin wanted our credentials) are told in a thread."""

    client: OriginClient
    repository: str
    digest: Digest
    count_bytes: Callable[[int], None]
    on_private: Callable[[], None]

    async def fetch(
        self,
        partial: PartialBlob,
        first: int,
        last: int,
        on_piece: Callable[[int, bytearray], None] | None = None,
    ) -> FetchedBlob:
        """Fetch the pieces from `first` to `last`; `on_piece` gets, in a thread, each that wasn't here.

        Raises what `OriginClient.blob` raises, `ProtocolError` when the origin gives the blob another size, and
        `StoreError`.
        """
        layout = partial.layout

        def on_size(size_bytes: int) -> None:
            if size_bytes != layout.size_bytes:
                raise ProtocolError(
                    f"the origin gives {self.digest} {size_bytes} bytes, the tracker {layout.size_bytes}"
                )

        pieces = _Pieces(partial, first, self.count_bytes, on_piece)
        start, end = layout.offset(first), layout.offset(last) + layout.length(last)
        return await self.client.blob(
            self.repository,
            self.digest,
            pieces.feed,
            on_size=on_size,
            on_private=self.on_private,
            offset=start,
            end=end,
        )


async def rescue(source: Source, partial: Callable[[], PartialBlob | None], begin: Callable[[int], None]) -> None:
    """Fetch what `partial()` lacks; nothing is here yet while it is None, and `begin(size_bytes)` then makes room.

    `begin` is called in a worker thread. Raises what `Source.fetch` raises.
    """
    arriving = partial()
    if arriving is None:
        await _whole(source, partial, begin)
        return
    small = max(1, WORTH_A_REQUEST_BYTES // arriving.layout.piece_bytes)
    for first, last in gaps(lambda: arriving.pieces, small):
        await source.fetch(arriving, first, last)


async def _whole(source: Source, partial: Callable[[], PartialBlob | None], begin: Callable[[int], None]) -> None:
    begun: list[_Pieces] = []

    def on_size(size_bytes: int) -> None:
        begin(size_bytes)
        arriving = partial()
        if arriving is None:
            raise ProtocolError(f"the origin gave no size for {source.digest}")
        begun.append(_Pieces(arriving, 0, source.count_bytes, None))

    await source.client.blob(
        source.repository,
        source.digest,
        lambda data: begun[0].feed(data),
        on_size=on_size,
        on_private=source.on_private,
    )


def gaps(pieces: Callable[[], PieceSet], small: int) -> Iterator[tuple[int, int]]:
    """First and last piece of each gap, looked for anew after each, since others may fill them meanwhile.

    Gaps with fewer than `small` pieces between them are taken together.
    """
    at = 0
    while True:
        have = pieces()
        missing = [index for index in have.missing() if index >= at]
        if not missing:
            return
        first = last = missing[0]
        for index in missing[1:]:
            if index - last > small:
                break
            last = index
        yield first, last
        at = last + 1
