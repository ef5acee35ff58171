"""`POST /v1/pull`: have a whole image, and say how it comes, line by line (`report.py` has the lines).

An image that was asked for is pulled in the daemon's nursery: whoever hangs up stops watching and nothing else.
"""

import platform
from collections.abc import Iterable

import msgspec
import trio

from p2pdist.agent.library import Library
from p2pdist.agent.passage import Source
from p2pdist.agent.pull import Pull
from p2pdist.agent.report import BlobEvent, DoneEvent, ErrorEvent, ManifestEvent, PulledBytes, PullEvent
from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput, ManifestUnknown, NotFound, P2PDistError
from p2pdist.http.server import Request, Response
from p2pdist.oci.descriptor import Descriptor
from p2pdist.oci.manifest import Index, Manifest, parse_manifest
from p2pdist.oci.reference import Reference
from p2pdist.telemetry.logging import get_logger

REPEAT_SECONDS = 2.0
_LINE_SECONDS = 0.2
_BLOBS_AT_ONCE = 8
_WAITING_LINES = 64
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
log = get_logger("agent.image_pull")


class ImagePuller:
    """Answers pulls of whole images, which run in `nursery`."""

    def __init__(self, library: Library, nursery: trio.Nursery) -> None:
        self._library = library
        self._nursery = nursery

    async def handle(self, request: Request, response: Response) -> None:
        """The handler of the route."""
        images = request.query.get("image", [])
        if len(images) != 1 or not images[0]:
            raise InvalidInput("which image? write /v1/pull?image=docker.io/library/nginx:1.27")
        reference = Reference.parse(images[0])
        registry = reference.repository.registry
        if registry not in self._library.upstreams():
            known = ", ".join(self._library.upstreams()) or "none yet"
            raise NotFound(f"{registry} isn't an upstream of this fleet; its upstreams are: {known}")
        first = await self._library.manifest(registry, reference.repository.path, reference.target)
        lines, events = trio.open_memory_channel[PullEvent](_WAITING_LINES)
        run = _Run(self._library, reference, lines)
        self._nursery.start_soon(run.run, first.digest, first.media_type, first.body)
        with events:
            await response.start(200, {"Content-Type": "application/x-ndjson"})
            async for event in events:
                await response.write(msgspec.json.encode(event) + b"\n")


class _Run:
    """One image under way."""

    def __init__(self, library: Library, reference: Reference, lines: trio.MemorySendChannel[PullEvent]) -> None:
        self._library = library
        self._registry = reference.repository.registry
        self._repository = reference.repository.path
        self._lines = lines
        self._store_bytes = 0
        self._pulls: list[Pull] = []

    async def run(self, digest: Digest, media_type: str, body: bytes) -> None:
        """The whole pull; what goes wrong is its last line."""
        with self._lines:
            try:
                await self._image(digest, media_type, body)
            except P2PDistError as error:
                await self._say(ErrorEvent(code=error.oci_code, message=str(error)))
            except Exception as error:
                log.exception("image_pull_failed_by_bug", error, digest=digest)
                await self._say(ErrorEvent(code="UNKNOWN", message="the agent has a bug; its log says more"))

    async def _image(self, digest: Digest, media_type: str, body: bytes) -> None:
        started = trio.current_time()
        await self._say(ManifestEvent(digest=str(digest), media_type=media_type))
        manifest = parse_manifest(body, media_type, digest)
        if isinstance(manifest, Index):
            manifest = await self._of_this_platform(manifest)
        await self._blobs(manifest.blobs)
        came = [pull.came for pull in self._pulls]
        sources = PulledBytes(
            relay=sum(each.relayed_bytes for each in came),
            dealt=sum(each.dealt_bytes for each in came),
            swarm=sum(each.swarm_bytes for each in came),
            origin=sum(each.origin_bytes for each in came),
            store=self._store_bytes,
        )
        await self._say(DoneEvent(digest=str(digest), seconds=trio.current_time() - started, bytes=sources))

    async def _of_this_platform(self, index: Index) -> Manifest:
        architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
        for child in index.manifests:
            wanted = child.platform
            if wanted is None or (wanted.os, wanted.architecture) == ("linux", architecture):
                found = await self._library.manifest(self._registry, self._repository, child.digest)
                await self._say(ManifestEvent(digest=str(found.digest), media_type=found.media_type))
                manifest = parse_manifest(found.body, found.media_type, found.digest)
                if isinstance(manifest, Manifest):
                    return manifest
        raise ManifestUnknown(f"the index has no image for linux/{architecture}")

    async def _blobs(self, blobs: Iterable[Descriptor]) -> None:
        places = trio.CapacityLimiter(_BLOBS_AT_ONCE)
        failures: list[P2PDistError] = []

        async def one(blob: Descriptor) -> None:
            async with places:
                try:
                    await self._blob(blob)
                except P2PDistError as error:
                    failures.append(error)

        async with trio.open_nursery() as nursery:
            # What has URLs of its own its registry may not give away; daemons get it from there.
            for blob in {blob.digest: blob for blob in blobs if not blob.urls}.values():
                nursery.start_soon(one, blob)
        if failures:
            raise failures[0]

    async def _blob(self, blob: Descriptor) -> None:
        if await self._library.holds(blob.digest):
            self._store_bytes += blob.size_bytes
            await self._say(self._event(blob, "held", "store", blob.size_bytes))
            return
        pull = self._library.want(Source(self._registry, self._repository, blob.digest))
        self._pulls.append(pull)
        said: tuple[str, str, int] | None = None
        said_at = 0.0
        while not pull.done:
            event = self._progress(blob, pull)
            now = trio.current_time()
            if (event.state, event.source, event.received_bytes) != said or now - said_at >= REPEAT_SECONDS:
                said, said_at = (event.state, event.source, event.received_bytes), now
                await self._say(event)
            with trio.move_on_after(_LINE_SECONDS):
                await pull.ended.wait()
        if pull.error is not None:
            raise pull.error
        await self._say(self._event(blob, "held", pull.source, blob.size_bytes))

    def _progress(self, blob: Descriptor, pull: Pull) -> BlobEvent:
        received = pull.received_bytes
        state = "waiting" if pull.partial is None else "verifying" if pull.complete else "receiving"
        return self._event(blob, state, pull.source, received)

    def _event(self, blob: Descriptor, state: str, source: str, received: int) -> BlobEvent:
        return msgspec.convert(
            {
                "event": "blob",
                "digest": str(blob.digest),
                "size_bytes": blob.size_bytes,
                "received_bytes": received,
                "state": state,
                "source": source if source in ("swarm", "origin", "store") else "relay",
            },
            BlobEvent,
        )

    async def _say(self, event: PullEvent) -> None:
        """Queue a line; when nobody watches any more it is left out."""
        try:
            await self._lines.send(event)
        except trio.BrokenResourceError:
            return
