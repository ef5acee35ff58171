"""`POST /v1/pull`: have a whole image, and say how it comes, line by line (`report.py` has the lines)."""

import platform
from collections.abc import Iterable

import msgspec
import trio

from p2pdist.agent.library import Library
from p2pdist.agent.pull import Pull
from p2pdist.agent.relays import Relays
from p2pdist.agent.report import BlobEvent, DoneEvent, ErrorEvent, ManifestEvent, PulledBytes, PullEvent
from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput, ManifestUnknown, NotFound, P2PDistError
from p2pdist.http.server import Request, Response
from p2pdist.oci.descriptor import Descriptor
from p2pdist.oci.manifest import Index, Manifest, parse_manifest
from p2pdist.oci.reference import Reference
from p2pdist.store import BlobStore

REPEAT_SECONDS = 2.0
_BLOBS_AT_ONCE = 8
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


class ImagePuller:
    """Answers pulls of whole images."""

    def __init__(self, library: Library, store: BlobStore, relays: Relays) -> None:
        self._library = library
        self._store = store
        self._relays = relays

    async def handle(self, request: Request, response: Response) -> None:
        """The handler of the route."""
        (image,) = request.query.get("image", [""]) or [""]
        if not image:
            raise InvalidInput("which image? write /v1/pull?image=docker.io/library/nginx:1.27")
        reference = Reference.parse(image)
        registry = reference.repository.registry
        if registry not in self._library.upstreams():
            known = ", ".join(self._library.upstreams()) or "none yet"
            raise NotFound(f"{registry} isn't an upstream of this fleet; its upstreams are: {known}")
        target = reference.target
        first = await self._library.manifest(registry, reference.repository.path, target)
        await response.start(200, {"Content-Type": "application/x-ndjson"})
        await _Run(self, reference, response).run(first.digest, first.media_type, first.body)


class _Run:
    """One image under way."""

    def __init__(self, puller: ImagePuller, reference: Reference, response: Response) -> None:
        self._library = puller._library
        self._store = puller._store
        self._relays = puller._relays
        self._registry = reference.repository.registry
        self._repository = reference.repository.path
        self._response = response
        self._sending = trio.Lock()
        self._store_bytes = 0
        self._pulls: list[Pull] = []

    async def run(self, digest: Digest, media_type: str, body: bytes) -> None:
        started = trio.current_time()
        before = self._relays.totals()
        try:
            await self._say(ManifestEvent(digest=str(digest), media_type=media_type))
            manifest = parse_manifest(body, media_type, digest)
            if isinstance(manifest, Index):
                manifest = await self._of_this_platform(manifest)
            await self._blobs(manifest.blobs)
        except P2PDistError as error:
            await self._say(ErrorEvent(code=error.oci_code, message=str(error)))
            return
        after = self._relays.totals()
        came = PulledBytes(
            relay=after.relayed_bytes - before.relayed_bytes,
            dealt=after.dealt_bytes - before.dealt_bytes,
            swarm=sum(pull.came.swarm_bytes for pull in self._pulls),
            origin=sum(pull.came.origin_bytes for pull in self._pulls),
            store=self._store_bytes,
        )
        await self._say(DoneEvent(digest=str(digest), seconds=trio.current_time() - started, bytes=came))

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
                failure = await self._blob(blob)
                if failure is not None:
                    failures.append(failure)

        async with trio.open_nursery() as nursery:
            for blob in blobs:
                nursery.start_soon(one, blob)
        if failures:
            raise failures[0]

    async def _blob(self, blob: Descriptor) -> P2PDistError | None:
        if self._store.has(blob.digest):
            self._store_bytes += blob.size_bytes
            await self._say(self._event(blob, "held", "store", blob.size_bytes))
            return None
        pull = self._library.want(self._registry, self._repository, blob.digest)
        self._pulls.append(pull)
        while not pull.done:
            with trio.move_on_after(REPEAT_SECONDS):
                await pull.progress.wait()
            await self._say(self._progress(blob, pull))
        if pull.error is not None:
            return pull.error
        await self._say(self._event(blob, "held", pull.source, blob.size_bytes))
        return None

    def _progress(self, blob: Descriptor, pull: Pull) -> BlobEvent:
        received = pull.received_bytes
        state = "waiting" if pull.partial is None else "receiving" if received < blob.size_bytes else "verifying"
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
        async with self._sending:
            await self._response.write(msgspec.json.encode(event) + b"\n")
