"""The shim's `Content` in memory: real files, real digests, and bytes that arrive when a test says so."""

import os
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import trio

from p2pdist.agent.content import ManifestContent
from p2pdist.core.digest import Digest
from p2pdist.core.errors import BlobUnknown, DigestInvalid, ManifestUnknown, P2PDistError
from p2pdist.http.ranges import Ranges
from p2pdist.oci.bearer import BearerToken
from p2pdist.oci.reference import Tag


class FakeBlob:
    """A blob of which a prefix has arrived; like a real one it shows its last byte only when its digest held."""

    def __init__(self, digest: Digest, size_bytes: int) -> None:
        self.digest = digest
        self.size_bytes = size_bytes
        self.fd = os.memfd_create("blob")
        self.readers = 0
        self._readable = 0
        self._error: P2PDistError | None = None
        self._changed = trio.Event()
        self.awaited = trio.Event()
        """Set whenever somebody has to wait for bytes; a test may replace it."""

    @property
    def committed(self) -> bool:
        return self._readable == self.size_bytes

    def arrive(self, data: bytes) -> None:
        """The next bytes come."""
        os.pwrite(self.fd, data, self._readable)
        self._readable += len(data)
        if self._readable == self.size_bytes and not self._holds():
            self._readable -= 1
            self._error = DigestInvalid(f"the bytes of {self.digest} have another digest")
        self._wake()

    def fail(self, error: P2PDistError) -> None:
        """What hasn't arrived never will."""
        self._error = error
        self._wake()

    async def available(self, offset: int) -> int:
        while self._readable <= offset:
            if self._error is not None:
                raise self._error
            self.awaited.set()
            await self._changed.wait()
        return self._readable

    def close(self) -> None:
        os.close(self.fd)

    def _holds(self) -> bool:
        return Digest.of(os.pread(self.fd, self.size_bytes, 0), self.digest.algorithm) == self.digest

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class FakeContent:
    """Manifests and blobs of some upstreams; what a test sets in `errors` is raised for that reference."""

    def __init__(self, *upstreams: str) -> None:
        self._upstreams = upstreams
        self._manifests: dict[tuple[str, str, str], ManifestContent] = {}
        self._blobs: dict[tuple[str, str, Digest], FakeBlob] = {}
        self.errors: dict[str, Exception] = {}
        self.requests: list[str] = []
        self.tokens: list[BearerToken | None] = []
        self.taken: list[tuple[Digest, bool]] = []

    def close(self) -> None:
        for blob in self._blobs.values():
            blob.close()

    def add_manifest(self, upstream: str, repository: str, tag: str, media_type: str, body: bytes) -> Digest:
        manifest = ManifestContent(Digest.of(body), media_type, body)
        for name in (tag, str(manifest.digest)):
            self._manifests[upstream, repository, name] = manifest
        return manifest.digest

    def add_blob(self, upstream: str, repository: str, data: bytes) -> FakeBlob:
        """A blob that is there."""
        blob = self.expect_blob(upstream, repository, Digest.of(data), len(data))
        blob.arrive(data)
        return blob

    def expect_blob(self, upstream: str, repository: str, digest: Digest, size_bytes: int) -> FakeBlob:
        """A blob whose size is known and whose bytes are to arrive."""
        blob = self._blobs[upstream, repository, digest] = FakeBlob(digest, size_bytes)
        return blob

    def upstreams(self) -> Collection[str]:
        return self._upstreams

    async def manifest(
        self, upstream: str, repository: str, reference: Tag | Digest, token: BearerToken | None = None
    ) -> ManifestContent:
        self.tokens.append(token)
        await self._ask(f"{upstream} {repository} {reference}", str(reference))
        found = self._manifests.get((upstream, repository, str(reference)))
        if found is None:
            raise ManifestUnknown(f"{upstream}/{repository} has no manifest {reference}")
        return found

    @asynccontextmanager
    async def blob(
        self,
        upstream: str,
        repository: str,
        digest: Digest,
        ranges: Ranges | None = None,
        token: BearerToken | None = None,
    ) -> AsyncIterator[FakeBlob]:
        self.tokens.append(token)
        blob = await self._find(upstream, repository, digest)
        blob.readers += 1
        try:
            yield blob
        finally:
            blob.readers -= 1

    def asked(
        self, upstream: str, repository: str, digest: Digest, *, whole: bool, token: BearerToken | None = None
    ) -> None:
        self.tokens.append(token)
        self.taken.append((digest, whole))

    async def blob_size(self, upstream: str, repository: str, digest: Digest, token: BearerToken | None = None) -> int:
        self.tokens.append(token)
        return (await self._find(upstream, repository, digest)).size_bytes

    async def _find(self, upstream: str, repository: str, digest: Digest) -> FakeBlob:
        await self._ask(f"{upstream} {repository} {digest}", str(digest))
        found = self._blobs.get((upstream, repository, digest))
        if found is None:
            raise BlobUnknown(f"{upstream}/{repository} has no blob {digest}")
        return found

    async def _ask(self, what: str, reference: str) -> None:
        self.requests.append(what)
        await trio.lowlevel.checkpoint()
        if reference in self.errors:
            raise self.errors[reference]
