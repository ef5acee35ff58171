"""What clients deleted through this shim: from then on this host asks the upstream for it instead of serving its copy.

Content that has a digest is kept for as long as there is room, whatever becomes of it upstream; but whoever deletes
something and looks for it right afterwards must not find it. Bounded, and gone with the process.
"""

from collections import OrderedDict

from p2pdist.agent.routes import BlobRoute, ManifestRoute, RepositoryRoute
from p2pdist.core.digest import Digest

_REMEMBERED = 100_000


class Deleted:
    """Digests by upstream and repository."""

    def __init__(self) -> None:
        self._digests: OrderedDict[tuple[str, str, Digest], None] = OrderedDict()

    def __contains__(self, route: RepositoryRoute) -> bool:
        """Whether what `route` names by digest was deleted."""
        digest = digest_of(route)
        return digest is not None and (route.upstream, route.repository, digest) in self._digests

    def add(self, route: RepositoryRoute) -> None:
        """What `route` names was deleted; a tag isn't remembered, since tags are resolved upstream anyway."""
        digest = digest_of(route)
        if digest is not None:
            self._digests[route.upstream, route.repository, digest] = None
            while len(self._digests) > _REMEMBERED:
                self._digests.popitem(last=False)

    def put_back(self, upstream: str, repository: str, digest: Digest) -> None:
        """It was pushed again."""
        self._digests.pop((upstream, repository, digest), None)


def digest_of(route: RepositoryRoute) -> Digest | None:
    """The digest by which `route` names a manifest or blob."""
    match route:
        case BlobRoute(digest=digest) | ManifestRoute(reference=Digest() as digest):
            return digest
        case _:
            return None
