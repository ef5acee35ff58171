"""Tags and manifests for the agents: resolved upstream, one request for all who ask at that moment, kept by digest.

A tag is asked for anew each time that nobody is asking already; what has a digest comes from the store once it is
there. On the way by, sizes of blobs and whether a repository needs credentials are remembered.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from p2pdist.core.digest import Digest
from p2pdist.core.errors import Denied, NotFound, P2PDistError
from p2pdist.oci.manifest import parse_manifest
from p2pdist.oci.reference import Tag
from p2pdist.store import BlobStore, StoredManifest
from p2pdist.telemetry.logging import get_logger
from p2pdist.telemetry.metrics import ManifestOutcome, TrackerMetrics
from p2pdist.tracker.origins import Origins

_REMEMBERED_SIZES = 100_000
log = get_logger("tracker.manifests")


@dataclass(slots=True)
class _Flight:
    """A request under way, and what came of it."""

    done: trio.Event = field(default_factory=trio.Event)
    manifest: StoredManifest | None = None
    error: P2PDistError | None = None

    async def result(self) -> StoredManifest:
        await self.done.wait()
        if self.error is not None:
            raise self.error
        assert self.manifest is not None
        return self.manifest


class Manifests:
    """The manifests of all upstreams. Requests to origins belong to `nursery`, so no caller's end stops one."""

    def __init__(self, origins: Origins, store: BlobStore, nursery: trio.Nursery, metrics: TrackerMetrics) -> None:
        self._origins = origins
        self._store = store
        self._nursery = nursery
        self._metrics = metrics
        self._flights: dict[tuple[str, str, str], _Flight] = {}
        self._sizes: OrderedDict[Digest, int] = OrderedDict()

    async def get(self, upstream: str, repository: str, wanted: Tag | Digest) -> StoredManifest:
        """The manifest; raises what `OriginClient.manifest` raises, and `NotFound` for an unknown upstream."""
        client = self._origins.client(upstream)
        if isinstance(wanted, Digest):
            stored = await trio.to_thread.run_sync(self._store.manifest, wanted)
            if stored is not None and (stored.upstream, stored.repository) == (upstream, repository):
                self._metrics.manifests.labels(ManifestOutcome.CACHED).inc()
                self._learn(stored)
                return stored

        async def fetch() -> StoredManifest:
            fetched = await client.manifest(repository, wanted)
            stored = StoredManifest(
                fetched.digest, fetched.media_type, fetched.body, upstream, repository, fetched.private
            )
            await trio.to_thread.run_sync(self._put, stored)
            return stored

        key = (upstream, repository, str(wanted))
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            self._nursery.start_soon(self._fly, key, flight, fetch)
        else:
            self._metrics.manifests.labels(ManifestOutcome.SHARED).inc()
        return await flight.result()

    def size_of(self, digest: Digest) -> int | None:
        """A blob's size in bytes, if a manifest said it."""
        return self._sizes.get(digest)

    def _put(self, manifest: StoredManifest) -> None:
        self._store.put_manifest(
            manifest.digest,
            manifest.media_type,
            manifest.body,
            manifest.upstream,
            manifest.repository,
            private=manifest.private,
        )

    async def _fly(
        self, key: tuple[str, str, str], flight: _Flight, fetch: Callable[[], Awaitable[StoredManifest]]
    ) -> None:
        try:
            flight.manifest = await fetch()
            self._learn(flight.manifest)
            self._metrics.manifests.labels(ManifestOutcome.FETCHED).inc()
        except P2PDistError as error:
            flight.error = error
            self._metrics.manifests.labels(_outcome(error)).inc()
            log.info("manifest_failed", upstream=key[0], repository=key[1], wanted=key[2], reason=str(error))
        finally:
            del self._flights[key]
            flight.done.set()

    def _learn(self, manifest: StoredManifest) -> None:
        for blob in parse_manifest(manifest.body, manifest.media_type, manifest.digest).blobs:
            self._sizes[blob.digest] = blob.size_bytes
            self._sizes.move_to_end(blob.digest)
        while len(self._sizes) > _REMEMBERED_SIZES:
            self._sizes.popitem(last=False)


def _outcome(error: P2PDistError) -> ManifestOutcome:
    if isinstance(error, NotFound):
        return ManifestOutcome.UNKNOWN
    return ManifestOutcome.DENIED if isinstance(error, Denied) else ManifestOutcome.UNAVAILABLE
