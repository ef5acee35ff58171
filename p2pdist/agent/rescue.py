"""Bytes from the origin for a pull that neither relay nor swarm can finish: only what is missing, by range.

What is fetched here is vouched for by nobody. It goes to this host's own daemon, whose last bytes wait for the blob's
digest, and is passed on to nobody before that held.
"""

from collections.abc import Callable, Iterator

from p2pdist.core.digest import Digest
from p2pdist.core.errors import ProtocolError
from p2pdist.core.pieces import PieceSet
from p2pdist.oci.origin import OriginClient
from p2pdist.store import PartialBlob

WORTH_A_REQUEST_BYTES = 256 * 1024
"""Pieces that are here between two gaps are fetched again when they are shorter than what a request costs."""


class _Pieces:
    """Puts successive bytes together into pieces; lives in the worker thread that reads them."""

    def __init__(self, partial: PartialBlob, first: int, count_bytes: Callable[[int], None]) -> None:
        self._partial = partial
        self._next = first
        self._piece = bytearray()
        self._count_bytes = count_bytes

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
                self._partial.write_piece(self._next, self._piece)
                self._piece = bytearray()
                self._next += 1


async def rescue(
    client: OriginClient,
    repository: str,
    digest: Digest,
    partial: Callable[[], PartialBlob | None],
    begin: Callable[[int], None],
    count_bytes: Callable[[int], None],
    on_private: Callable[[], None],
) -> None:
    """Fetch what `partial()` lacks; nothing is here yet while it is None, and `begin(size_bytes)` then makes room.

    `begin`, `count_bytes` and `on_private` (the origin wanted our credentials) are called in a worker thread. Raises
    what `OriginClient.blob` raises, `ProtocolError` when the origin gives the blob another size, and `StoreError`.
    """
    if partial() is None:
        await _whole(client, repository, digest, partial, begin, count_bytes, on_private)
        return
    arriving = _begun(partial, digest)
    layout = arriving.layout

    def on_size(size_bytes: int) -> None:
        if size_bytes != layout.size_bytes:
            raise ProtocolError(f"the origin gives {digest} {size_bytes} bytes, the tracker {layout.size_bytes}")

    for first, last in gaps(lambda: arriving.pieces, max(1, WORTH_A_REQUEST_BYTES // layout.piece_bytes)):
        pieces = _Pieces(arriving, first, count_bytes)
        start, end = layout.offset(first), layout.offset(last) + layout.length(last)
        await client.blob(
            repository, digest, pieces.feed, on_size=on_size, on_private=on_private, offset=start, end=end
        )


async def _whole(
    client: OriginClient,
    repository: str,
    digest: Digest,
    partial: Callable[[], PartialBlob | None],
    begin: Callable[[int], None],
    count_bytes: Callable[[int], None],
    on_private: Callable[[], None],
) -> None:
    begun: list[_Pieces] = []

    def on_size(size_bytes: int) -> None:
        begin(size_bytes)
        begun.append(_Pieces(_begun(partial, digest), 0, count_bytes))

    await client.blob(repository, digest, lambda data: begun[0].feed(data), on_size=on_size, on_private=on_private)


def _begun(partial: Callable[[], PartialBlob | None], digest: Digest) -> PartialBlob:
    found = partial()
    if found is None:
        raise ProtocolError(f"the origin gave no size for {digest}")
    return found


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
