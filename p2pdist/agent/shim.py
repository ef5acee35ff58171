"""The registry-compatible endpoint that the host's container daemons use (OCI distribution spec, "Pull").

It turns requests into calls of `Content` and their results into answers that daemons understand (facts.md, "Container
clients"). A daemon has a way out, the origin, and takes it at once when it gets a 404; any other failure costs it up to
a minute. So before the header every failure to get something is a 404, whatever its reason. After the header there is
no way out, and the shim can only end the body short, by FIN, so that the daemon resumes it with a Range. To make that
rare, a header leaves only when the first bytes can follow it. Knows nothing of where content comes from.
"""

from collections.abc import Mapping

import trio

from p2pdist.agent.content import BlobView, Content
from p2pdist.agent.routes import BlobRoute, ManifestRoute, Route, VersionCheck, parse_route
from p2pdist.core.digest import Digest
from p2pdist.core.errors import BlobUnknown, InvalidInput, ManifestUnknown, NotFound, P2PDistError
from p2pdist.http.headers import Headers, accepts
from p2pdist.http.ranges import ByteRange, RangeNotSatisfiable, parse_range
from p2pdist.http.server import ClientGone, Request, Response
from p2pdist.oci.errors import error_body
from p2pdist.telemetry.logging import get_logger
from p2pdist.telemetry.metrics import AgentMetrics, ByteSink, ShimRequest

_ALWAYS = {"Docker-Distribution-API-Version": "registry/2.0"}
_UNANSWERED = "none"
"""The status label of requests that ended without an answer of ours: the client hung up (or a bug, see the log)."""

log = get_logger(__name__)


class MethodNotAllowed(InvalidInput):
    """A method that would write; the shim only reads."""

    http_status = 405


class Shim:
    """The handler of a listener; `default_upstream` is whom requests mean that name no registry."""

    def __init__(self, content: Content, metrics: AgentMetrics, default_upstream: str | None = None) -> None:
        self._content = content
        self._metrics = metrics
        self._default_upstream = default_upstream

    async def __call__(self, request: Request, response: Response) -> None:
        """Answer one request."""
        kind = ShimRequest.OTHER
        try:
            route = self._route(request)
            kind = _kind(route)
            await self._answer(route, request, response)
        except ClientGone:
            raise
        except P2PDistError as error:
            if response.started:
                self._cut_short(request, response, error)
            else:
                await _send_error(response, error)
        finally:
            self._metrics.shim_requests.labels(kind, str(response.status or _UNANSWERED)).inc()

    def _route(self, request: Request) -> Route:
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed(f"{request.method} isn't served here; images are pushed to their registry itself")
        namespaces = request.query.get("ns", [])
        return parse_route(request.path, namespaces, self._content.upstreams(), self._default_upstream)

    async def _answer(self, route: Route, request: Request, response: Response) -> None:
        match route:
            case VersionCheck():
                await response.send(200, {**_ALWAYS, "Content-Type": "application/json"}, b"{}")
            case ManifestRoute():
                await self._answer_manifest(route, request, response)
            case BlobRoute() if request.method == "HEAD":
                await self._answer_blob_head(route, response)
            case BlobRoute():
                await self._answer_blob(route, request, response)

    async def _answer_manifest(self, route: ManifestRoute, request: Request, response: Response) -> None:
        try:
            manifest = await self._content.manifest(route.upstream, route.repository, route.reference)
        except P2PDistError as error:
            raise _missing(route, error, ManifestUnknown) from error
        if not accepts(request.headers.get("accept"), manifest.media_type):
            raise ManifestUnknown(f"{route.reference} is of the type {manifest.media_type}, which Accept doesn't list")
        headers = {"Content-Type": manifest.media_type, **_identity(manifest.digest)}
        await response.send(200, headers, manifest.body)

    async def _answer_blob_head(self, route: BlobRoute, response: Response) -> None:
        try:
            size_bytes = await self._content.blob_size(route.upstream, route.repository, route.digest)
        except P2PDistError as error:
            raise _missing(route, error, BlobUnknown) from error
        await response.send(200, {**_blob_headers(route.digest), "Content-Length": str(size_bytes)})

    async def _answer_blob(self, route: BlobRoute, request: Request, response: Response) -> None:
        asked = trio.current_time()
        try:
            async with self._content.blob(route.upstream, route.repository, route.digest) as view:
                part = _wanted_part(request.headers, route.digest, view.size_bytes)
                start, end = (part.start, part.end) if part else (0, view.size_bytes)
                self._content.asked(route.upstream, route.repository, route.digest, whole=part is None)
                if start < end:
                    await view.available(start)
                await response.start(206 if part else 200, _part_headers(route.digest, part, view.size_bytes))
                self._metrics.first_byte_seconds.observe(trio.current_time() - asked)
                await self._send_part(view, start, end, response)
        except (ClientGone, RangeNotSatisfiable):
            raise
        except P2PDistError as error:
            if response.started:
                raise
            raise _missing(route, error, BlobUnknown) from error

    async def _send_part(self, view: BlobView, start: int, end: int, response: Response) -> None:
        """Send the bytes from `start` to `end`, each run as soon as it can be read."""
        sent_bytes = self._metrics.sent_bytes.labels(ByteSink.SHIM)
        while start < end:
            run_end = min(end, await view.available(start))
            await response.send_file(view.fd, start, run_end - start)
            sent_bytes.inc(run_end - start)
            start = run_end

    def _cut_short(self, request: Request, response: Response, error: P2PDistError) -> None:
        log.warning("response_cut_short", target=request.raw_target, peer=request.peer, error=error)
        self._metrics.shim_cut_short.inc()
        response.abandon()


