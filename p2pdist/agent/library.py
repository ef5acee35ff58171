"""What this host can have: the `Content` that the shim and `p2pdist pull` read from.

Owns the pulls under way, one a blob, whoever asks and however often. Manifests are asked of the tracker, since tags are
resolved upstream always; what has a digest is kept. Having served a manifest, the agent serves its blobs: from the
store, by a pull, which ends at the origin if need be.
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import trio

from p2pdist.agent.ahead import Ahead
from p2pdist.agent.arrival import Means, Wanted
from p2pdist.agent.content import BlobView, ManifestContent
from p2pdist.agent.gate import Gate
from p2pdist.agent.passage import Passages, Source
from p2pdist.agent.pull import Pull
from p2pdist.agent.sizes import Sizes
from p2pdist.agent.views import Asked, Growing, Parts, Whole
from p2pdist.core.digest import Digest
from p2pdist.core.errors import BlobUnknown, Denied, P2PDistError, ProtocolError, StoreError, Unavailable
from p2pdist.http.ranges import Ranges
from p2pdist.oci.bearer import BearerToken
from p2pdist.oci.errors import ManifestInvalid
from p2pdist.oci.manifest import Manifest, parse_manifest
from p2pdist.oci.reference import Tag
from p2pdist.oci.rights import Access, Asker, Place, Rights
from p2pdist.store import BlobStore, BlobUnverified, CommittedBlob, StoredManifest
from p2pdist.store.errors import BlobDiscarded
from p2pdist.telemetry.logging import get_logger
from p2pdist.telemetry.metrics import ByteSource
from p2pdist.wire.messages import ManifestIs, ManifestWanted

MANIFEST_SECONDS = 20.0
_TRIES = 3
log = get_logger("agent.library")


@asynccontextmanager
async def opened(store: BlobStore, digest: Digest) -> AsyncIterator[CommittedBlob]:
    """`BlobStore.committed` without the disk's time on the loop: opening and closing happen in worker threads."""
    context = store.committed(digest)
    blob = await trio.to_thread.run_sync(context.__enter__)
    try:
        yield blob
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(context.__exit__, None, None, None)


