"""Pulls an image through a registry's API as a container daemon does, and checks every digest on the way.

Like containerd: HEAD of the tag, everything else by digest, `?ns=` with the name of the upstream, config and layers in
parallel. Bodies are hashed in the worker threads that read them and then forgotten. Knows nothing of agents: a shim is
asked as any registry is.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import quote

import trio

from p2pdist.core.digest import Digest
from p2pdist.core.errors import DigestInvalid, NotFound, ProtocolError
from p2pdist.demo.groups import most_telling
from p2pdist.demo.requests import UnexpectedStatus, fetch, in_thread
from p2pdist.http.client import HttpClient
from p2pdist.http.interrupt import Interrupt
from p2pdist.http.url import Url
from p2pdist.oci.descriptor import Descriptor
from p2pdist.oci.manifest import MANIFEST_MEDIA_TYPES, MAX_MANIFEST_BYTES, Index, Manifest, parse_manifest
from p2pdist.oci.reference import Reference, Tag

PARALLEL_BLOBS = 4
_READ_BYTES = 256 * 1024
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_ACCEPT = {"Accept": ", ".join(MANIFEST_MEDIA_TYPES)}


@dataclass(slots=True)
class BlobProgress:
    """How far one blob's transfer is; written by one thread, read by anybody."""

    blob: Descriptor
    received_bytes: int = 0
    first_byte_at: float | None = None
    """On the clock of `time.monotonic`."""


@dataclass(slots=True)
class PullProgress:
    """How far a pull is; filled in while it runs."""

    blobs: list[BlobProgress] = field(default_factory=list)

    @property
    def received_bytes(self) -> int:
        """Bytes of blobs that have come."""
        return sum(progress.received_bytes for progress in self.blobs)

    @property
    def total_bytes(self) -> int:
        """Bytes of all blobs; 0 until the manifest is known."""
        return sum(progress.blob.size_bytes for progress in self.blobs)


@dataclass(frozen=True, slots=True)
class PullResult:
    """A pull that came to its end: what it found, how long it took from the first request on, and what was wrong."""

    digest: Digest
    """Of what the tag stands for."""
    seconds: float
    first_byte_seconds: float
    blob_bytes: int
    wrong: tuple[str, ...]
    """A sentence for each blob whose bytes weren't those that its digest names."""


async def pull(
    client: HttpClient,
    registry: str,
    image: Reference,
    progress: PullProgress,
    *,
    parallel: int = PARALLEL_BLOBS,
) -> PullResult:
    """Pull `image` from the base URL `registry`, so many blobs at once.

    Raises `NotFound` when there is nothing for this machine's platform, and what `HttpClient` raises.
    """
    started_at = time.monotonic()
    source = _Source(client, registry, image)
    digest, manifest = await source.resolve()
    progress.blobs = [BlobProgress(blob) for blob in manifest.blobs]
    wrong: list[str] = []
    limiter = trio.CapacityLimiter(parallel)
    try:
        async with trio.open_nursery() as nursery:
            for blob in progress.blobs:
                nursery.start_soon(_pull_blob, source, blob, limiter, wrong)
    except BaseExceptionGroup as group:
        raise most_telling(group) from None
    first_byte_at = min((blob.first_byte_at for blob in progress.blobs if blob.first_byte_at), default=started_at)
    return PullResult(
        digest,
        time.monotonic() - started_at,
        first_byte_at - started_at,
        progress.total_bytes,
        tuple(wrong),
    )


async def _pull_blob(source: "_Source", blob: BlobProgress, limiter: trio.CapacityLimiter, wrong: list[str]) -> None:
    try:
        await in_thread(partial(source.read_blob, blob), limiter)
    except DigestInvalid as error:
        wrong.append(str(error))


@dataclass(frozen=True, slots=True)
class _Source:
    """Where one image comes from."""

    client: HttpClient
    registry: str
    image: Reference

    async def resolve(self) -> tuple[Digest, Manifest]:
        """The digest that the image's name stands for, and the manifest for this machine."""
        target = self.image.target
        digest = await self._head(target) if isinstance(target, Tag) else target
        document = await self._manifest(digest)
        if isinstance(document, Index):
            document = await self._manifest(choose_platform(document.manifests, os.uname().machine).digest)
        if isinstance(document, Index):
            raise ProtocolError(f"an index of {self.image} lists another index where an image was expected")
        return digest, document

    async def _head(self, tag: Tag) -> Digest:
        url = self._url("manifests", tag)
        headers, _ = await fetch(self.client, "HEAD", url, 0, _ACCEPT)
        return Digest.parse(headers.get("docker-content-digest", ""))

    async def _manifest(self, digest: Digest) -> Manifest | Index:
        headers, body = await fetch(self.client, "GET", self._url("manifests", digest), MAX_MANIFEST_BYTES, _ACCEPT)
        return parse_manifest(body, headers.get("content-type", ""), digest)

    def read_blob(self, progress: BlobProgress, interrupt: Interrupt) -> None:
        """Read a blob to its end; blocks; raises `DigestInvalid` for other bytes or another number of them."""
        blob = progress.blob
        hasher, buffer = blob.digest.hasher(), memoryview(bytearray(_READ_BYTES))
        url = self._url("blobs", blob.digest)
        with self.client.request("GET", url, {}, interrupt=interrupt) as exchange:
            if exchange.status != 200:
                raise UnexpectedStatus("GET", url, exchange.status, exchange.read(MAX_MANIFEST_BYTES))
            while count := exchange.readinto(buffer):
                if progress.first_byte_at is None:
                    progress.first_byte_at = time.monotonic()
                progress.received_bytes += count
                hasher.update(buffer[:count])
                if progress.received_bytes > blob.size_bytes:
                    break
        if progress.received_bytes != blob.size_bytes or not blob.digest.matches(hasher):
            raise DigestInvalid(
                f"{url.shown} gave {progress.received_bytes} bytes that aren't the {blob.size_bytes} of this digest"
            )

    def _url(self, kind: str, target: Tag | Digest) -> Url:
        repository = self.image.repository
        namespace = quote(repository.registry, safe="")
        return Url.parse(f"{self.registry}/v2/{repository.path}/{kind}/{target}?ns={namespace}")


def choose_platform(manifests: Sequence[Descriptor], machine: str) -> Descriptor:
    """The manifest for Linux on `machine` (as uname calls it), else for linux/amd64; raises `NotFound`."""
    for architecture in (_MACHINES.get(machine, machine), "amd64"):
        for manifest in manifests:
            platform = manifest.platform
            if platform is not None and (platform.os, platform.architecture) == ("linux", architecture):
                return manifest
    offered = ", ".join(str(manifest.platform) for manifest in manifests if manifest.platform) or "none"
    raise NotFound(f"the image has nothing for linux on {machine} or amd64; its platforms: {offered}")
