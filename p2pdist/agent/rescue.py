"""Bytes from the origin for a pull that neither relay nor swarm can finish: only what is missing, by range.

What is fetched here is vouched for by nobody. It goes to this host's own daemon, whose last bytes wait for the blob's
digest, and is passed on to nobody before that held.
"""

from collections.abc import Callable, Iterator

from p2pdist.core.digest import Digest
from p2pdist.core.errors import ProtocolError
from p2pdist.oci.origin import OriginClient
from p2pdist.store import PartialBlob

Begin = Callable[[int], PartialBlob]


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
                raise ProtocolError(f"the origin sends more than the {layout.size_bytes} bytes of a blob")
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
    partial: PartialBlob | None,
    begin: Begin,
    count_bytes: Callable[[int], None],
) -> PartialBlob:
    """Fetch what `partial` lacks, or all of a blob of which nothing is here yet, which `begin` then makes room for.

    Raises what `OriginClient.blob` raises, and `StoreError`.
    """
    if partial is None:
        partial = await _whole(client, repository, digest, begin, count_bytes)
    for first, last in _runs(partial):
        layout = partial.layout
        pieces = _Pieces(partial, first, count_bytes)
        end = layout.offset(last) + layout.length(last)
        await client.blob(repository, digest, pieces.feed, offset=layout.offset(first), end=end)
    return partial


async def _whole(
    client: OriginClient, repository: str, digest: Digest, begin: Begin, count_bytes: Callable[[int], None]
) -> PartialBlob:
    begun: list[tuple[PartialBlob, _Pieces]] = []

    def on_size(size_bytes: int) -> None:
        partial = begin(size_bytes)
        begun.append((partial, _Pieces(partial, 0, count_bytes)))

    await client.blob(repository, digest, lambda data: begun[0][1].feed(data), on_size=on_size)
    return begun[0][0]


def _runs(partial: PartialBlob) -> Iterator[tuple[int, int]]:
    """First and last piece of each gap, looked for anew after each: others may fill them meanwhile."""
    at = 0
    count = partial.layout.count
    while at < count:
        if partial.has(at):
            at += 1
            continue
        last = at
        while last + 1 < count and not partial.has(last + 1):
            last += 1
        yield at, last
        at = last + 1