class Library:
    """The agent's `Content`; pulls run in `nursery`. `access` says to whom an upstream's content is given."""

    def __init__(self, means: Means, nursery: trio.Nursery, access: Callable[[str], Access]) -> None:
        self._means = means
        self._nursery = nursery
        self._rights = Rights(access)
        self._gate = Gate(self._rights, means, nursery)
        self._upstreams: tuple[str, ...] = ()
        self._pulls: dict[Digest, Pull] = {}
        self._sizes = Sizes()
        self._verifying: dict[Digest, trio.Event] = {}
        self._ahead = Ahead()
        self._ending: set[Pull] = set()
        self._past_swarm_bytes = 0
        self._past_origin_bytes = 0
        self._passages = Passages(means.origin_for, means.store.root, self._count_passed, nursery)

    @property
    def pulls(self) -> Collection[Pull]:
        """The pulls under way."""
        return self._pulls.values()

    @property
    def swarm_bytes(self) -> int:
        """Payload bytes that came by swarm, over all pulls."""
        return self._past_swarm_bytes + sum(pull.swarm_bytes for pull in self._unfinished())

    @property
    def origin_bytes(self) -> int:
        """Bytes of blobs that came from origins, over all pulls, and those that were passed through."""
        return self._past_origin_bytes + sum(pull.origin_bytes for pull in self._unfinished())

    def _unfinished(self) -> Iterator[Pull]:
        yield from self._pulls.values()
        yield from self._ending

    # Content.

    def upstreams(self) -> Collection[str]:
        """The registries that may be spoken to."""
        return self._upstreams

    def set_upstreams(self, names: Collection[str]) -> None:
        """The tracker's upstreams, and those of the configuration."""
        self._upstreams = tuple(names)

    async def manifest(
        self, upstream: str, repository: str, reference: Tag | Digest, token: BearerToken | None = None
    ) -> ManifestContent:
        """See `Content.manifest`."""
        asker = Asker(Place(upstream, repository), token)
        stored = await self._stored(asker.place, reference) if isinstance(reference, Digest) else None
        if stored is not None and self._rights.may_read(asker):
            return self._shown(asker.place, stored)
        try:
            found = await self._ask_manifest(asker, reference)
        except Unavailable:
            if stored is None or not self._rights.may_read(asker, stale=True):
                raise
            return self._shown(asker.place, stored)
        content = self._shown(asker.place, found)
        try:
            await trio.to_thread.run_sync(
                lambda: self._means.store.put_manifest(
                    found.digest, found.media_type, found.body, upstream, repository, private=found.private
                )
            )
        except StoreError as error:
            log.warning("manifest_not_kept", digest=content.digest, reason=str(error))
        return content

    async def _stored(self, place: Place, digest: Digest) -> StoredManifest | None:
        """A manifest from the store, if it came from `place`."""
        stored = await trio.to_thread.run_sync(self._means.store.manifest, digest)
        here = stored is not None and Place(stored.upstream, stored.repository) == place
        return stored if here else None

    async def _ask_manifest(self, asker: Asker, reference: Tag | Digest) -> StoredManifest:
        """Have the tracker get a manifest with the rights of `asker`."""
        place, token = asker.place, self._gate.token(asker)
        tag, digest = ("", str(reference)) if isinstance(reference, Digest) else (str(reference), "")
        try:
            answer = await self._means.control.ask(
                lambda id_: ManifestWanted(id_, place.upstream, place.repository, tag, digest, token), MANIFEST_SECONDS
            )
        except P2PDistError as error:
            self._gate.refused(asker, error)
            raise
        if not isinstance(answer, ManifestIs):
            raise ProtocolError(f"the tracker answers for a manifest with {type(answer).__name__}")
        found = Digest.parse(answer.digest)
        if isinstance(reference, Digest) and found != reference:
            raise ManifestInvalid(f"asked for the manifest {reference}, the tracker gave {found}")
        self._gate.learn(asker, answer)
        return StoredManifest(found, answer.media_type, answer.body, place.upstream, place.repository, answer.private)

    def _shown(self, place: Place, manifest: StoredManifest) -> ManifestContent:
        content = ManifestContent(manifest.digest, manifest.media_type, manifest.body)
        self._learn(place, content)
        return content

    @asynccontextmanager
    async def blob(
        self,
        upstream: str,
        repository: str,
        digest: Digest,
        ranges: Ranges | None = None,
        token: BearerToken | None = None,
    ) -> AsyncIterator[BlobView]:
        """See `Content.blob`. Parts of a blob that nobody pulls whole are passed through (passage.py)."""
        asker = Asker(Place(upstream, repository), token)
        source = Source(upstream, repository, digest, self._gate.bearer(asker))
        async with AsyncExitStack() as stack:
            yield await self._view(Visit(asker, source), ranges, stack)

    async def _view(self, visit: "Visit", ranges: Ranges | None, stack: AsyncExitStack) -> BlobView:
        """A view that is entered into `stack`."""
        source = visit.source
        if await self.holds(source.digest):
            return await self._whole(visit, stack)
        pull = self._pulls.get(source.digest)
        if ranges is not None and not (ranges.open_ended and pull is not None):
            parts = await self._parts(visit, ranges, stack)
            if parts is not None:
                return parts
        return await self._whole(visit, stack, kept=ranges is None or not ranges.open_ended)

    async def _whole(self, visit: "Visit", stack: AsyncExitStack, *, kept: bool = True) -> BlobView:
        """A view of all of a blob, which is pulled if it isn't here."""
        digest = visit.source.digest
        for _ in range(_TRIES):
            # When the blob comes or goes at this very moment, we look again.
            await self._admit(visit)
            held, pull = await self.holds(digest), self._pulls.get(digest)
            if held and visit.admitted:
                with suppress(BlobUnknown, BlobUnverified):
                    return Whole(await stack.enter_async_context(opened(self._means.store, digest)))
                continue
            if (held and pull is None) or not self._may_join(visit):
                continue
            growing = self._join(visit.source, stack, kept=kept)
            try:
                await growing.begun()
                return growing
            except BlobDiscarded:
                # A pull that has closed its file ends in a moment, and then says who else may have the blob.
                if pull is not None:
                    await pull.ended.wait()
        raise Unavailable(f"{digest} goes from the store as fast as it comes; raise [store] quota")

    # The gate.

    async def _admit(self, visit: "Visit") -> None:
        """Have whoever asks admitted to what is here; raises what the gate says. Of what isn't here others decide."""
        digest = visit.source.digest
        while not visit.admitted and not self._may_join(visit):
            await self._gate.check(visit.asker, digest, self._pulls[digest].home)
            visit.admitted = True
        if not visit.admitted and digest not in self._pulls and await self.holds(digest):
            home = await self._gate.home(digest)
            if home is not None:
                await self._gate.check(visit.asker, digest, home)
                visit.admitted = True

    def _may_join(self, visit: "Visit") -> bool:
        """Whether a pull that is under way, if there is one, is for whoever asks too: what it is told, he is told."""
        pull = self._pulls.get(visit.source.digest)
        if pull is None or visit.admitted or pull.wanted.asker == visit.source.asker:
            return True
        return self._gate.admits(visit.asker, visit.source.digest, pull.home)

    async def _parts(self, visit: "Visit", ranges: Ranges, stack: AsyncExitStack) -> Parts | None:
        """A view of parts that are passed through; None when the blob is to be pulled.

        Raises `RangeNotSatisfiable`, and what the gate says.
        """
        source = visit.source
        await self._admit(visit)
        try:
            size_bytes = await self._size_of(visit)
        except Denied:
            raise
        except P2PDistError as error:
            log.debug("size_unknown", digest=source.digest, reason=str(error))
            return None
        parts = ranges.resolve(size_bytes)
        if parts is None:
            return None
        asked = Asked(source, size_bytes, tuple(parts), ranges.open_ended)
        if not self._passages.allows(source, size_bytes, asked.wanted_bytes):
            return None
        return Parts(
            asked,
            self._passages,
            stack,
            lambda: self._join_if_admitted(visit, stack),
            lambda: self._whole(visit, stack, kept=not asked.open_ended),
            self._join_if_admitted(visit, stack) if source.digest in self._pulls else None,
        )

    def _join_if_admitted(self, visit: "Visit", stack: AsyncExitStack) -> Growing | None:
        return self._join(visit.source, stack, kept=False) if self._may_join(visit) else None

    async def _size_of(self, visit: "Visit") -> int:
        """A blob's size, from its origin if the tracker can't say."""
        source = visit.source
        try:
            return await self._size(visit)
        except Unavailable:
            client = self._means.origin_for(source.asker)
            if client is None:
                raise
            return await client.blob_size(source.repository, source.digest)

    def _count_passed(self, size_bytes: int) -> None:
        self._past_origin_bytes += size_bytes
        self._means.metrics.received_bytes.labels(ByteSource.ORIGIN).inc(size_bytes)
        self._means.metrics.passed_bytes.inc(size_bytes)

    async def holds(self, digest: Digest) -> bool:
        """Whether the blob is here; one that outlived a crash of the host is verified first, once for all who ask.

        Raises `StoreError` when it can't be read.
        """
        store = self._means.store
        while not store.has(digest) and digest not in self._pulls and digest in store.unverified():
            under_way = self._verifying.get(digest)
            if under_way is not None:
                await under_way.wait()
                continue
            done = self._verifying[digest] = trio.Event()
            try:
                if not await trio.to_thread.run_sync(store.verify, digest):
                    self._means.metrics.quarantined.inc()
                    log.error("blob_quarantined", digest=digest, reason="it was damaged when the host went down")
            except BlobUnknown:
                return False
            finally:
                del self._verifying[digest]
                done.set()
        return store.has(digest)

    async def blob_size(self, upstream: str, repository: str, digest: Digest, token: BearerToken | None = None) -> int:
        """See `Content.blob_size`."""
        asker = Asker(Place(upstream, repository), token)
        visit = Visit(asker, Source(upstream, repository, digest, self._gate.bearer(asker)))
        await self._admit(visit)
        return await self._size(visit)

    async def _size(self, visit: "Visit") -> int:
        """The size of a blob of this very repository: as a manifest says that may be read, else as the tracker says."""
        digest, place = visit.source.digest, visit.asker.place
        known = self._sizes.get(place.upstream, place.repository, digest)
        if known is not None and (visit.admitted or self._rights.may_read(visit.asker)):
            return known
        if visit.admitted:
            record = await trio.to_thread.run_sync(self._means.store.record, digest)
            if record is not None and Place(record.upstream, record.repository) == place:
                return record.size_bytes
        return await self._gate.size(visit.asker, digest, there=True)

    def asked(
        self, upstream: str, repository: str, digest: Digest, *, whole: bool, token: BearerToken | None = None
    ) -> None:
        """See `Content.asked`. Without the tracker nothing is got ahead: then it might be the origin that gives it."""
        metrics = self._means.metrics
        metrics.ahead_asked_bytes.inc(self._ahead.take(digest))
        if whole and self._means.control.connected:
            bearer = self._gate.bearer(Asker(Place(upstream, repository), token))
            for layer in self._ahead.following(upstream, repository, digest, self._here_or_coming):
                metrics.ahead_bytes.inc(layer.size_bytes)
                self.want(Source(upstream, repository, layer.digest, bearer))

    def _here_or_coming(self, digest: Digest) -> bool:
        return digest in self._pulls or self._means.store.has(digest)

    # Pulls.

    def want(self, source: Source, *, kept: bool = True) -> Pull:
        """The pull of a blob that isn't here: the one that is under way, or a new one.

        One that isn't `kept`, by anybody, ends when nobody reads from it any more.
        """
        pull = self._pulls.get(source.digest)
        if pull is None:
            size_bytes = self._sizes.get(source.upstream, source.repository, source.digest) or 0
            wanted = Wanted(source.upstream, source.repository, source.digest, size_bytes, source.token)
            before = [ending for ending in self._ending if ending.wanted.digest == source.digest]
            pull = self._pulls[source.digest] = Pull(wanted, self._means)
            self._nursery.start_soon(self._run, pull, before)
        pull.kept = pull.kept or kept
        return pull

    def _join(self, source: Source, stack: AsyncExitStack, *, kept: bool) -> Growing:
        """Read from a pull, until `stack` is closed."""
        pull = self.want(source, kept=kept)
        pull.readers += 1
        stack.callback(self._leave, pull)
        return Growing(pull, stack)

    def _leave(self, pull: Pull) -> None:
        pull.readers -= 1
        if pull.readers == 0 and not pull.kept and not pull.complete and not pull.done:
            pull.call_off()
            self._ending.add(pull)
            del self._pulls[pull.wanted.digest]

    async def _run(self, pull: Pull, before: list[Pull]) -> None:
        try:
            for ending in before:
                await ending.ended.wait()
            await pull.run()
        finally:
            if pull.error is None:
                self._gate.came(pull.wanted.digest, pull.home)
            else:
                self._gate.refused(pull.wanted.asker, pull.error)
            if self._pulls.get(pull.wanted.digest) is pull:
                del self._pulls[pull.wanted.digest]
            self._ending.discard(pull)
            self._past_swarm_bytes += pull.swarm_bytes
            self._past_origin_bytes += pull.origin_bytes

    def _learn(self, place: Place, content: ManifestContent) -> None:
        manifest = parse_manifest(content.body, content.media_type, content.digest)
        if isinstance(manifest, Manifest):
            self._ahead.served(place.upstream, place.repository, content.digest, manifest)
        self._sizes.learn(place.upstream, place.repository, manifest.blobs)


@dataclass(slots=True)
class Visit:
    """A request for a blob: who asks, what is asked for it elsewhere, and whether he gets what is here."""

    asker: Asker
    source: Source
    admitted: bool = False
