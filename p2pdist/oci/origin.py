"""The client of an origin: tags, manifests and blobs, for code on trio.

The work is done in worker threads (facts.md: a body costs a seventh there of what it costs on the loop). A cancelled
call shuts the thread's socket down and returns when the thread has let go, so that a sink is never called afterwards.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Self, TypeVar

import trio

from p2pdist.core.digest import Digest
from p2pdist.core.errors import DigestInvalid, InvalidInput, Unavailable
from p2pdist.http.client import Exchange, HttpClient
from p2pdist.http.interruptible import resolve_interruptible, run_interruptible
from p2pdist.http.proxies import Proxies
from p2pdist.oci.authorizer import Authorizer
from p2pdist.oci.bearer import BearerToken
from p2pdist.oci.blob_stream import BlobStream, FetchedBlob, RangesIgnored, Sink, head_size
from p2pdist.oci.call import Call, Wanted
from p2pdist.oci.descriptor import Descriptor
from p2pdist.oci.errors import ManifestInvalid
from p2pdist.oci.manifest import MANIFEST_MEDIA_TYPES, MAX_MANIFEST_BYTES, Index, Manifest, parse_manifest
from p2pdist.oci.reference import Repository, Tag
from p2pdist.oci.session import OriginSession
from p2pdist.oci.throttle import Throttle
from p2pdist.oci.upstream import Upstream

__all__ = ["FetchedBlob", "FetchedManifest", "OriginClient", "RangesIgnored", "Upstream"]

_ACCEPT = {"Accept": ", ".join((*MANIFEST_MEDIA_TYPES, "*/*;q=0.1"))}
_HEAD_UNSUPPORTED = (400, 405, 501)
_THREADS = 64

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FetchedManifest:
    """A manifest or index whose bytes match `digest`; `private` when the origin gave it only for our credentials."""

    digest: Digest
    media_type: str
    body: bytes
    private: bool

    def parse(self) -> Manifest | Index:
        """What the body says."""
        return parse_manifest(self.body, self.media_type)

    @property
    def descriptor(self) -> Descriptor:
        """What points at it."""
        return Descriptor(self.media_type, self.digest, len(self.body))


class OriginClient:
    """Fetches from one upstream; use it as a context manager, or close it. Calls may run at once, each in a thread.

    `timeout_seconds` limits opening a connection and each wait for bytes, `answer_seconds` the way to an answer
    (tokens and redirects included) and the reading of a manifest, `max_wait_seconds` what is waited altogether when the
    origin asks for time. `via` is the node that asks.
    """

    def __init__(
        self,
        upstream: Upstream,
        *,
        timeout_seconds: float = 30.0,
        answer_seconds: float = 60.0,
        max_wait_seconds: float = 30.0,
        proxies: Proxies | None = None,
        via: str = "",
    ) -> None:
        self.upstream = upstream
        self._http = HttpClient(
            ca_file=upstream.ca_file,
            timeout_seconds=timeout_seconds,
            proxies=proxies,
            resolver=resolve_interruptible,
            via=via,
        )
        self._session = OriginSession(upstream, self._http, answer_seconds, Authorizer(upstream, self._http))
        self._throttle = Throttle(upstream.rate_bytes_per_second)
        self._answer_seconds = answer_seconds
        self._max_wait_seconds = max_wait_seconds
        self._threads = trio.CapacityLimiter(_THREADS)

    def on_behalf_of(self, caller: BearerToken) -> Self:
        """A client with what the token of `caller` may read, and nothing else; it is good until this one is closed.

        What it gets is private. The token goes to the upstream's own host only, and is remembered by nobody.
        """
        client = copy(self)
        client._session = self._session.on_behalf_of(caller)
        return client

    def close(self) -> None:
        """Close the connections that wait for further requests."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def resolve(self, repository: str, tag: Tag | Digest | str) -> Descriptor:
        """What `tag` points at now: by HEAD, or by fetching the manifest when the origin's HEAD doesn't say.

        With a digest, whether there is such a manifest.

        Raises `NameInvalid`, `ManifestUnknown`, `Denied`, `Unavailable` or `ProtocolError`.
        """
        target = Tag(tag) if isinstance(tag, str) else tag
        return await self._run(self._wanted(repository, target), partial(self._resolve, target))

    async def manifest(self, repository: str, reference: Tag | Digest) -> FetchedManifest:
        """The manifest of a tag or digest, checked; raises what `resolve` does, `ManifestInvalid` among them."""
        return await self._run(self._wanted(repository, reference), partial(self._manifest, reference))

    async def blob_size(self, repository: str, digest: Digest) -> int:
        """A blob's size in bytes, by HEAD; raises `BlobUnknown` and what `resolve` raises."""
        return await self._run(self._wanted_blob(repository, digest), partial(head_size, self._session))

    async def blob(
        self,
        repository: str,
        digest: Digest,
        sink: Sink,
        *,
        on_size: Callable[[int], None] = lambda _: None,
        on_private: Callable[[], None] = lambda: None,
        offset: int = 0,
        end: int | None = None,
        exact: bool = False,
    ) -> FetchedBlob:
        """Give the bytes of a blob from `offset` up to, not including, `end` to `sink`, in order.

        `sink` gets views of a buffer that is used again. Before its first call `on_private` is called if the origin
        wanted our credentials, and then `on_size` with the size of the whole blob in bytes. All three are called in
        the worker thread; what they raise ends the fetch and is raised here; cancelling waits until they return. The
        bytes aren't checked against the digest. Raises `BlobUnknown` and what `resolve` raises; what was delivered
        before stays delivered. An origin that answers a range with the whole blob is read from there on; with `exact`
        it isn't, and `RangesIgnored` is raised.
        """
        if offset < 0 or (end is not None and end <= offset):
            raise InvalidInput(f"the bytes {offset} to {end} of {digest} are no range")

        def stream(call: Call) -> FetchedBlob:
            return BlobStream(self._session, call, sink, on_size, on_private, offset, end, exact, self._throttle).run()

        return await self._run(self._wanted_blob(repository, digest), stream)

    def _wanted(self, repository: str, target: Tag | Digest) -> Wanted:
        return Wanted.manifest(Repository(self.upstream.name, repository), target)

    def _wanted_blob(self, repository: str, digest: Digest) -> Wanted:
        return Wanted.blob(Repository(self.upstream.name, repository), digest)

    def _resolve(self, target: Tag | Digest, call: Call) -> Descriptor:
        answer = self._session.send("HEAD", _ACCEPT, call, tolerated=_HEAD_UNSUPPORTED)
        with answer.exchange as exchange, call.wanted.explaining():
            size = exchange.content_length
            media_type = exchange.headers.get("content-type", "").partition(";")[0].strip().lower()
            digest = _said_digest(exchange, target)
            usable = exchange.status == 200 and media_type in MANIFEST_MEDIA_TYPES
            if usable and digest is not None and size is not None and 0 < size <= MAX_MANIFEST_BYTES:
                return Descriptor(media_type, digest, size)
        return self._manifest(target, call).descriptor

    def _manifest(self, target: Tag | Digest, call: Call) -> FetchedManifest:
        answer = self._session.send("GET", _ACCEPT, call)
        with answer.exchange as exchange, call.wanted.explaining():
            with call.within(self._answer_seconds):
                body = exchange.read(MAX_MANIFEST_BYTES)
            said = _said_digest(exchange, target)
            digest = target if isinstance(target, Digest) else said or Digest.of(body)
            manifest = parse_manifest(body, exchange.headers.get("content-type", ""), digest)
        return FetchedManifest(digest, manifest.media_type, body, answer.private)

    async def _run(self, wanted: Wanted, work: Callable[[Call], T]) -> T:
        """`work` in a thread, which ends when this is cancelled or when it exceeds a limit that it set itself."""
        token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as scope:

            def limit(seconds: float) -> None:
                scope.deadline = trio.current_time() + seconds

            call = Call(wanted, self._max_wait_seconds, lambda seconds: token.run_sync_soon(limit, seconds))
            return await run_interruptible(partial(work, call), call.interrupt, self._threads)
        raise Unavailable(f"{wanted}: the registry gave no whole answer within {self._answer_seconds:g} s; try later")


def _said_digest(exchange: Exchange, asked: Tag | Digest) -> Digest | None:
    """The digest in Docker-Content-Digest; raises `ManifestInvalid` when it is none, or isn't the one we asked for."""
    value = exchange.headers.get("docker-content-digest")
    if value is None:
        return None
    try:
        said = Digest.parse(value)
    except DigestInvalid as error:
        raise ManifestInvalid(f"the registry's Docker-Content-Digest is bad: {error}") from None
    if isinstance(asked, Digest) and asked.algorithm == said.algorithm and asked != said:
        raise ManifestInvalid(f"the registry's Docker-Content-Digest is {said}, asked for was {asked}")
    return said