def _kind(route: Route) -> ShimRequest:
    match route:
        case VersionCheck():
            return ShimRequest.VERSION
        case ManifestRoute():
            return ShimRequest.MANIFEST
        case BlobRoute():
            return ShimRequest.BLOB


def _missing(
    route: ManifestRoute | BlobRoute, error: P2PDistError, missing: type[ManifestUnknown] | type[BlobUnknown]
) -> NotFound:
    """The 404 that sends the daemon to the origin; the log keeps what it was if it wasn't simply not there."""
    if isinstance(error, NotFound):
        return error
    what = route.reference if isinstance(route, ManifestRoute) else route.digest
    log.warning("content_missing", upstream=route.upstream, repository=route.repository, content=what, error=error)
    return missing(str(error))


def _wanted_part(headers: Headers, digest: Digest, size_bytes: int) -> ByteRange | None:
    """The range that a GET asks for; with If-Range only if the client means this very blob (RFC 9110, 13.1.5)."""
    condition = headers.get("if-range")
    if condition is not None and condition != _etag(digest):
        return None
    return parse_range(headers.get("range"), size_bytes)


def _etag(digest: Digest) -> str:
    return f'"{digest}"'


def _identity(digest: Digest) -> dict[str, str]:
    return {**_ALWAYS, "Docker-Content-Digest": str(digest), "ETag": _etag(digest)}


def _blob_headers(digest: Digest) -> dict[str, str]:
    return {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **_identity(digest)}


def _part_headers(digest: Digest, part: ByteRange | None, size_bytes: int) -> Mapping[str, str]:
    headers = _blob_headers(digest)
    if part is None:
        return {**headers, "Content-Length": str(size_bytes)}
    return {**headers, "Content-Length": str(part.length), "Content-Range": part.content_range(size_bytes)}


async def _send_error(response: Response, error: P2PDistError) -> None:
    headers = {**_ALWAYS, "Content-Type": "application/json"}
    if isinstance(error, RangeNotSatisfiable):
        headers["Content-Range"] = error.content_range
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = "GET, HEAD"
    await response.send(error.http_status, headers, error_body(error))
