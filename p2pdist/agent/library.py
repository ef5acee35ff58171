"""What this host can have: the `Content` that the shim and `p2pdist pull` read from.

Owns the pulls under way, one a blob, whoever asks and however often. Manifests are asked of the tracker, since tags are
resolved upstream always; what has a digest is kept. Having served a manifest, the agent serves its blobs: from the
store, by a pull, which ends at the origin if need be.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from p2pdist.agent.ahead import Ahead
from p2pdist.agent.arrival import READER_SECONDS, Means, Wanted, run_bytes
from p2pdist.agent.content import BlobView, ManifestContent
from p2pdist.agent.pull import Pull
from p2pdist.agent.sizes import Sizes
from p2pdist.core.digest import Digest
from p2pdist.core.errors import BlobUnknown, ProtocolError, StoreError, Unavailable
from p2pdist.http.ranges import Ranges
from p2pdist.oci.errors import ManifestInvalid
from p2pdist.oci.manifest import Manifest, parse_manifest
from p2pdist.oci.reference import Tag
from p2pdist.store import BlobStore, BlobUnverified, CommittedBlob
from p2pdist.store.errors import BlobDiscarded
from p2pdist.telemetry.logging import get_logger
from p2pdist.wire.messages import ManifestIs, ManifestWanted, SizeIs, SizeWanted

MANIFEST_SECONDS = 20.0
_TRIES = 3
log = get_logger("agent.library")


class _Whole:
    """A committed blob as a view."""

    committed = True

    def __init__(self, blob: CommittedBlob) -> None:
        self.size_bytes = blob.size_bytes
        self.fd = blob.fd

    async def available(self, offset: int) -> int:
        """All of it."""
        return self.size_bytes


class _Growing:
    """A blob that is being pulled as a view: its last piece shows when its digest held.

    The first bytes show at once; those after them by runs, or after a moment, since every look costs.
    """

    def __init__(self, pull: Pull, fd: int) -> None:
        assert pull.partial is not None
        self._pull = pull
        self._partial = pull.partial
        self._shown = max(0, self._partial.layout.offset(self._partial.layout.count - 1))
        self._told: int | None = None
        self.size_bytes = self._partial.layout.size_bytes
        self.fd = fd

    @property
    def committed(self) -> bool:
        """Whether the digest held; the record of it may still be on its way to the disk."""
        return self._partial.verified

    async def available(self, offset: int) -> int:
        """See `BlobView`. A pull that has failed shows nothing more, whatever has come: its bytes may be wrong."""
        pull = self._pull
        fresh = self._told is None or offset < self._told
        goal = offset + 1 if fresh else min(offset + run_bytes(self.size_bytes), max(self._shown, offset + 1))
        with pull.reading(offset, goal):
            waited = False
            while True:
                if self.committed:
                    return self.size_bytes
                if pull.error is not None:
                    raise pull.error
                end = min(self._partial.available_from(offset), self._shown)
                if end >= goal or (waited and end > offset):
                    self._told = end
                    return end
                with trio.move_on_after(READER_SECONDS) as moment:
                    await pull.progress.wait()
                waited = waited or moment.cancelled_caught


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
        self._past_swarm_bytes = 0
        self._past_origin_bytes = 0

    @property
    def pulls(self) -> Collection[Pull]:
        """The pulls under way."""
        return self._pulls.values()

    @property
    def swarm_bytes(self) -> int:
        """Payload bytes that came by swarm, over all pulls."""
        return self._past_swarm_bytes + sum(pull.swarm_bytes for pull in self._pulls.values())

    @property
    def origin_bytes(self) -> int:
        """Payload bytes that came from origins, over all pulls."""
        return self._past_origin_bytes + sum(pull.origin_bytes for pull in self._pulls.values())

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
        """See `Content.blob`."""
        async with AsyncExitStack() as stack:
            view: BlobView | None = None
            for _ in range(_TRIES):
                view = await self._view(upstream, repository, digest, stack)
                if view is not None:
                    break
            if view is None:
                raise Unavailable(f"{digest} goes from the store as fast as it comes; raise [store] quota")
            yield view

    async def _view(self, upstream: str, repository: str, digest: Digest, stack: AsyncExitStack) -> BlobView | None:
        """A view that is entered into `stack`; None when the blob came or went at this very moment."""
        if await self.holds(digest):
            try:
                return _Whole(await stack.enter_async_context(opened(self._means.store, digest)))
            except (BlobUnknown, BlobUnverified):
                return None
        pull = self.want(upstream, repository, digest)
        while pull.partial is None and not pull.done:
            await pull.news.wait()
        if pull.error is not None:
            raise pull.error
        try:
            return _Growing(pull, stack.enter_context(pull.partial.held())) if pull.partial is not None else None
        except BlobDiscarded:
            return None

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

    def want(self, upstream: str, repository: str, digest: Digest) -> Pull:
        """The pull of a blob that isn't here: the one that is under way, or a new one."""
        pull = self._pulls.get(digest)
        if pull is None:
            wanted = Wanted(upstream, repository, digest, self._sizes.get(upstream, repository, digest) or 0)
            pull = self._pulls[digest] = Pull(wanted, self._means)
            self._nursery.start_soon(self._run, pull)
        return pull

    async def _run(self, pull: Pull) -> None:
        try:
            await pull.run()
        finally:
            del self._pulls[pull.wanted.digest]
            self._past_swarm_bytes += pull.swarm_bytes
            self._past_origin_bytes += pull.origin_bytes

    def _learn(self, upstream: str, repository: str, body: bytes, media_type: str, digest: Digest) -> None:
        manifest = parse_manifest(body, media_type, digest)
        if isinstance(manifest, Manifest):
            self._ahead.served(upstream, repository, digest, manifest)
        self._sizes.learn(upstream, repository, manifest.blobs)
