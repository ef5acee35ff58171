"""How large blobs are, as manifests say: of each repository what its own manifests say.

That another repository has a blob is no answer for this one: whoever is about to push asks whether he must upload it.
"""

from collections import OrderedDict

from p2pdist.core.digest import Digest
from p2pdist.oci.descriptor import Descriptor

_REMEMBERED = 100_000


class Sizes:
    """Sizes in bytes by upstream, repository and digest; the oldest go when there are too many."""

    def __init__(self) -> None:
        self._sizes: OrderedDict[tuple[str, str, Digest], int] = OrderedDict()

    def get(self, upstream: str, repository: str, digest: Digest) -> int | None:
        """The size of a blob that a manifest of this repository names."""
        return self._sizes.get((upstream, repository, digest))

    def learn(self, upstream: str, repository: str, blobs: tuple[Descriptor, ...]) -> None:
        """A manifest of the repository names these blobs."""
        for blob in blobs:
            self._sizes[upstream, repository, blob.digest] = blob.size_bytes
            self._sizes.move_to_end((upstream, repository, blob.digest))
        while len(self._sizes) > _REMEMBERED:
            self._sizes.popitem(last=False)
