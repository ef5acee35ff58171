"""What this host can have: the `Content` that the shim and `p2pdist pull` read from.

Owns the pulls under way, one a blob, whoever asks and however often. Manifests are asked of the tracker, since tags are
resolved upstream always; what has a digest is kept. Having served a manifest, the agent serves its blobs: from the
store, by a pull, which ends at the origin if need be.
"""

from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import trio

from p2pdist.agent.ahead import Ahead
from p2pdist.agent.arrival import Means, Wanted
from p2pdist.agent.content import BlobView, ManifestContent
from p2pdist.agent.passage import Passages, Source
from p2pdist.agent.pull import Pull
from p2pdist.agent.sizes import Sizes
from p2pdist.agent.views import Asked, Growing, Parts, Whole
from p2pdist.core.digest import Digest
from p2pdist.core.errors import BlobUnknown, P2PDistError, ProtocolError, StoreError, Unavailable
from p2pdist.http.ranges import Ranges
from p2pdist.oci.errors import ManifestInvalid
from p2pdist.oci.manifest import Manifest, parse_manifest
from p2pdist.oci.reference import Tag
from p2pdist.store import BlobStore, BlobUnverified, CommittedBlob
from p2pdist.store.errors import BlobDiscarded
from p2pdist.telemetry.logging import get_logger
from p2pdist.telemetry.metrics import ByteSource
from p2pdist.wire.messages import ManifestIs, ManifestWanted, SizeIs, SizeWanted

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
    """The agent's `Content`; pulls run in `nursery`."""

    def __init__(self, means: Means, nursery: trio.Nursery) -> None:
        self._means = means
        self._nursery = nursery
        self._upstreams: tuple[str, ...] = ()
        self._pulls: dict[Digest, Pull] = {}
        self._sizes = Sizes()
        self._verifying: dict[Digest, trio.Event] = {}
        self._ahead = Ahead()
        self._ending: set[Pull] = set()
        self._past_swarm_bytes = 0
        self._past_origin_bytes = 0
        self._passages = Passages(means.origin, means.store.root, self._count_passed, nursery)

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

    async def manifest(self, upstream: str, repository: str, reference: Tag | Digest) -> ManifestContent:
        """See `Content.manifest`."""
        store = self._means.store
        if isinstance(reference, Digest):
            stored = await trio.to_thread.run_sync(store.manifest, reference)
            if stored is not None and (stored.upstream, stored.repository) == (upstream, repository):
                self._learn(upstream, repository, stored.body, stored.media_type, stored.digest)
                return ManifestContent(stored.digest, stored.media_type, stored.body)
        tag, digest = ("", str(reference)) if isinstance(reference, Digest) else (str(reference), "")
        answer = await self._means.control.ask(
            lambda id_: ManifestWanted(id_, upstream, repository, tag, digest), MANIFEST_SECONDS
        )
        if not isinstance(answer, ManifestIs):
            raise ProtocolError(f"the tracker answers for a manifest with {type(answer).__name__}")
        content = ManifestContent(Digest.parse(answer.digest), answer.media_type, answer.body)
        if isinstance(reference, Digest) and content.digest != reference:
            raise ManifestInvalid(f"asked for the manifest {reference}, the tracker gave {content.digest}")
        self._learn(upstream, repository, content.body, content.media_type, content.digest)
        private = answer.private
        try:
            await trio.to_thread.run_sync(
                lambda: store.put_manifest(
                    content.digest, content.media_type, content.body, upstream, repository, private=private
                )
            )
        except StoreError as error:
            log.warning("manifest_not_kept", digest=content.digest, reason=str(error))
        return content

    @asynccontextmanager
    async def blob(
        self, upstream: str, repository: str, digest: Digest, ranges: Ranges | None = None
    ) -> AsyncIterator[BlobView]:
        """See `Content.blob`. Parts of a blob that nobody pulls whole are passed through (passage.py)."""
        source = Source(upstream, repository, digest)
        async with AsyncExitStack() as stack:
            yield await self._view(source, ranges, stack)

    async def _view(self, source: Source, ranges: Ranges | None, stack: AsyncExitStack) -> BlobView:
        """A view that is entered into `stack`."""
        if await self.holds(source.digest):
            return await self._whole(source, stack)
        pull = self._pulls.get(source.digest)
        if ranges is not None and not (ranges.open_ended and pull is not None):
            parts = await self._parts(source, ranges, stack)
            if parts is not None:
                return parts
        return await self._whole(source, stack, kept=ranges is None or not ranges.open_ended)

    async def _whole(self, source: Source, stack: AsyncExitStack, *, kept: bool = True) -> BlobView:
        """A view of all of a blob, which is pulled if it isn't here."""
        for _ in range(_TRIES):
            # When the blob comes or goes at this very moment, we look again.
            if await self.holds(source.digest):
                with suppress(BlobUnknown, BlobUnverified):
                    return Whole(await stack.enter_async_context(opened(self._means.store, source.digest)))
                continue
            growing = self._join(source, stack, kept=kept)
            with suppress(BlobDiscarded):
                await growing.begun()
                return growing
        raise Unavailable(f"{source.digest} goes from the store as fast as it comes; raise [store] quota")

    async def _parts(self, source: Source, ranges: Ranges, stack: AsyncExitStack) -> Parts | None:
        """A view of parts that are passed through; None when the blob is to be pulled.

        Raises `RangeNotSatisfiable`.
        """
        try:
            size_bytes = await self._size_of(source)
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
            lambda: self._join(source, stack, kept=False),
            lambda: self._whole(source, stack, kept=not asked.open_ended),
            self._join(source, stack, kept=False) if source.digest in self._pulls else None,
        )

    async def _size_of(self, source: Source) -> int:
        """A blob's size, from its origin if the tracker can't say."""
        try:
            return await self.blob_size(source.upstream, source.repository, source.digest)
        except Unavailable:
            client = self._means.origin(source.upstream)
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

    async def blob_size(self, upstream: str, repository: str, digest: Digest) -> int:
        """See `Content.blob_size`."""
        known = self._sizes.get(upstream, repository, digest)
        if known is not None:
            return known
        record = await trio.to_thread.run_sync(self._means.store.record, digest)
        if record is not None and (record.upstream, record.repository) == (upstream, repository):
            return record.size_bytes
        answer = await self._means.control.ask(
            lambda id_: SizeWanted(id_, upstream, repository, str(digest), there=True), MANIFEST_SECONDS
        )
        if not isinstance(answer, SizeIs):
            raise ProtocolError(f"the tracker answers for a size with {type(answer).__name__}")
        return answer.size_bytes

    def asked(self, upstream: str, repository: str, digest: Digest, *, whole: bool) -> None:
        """See `Content.asked`. Without the tracker nothing is got ahead: then it might be the origin that gives it."""
        metrics = self._means.metrics
        metrics.ahead_asked_bytes.inc(self._ahead.take(digest))
        if whole and self._means.control.connected:
            for layer in self._ahead.following(upstream, repository, digest, self._here_or_coming):
                metrics.ahead_bytes.inc(layer.size_bytes)
                self.want(upstream, repository, layer.digest)

    def _here_or_coming(self, digest: Digest) -> bool:
        return digest in self._pulls or self._means.store.has(digest)

    # Pulls.

    def want(self, upstream: str, repository: str, digest: Digest, *, kept: bool = True) -> Pull:
        """The pull of a blob that isn't here: the one that is under way, or a new one.

        One that isn't `kept`, by anybody, ends when nobody reads from it any more.
        """
        pull = self._pulls.get(digest)
        if pull is None:
            wanted = Wanted(upstream, repository, digest, self._sizes.get(upstream, repository, digest) or 0)
            before = [ending for ending in self._ending if ending.wanted.digest == digest]
            pull = self._pulls[digest] = Pull(wanted, self._means)
            self._nursery.start_soon(self._run, pull, before)
        pull.kept = pull.kept or kept
        return pull

    def _join(self, source: Source, stack: AsyncExitStack, *, kept: bool) -> Growing:
        """Read from a pull, until `stack` is closed."""
        pull = self.want(source.upstream, source.repository, source.digest, kept=kept)
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
            if self._pulls.get(pull.wanted.digest) is pull:
                del self._pulls[pull.wanted.digest]
            self._ending.discard(pull)
            self._past_swarm_bytes += pull.swarm_bytes
            self._past_origin_bytes += pull.origin_bytes

    def _learn(self, upstream: str, repository: str, body: bytes, media_type: str, digest: Digest) -> None:
        manifest = parse_manifest(body, media_type, digest)
        if isinstance(manifest, Manifest):
            self._ahead.served(upstream, repository, digest, manifest)
        self._sizes.learn(upstream, repository, manifest.blobs)
