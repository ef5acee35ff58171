"""Whether one more blob fits, and how much must go first: arithmetic only."""

from dataclasses import dataclass
from pathlib import Path

from p2pdist.core.digest import Digest
from p2pdist.core.units import format_size

CATALOGUE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes: the quota and the free space of the filesystem (None: no bound); what whole blobs use; what partial
    ones will use, and how much of that has been written.
    """

    quota: int | None
    free: int | None
    used: int
    reserved: int
    written: int

    def over_quota(self, size_bytes: int) -> int:
        """By how much a blob of that size would exceed the quota; not above zero when it fits."""
        return 0 if self.quota is None else self.used + self.reserved + size_bytes - self.quota

    def lacking(self, size_bytes: int) -> int:
        """How much must be evicted for a blob of that size, by quota and by free space; not above zero for nothing.

        What is still to come of partial blobs counts as taken, because their files are sparse; `CATALOGUE_BYTES` are
        left for writing down what becomes of them.
        """
        short = 0 if self.free is None else size_bytes + self.reserved - self.written + CATALOGUE_BYTES - self.free
        return max(self.over_quota(size_bytes), short)

    def why_full(self, digest: Digest, size_bytes: int, root: Path) -> str:
        """The sentence for a blob that doesn't fit even after evicting all that may be."""
        what = f"{digest} ({format_size(size_bytes)}) doesn't fit into {root}"
        rest = "and evicting every blob that isn't being read wouldn't be enough"
        if self.over_quota(size_bytes) > 0:
            return f"{what}: the quota is {format_size(self.quota or 0)}, {rest}; raise [store] quota"
        return f"{what}: its filesystem has {format_size(self.free or 0)} left, {rest}; free space there"
