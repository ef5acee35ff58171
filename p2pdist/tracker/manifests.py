"""Tags and manifests for the agents: resolved upstream, one request for all who ask at that moment, kept by digest.

A tag is asked for anew each time that nobody is asking already; what has a digest comes from the store once it is
there. On the way by, sizes of blobs are remembered.
"""

from collections import OrderedDict

import trio

from p2pdist.core.digest import Digest
from p2pdist.core.errors import Denied, NotFound, P2PDistError, StoreError
from p2pdist.oci.descriptor import Descriptor
from p2pdist.oci.manifest import parse_manifest
from p2pdist.oci.reference import Tag
from p2pdist.store import BlobStore, StoredManifest
from p2pdist.telemetry.logging import get_logger
from p2pdist.telemetry.metrics import ManifestOutcome, TrackerMetrics
from p2pdist.tracker.flights import Flights
from p2pdist.tracker.origins import Origins

_REMEMBERED_SIZES = 100_000
log = get_logger("tracker.manifests")


class Manifests:
    """The manifests of all upstreams. Requests to origins belong to `nursery`, so no caller's end stops one."""

    def __init__(self, origins: Origins, store: BlobStore, nursery: trio.Nursery, metrics: TrackerMetrics) -> None:
        self._origins = origins
        self._store = store
        self._metrics = metrics
        self._flights: Flights[tuple[str, str, Tag | Digest], StoredManifest] = Flights(nursery, "manifest")
        self._size_flights: Flights[tuple[str, str, Digest], int] = Flights(nursery, "blob size")
        self._sizes: OrderedDict[Digest, int] = OrderedDict()

    async def get(self, upstream: str, repository: str, wanted: Tag | Digest) -> StoredManifest:
        """The manifest; raises what `OriginClient.manifest` raises, and `NotFound` for an unknown upstream."""
        self._origins.client(upstream)
        key = (upstream, repository, wanted)
        if key in self._flights:
            self._metrics.manifests.labels(ManifestOutcome.SHARED).inc()
        return await self._flights.get(key, lambda: self._find(upstream, repository, wanted))

    async def blob_size(self, upstream: str, repository: str, digest: Digest) -> int:
        """A blob's size in bytes: as a manifest said, else as the origin says; raises what `OriginClient` raises."""
        known = self._sizes.get(digest)
        if known is not None:
            return known
        self._origins.client(upstream)
        key = (upstream, repository, digest)
        size = await self._size_flights.get(key, lambda: self._origins.blob_size(upstream, repository, digest))
        self._remember(digest, size)
        return size

    async def _find(self, upstream: str, repository: str, wanted: Tag | Digest) -> StoredManifest:
        if isinstance(wanted, Digest):
            found = await trio.to_thread.run_sync(self._stored, upstream, repository, wanted)
            if found is not None:
                self._metrics.manifests.labels(ManifestOutcome.CACHED).inc()
                self._learn(found[1])
                return found[0]
        try:
            fetched = await self._origins.manifest(upstream, repository, wanted)
        except P2PDistError as error:
            self._metrics.manifests.labels(_outcome(error)).inc()
            log.info("manifest_failed", upstream=upstream, repository=repository, wanted=wanted, reason=str(error))
            raise
        self._metrics.manifests.labels(ManifestOutcome.FETCHED).inc()
        stored = StoredManifest(fetched.digest, fetched.media_type, fetched.body, upstream, repository, fetched.private)
        self._learn(await trio.to_thread.run_sync(self._keep, stored))
        return stored

    def _stored(
        self, upstream: str, repository: str, digest: Digest
    ) -> tuple[StoredManifest, tuple[Descriptor, ...]] | None:
        """In a worker thread: a manifest from the store and its blobs, if it came from the same repository."""
        stored = self._store.manifest(digest)
        if stored is None or (stored.upstream, stored.repository) != (upstream, repository):
            return None
        return stored, _blobs(stored)

    def _keep(self, manifest: StoredManifest) -> tuple[Descriptor, ...]:
        """In a worker thread: write a manifest down; that this fails is no reason not to answer."""
        try:
            self._store.put_manifest(
                manifest.digest,
                manifest.media_type,
                manifest.body,
                manifest.upstream,
                manifest.repository,
                private=manifest.private,
            )
        except StoreError as error:
            log.error("manifest_not_kept", digest=manifest.digest, reason=str(error))
        return _blobs(manifest)

    def _learn(self, blobs: tuple[Descriptor, ...]) -> None:
        for blob in blobs:
            self._remember(blob.digest, blob.size_bytes)

    def _remember(self, digest: Digest, size_bytes: int) -> None:
        self._sizes[digest] = size_bytes
        self._sizes.move_to_end(digest)
        if len(self._sizes) > _REMEMBERED_SIZES:
            self._sizes.popitem(last=False)


def _blobs(manifest: StoredManifest) -> tuple[Descriptor, ...]:
    return parse_manifest(manifest.body, manifest.media_type, manifest.digest).blobs


def _outcome(error: P2PDistError) -> ManifestOutcome:
    if isinstance(error, NotFound):
        return ManifestOutcome.UNKNOWN
    return ManifestOutcome.DENIED if isinstance(error, Denied) else ManifestOutcome.UNAVAILABLE
