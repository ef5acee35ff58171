"""Tags and manifests for the agents: resolved upstream, one request for all who ask at that moment, kept by digest.

A tag is asked for anew each time that nobody is asking already; what has a digest comes from the store once it is
there, for everybody who may read its repository. What nobody knows of an asker the upstream is asked, by a HEAD of
what he wants: so each caller's token costs a HEAD now and then, and the body is fetched once for all of them.
"""

import trio

from p2pdist.core.digest import Digest
from p2pdist.core.errors import Denied, NotFound, P2PDistError, StoreError, Unavailable
from p2pdist.oci.reference import Tag
from p2pdist.oci.rights import Asker, Place
from p2pdist.store import BlobStore, StoredManifest
from p2pdist.telemetry.logging import get_logger
from p2pdist.telemetry.metrics import ManifestOutcome, TrackerMetrics
from p2pdist.tracker.flights import Flights
from p2pdist.tracker.last_known import LastKnown
from p2pdist.tracker.origins import Origins

ANSWER_SECONDS = 12.0
"""How long an upstream may take: clients wait 15 s for a header (facts.md), and 404 is an answer too."""
log = get_logger("tracker.manifests")


class Manifests:
    """The manifests of all upstreams. Requests to origins belong to `nursery`, so no caller's end stops one."""

    def __init__(self, origins: Origins, store: BlobStore, nursery: trio.Nursery, metrics: TrackerMetrics) -> None:
        self._origins = origins
        self._rights = origins.rights
        self._store = store
        self._metrics = metrics
        self._flights: Flights[tuple[Place, bytes, Tag | Digest], StoredManifest] = Flights(nursery, "manifest")
        self._last_known = LastKnown(store, origins.stale_seconds)
        self._fetches: Flights[tuple[Place, Digest], StoredManifest] = Flights(nursery, "manifest's body")

    async def get(self, asker: Asker, wanted: Tag | Digest) -> StoredManifest:
        """The manifest; raises what `Origins.manifest` raises, and `NotFound` for an unknown upstream."""
        self._origins.client(asker.place.upstream)
        if asker.token is not None and self._rights.closed(asker.place) is None:
            # What everybody may have is asked for without his token, together with everybody.
            try:
                return await self.get(Asker(asker.place), wanted)
            except (Denied, NotFound):
                pass
        key = (asker.place, self._rights.key(asker.token), wanted)
        if key in self._flights:
            self._metrics.manifests.labels(ManifestOutcome.SHARED).inc()
        return await self._flights.get(key, lambda: self._find(asker, wanted))

    async def _find(self, asker: Asker, wanted: Tag | Digest) -> StoredManifest:
        try:
            if isinstance(wanted, Tag):
                return await self._resolve(asker, wanted)
            return await self._stored(asker, wanted) or await self._ask(asker, wanted)
        except P2PDistError as error:
            self._metrics.manifests.labels(_outcome(error)).inc()
            log.info("manifest_failed", place=asker.place, wanted=wanted, reason=str(error))
            raise

    async def _resolve(self, asker: Asker, tag: Tag) -> StoredManifest:
        """What the upstream says of a tag; what it said last, if it can't be asked and the operator wants that."""
        try:
            found = await self._ask(asker, tag)
        except Unavailable:
            known = await self._last_known.find(asker.place, tag)
            if known is None or (known.private and not self._rights.may_read(asker, stale=True)):
                raise
            self._metrics.manifests.labels(ManifestOutcome.STALE).inc()
            return known
        except (Denied, NotFound) as error:
            if asker.token is None:
                await self._last_known.forget(asker.place, tag if isinstance(error, NotFound) else None)
            raise
        await self._last_known.note(asker.place, tag, found)
        return found

    async def _ask(self, asker: Asker, wanted: Tag | Digest) -> StoredManifest:
        """Ask the upstream, for as long as whoever waits would have patience."""
        with trio.move_on_after(ANSWER_SECONDS):
            if asker.token is not None:
                return await self._of_caller(asker, wanted)
            return await self._fetch(asker, wanted)
        raise Unavailable(f"{asker.place}: the registry gave no manifest within {ANSWER_SECONDS:g} s; try later")

    async def _stored(self, asker: Asker, digest: Digest) -> StoredManifest | None:
        """A manifest from the store, if it came from the same place and `asker` may read it."""
        stored = await trio.to_thread.run_sync(self._store.manifest, digest)
        if stored is None or Place(stored.upstream, stored.repository) != asker.place:
            return None
        if not self._rights.may_read(asker):
            try:
                await self._origins.resolve(asker, digest)
            except Unavailable:
                if not self._rights.may_read(asker, stale=True):
                    raise
                log.warning("upstream_not_asked", place=asker.place, digest=digest)
        self._metrics.manifests.labels(ManifestOutcome.CACHED).inc()
        return stored

    async def _of_caller(self, asker: Asker, wanted: Tag | Digest) -> StoredManifest:
        """What a caller's token may have: the upstream says by HEAD what it is, and the body comes once for all."""
        found = await self._origins.resolve(asker, wanted)
        stored = await trio.to_thread.run_sync(self._store.manifest, found.digest)
        if stored is not None:
            self._metrics.manifests.labels(ManifestOutcome.CACHED).inc()
            return stored
        return await self._fetches.get((asker.place, found.digest), lambda: self._fetch(asker, found.digest))

    async def _fetch(self, asker: Asker, wanted: Tag | Digest) -> StoredManifest:
        fetched = await self._origins.manifest(asker, wanted)
        self._metrics.manifests.labels(ManifestOutcome.FETCHED).inc()
        upstream, repository = asker.place.upstream, asker.place.repository
        stored = StoredManifest(fetched.digest, fetched.media_type, fetched.body, upstream, repository, fetched.private)
        await trio.to_thread.run_sync(self._keep, stored)
        return stored

    def _keep(self, manifest: StoredManifest) -> None:
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


def _outcome(error: P2PDistError) -> ManifestOutcome:
    if isinstance(error, NotFound):
        return ManifestOutcome.UNKNOWN
    return ManifestOutcome.DENIED if isinstance(error, Denied) else ManifestOutcome.UNAVAILABLE
