"""Which idle torrents stay loaded: the ones that were of use last. Pure."""

from collections import OrderedDict

from p2pdist.core.digest import Digest


class IdleSeeds:
    """Torrents that seed and have no peer, at most `limit`, the least recently used first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._order: OrderedDict[Digest, None] = OrderedDict()

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._order

    def __len__(self) -> int:
        return len(self._order)

    def put(self, digest: Digest) -> list[Digest]:
        """`digest` is idle from now on; returns those that must go for it, out of the set already."""
        self._order[digest] = None
        self._order.move_to_end(digest)
        excess = max(0, len(self._order) - self._limit)
        return [self._order.popitem(last=False)[0] for _ in range(excess)]

    def discard(self, digest: Digest) -> None:
        """`digest` isn't idle any more: it has a peer, or is unloaded."""
        self._order.pop(digest, None)
