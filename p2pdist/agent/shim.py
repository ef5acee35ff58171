"""The registry-compatible endpoint that the host's container daemons use (OCI distribution spec, "Pull").

It turns requests into calls of `Content` and their results into answers that daemons understand (facts.md, "Container
clients"). A daemon has a way out, the origin, and takes it at once when it gets a 404; any other failure costs it up to
a minute. So before the header every failure to get something is a 404, whatever its reason, but one: an upstream that
wants a token has its challenge passed on, since the caller may have one to bring. After the header there is
no way out, and the shim can only end the body short, by FIN, so that the daemon resumes it with a Range. How blobs are
sent is in blob_answer.py; what isn't a pull is somebody else's (passing.py). Knows nothing of where content comes from.
"""

from collections.abc import Callable, Collection

from p2pdist.agent.blob_answer import BlobAnswers
from p2pdist.agent.content import Content
from p2pdist.agent.fields import ALWAYS, identity
from p2pdist.agent.passing import PassThrough
from p2pdist.agent.routes import (
    BlobRoute,
    ManifestRoute,
    ReferrersRoute,
    RepositoryRoute,
    Route,
    TagsRoute,
    UploadRoute,
    VersionCheck,
    parse_route,
)
from p2pdist.core.errors import BlobUnknown, InvalidInput, ManifestUnknown, NotFound, P2PDistError
from p2pdist.http.headers import accepts
from p2pdist.http.ranges import RangeNotSatisfiable
from p2pdist.http.server import ClientGone, Request, Response
from p2pdist.http.via import nodes_in
from p2pdist.oci.bearer import BearerToken
from p2pdist.oci.errors import Unauthorized, error_body
from p2pdist.telemetry.logging import get_logger
from p2pdist.telemetry.metrics import AgentMetrics, ShimRequest

_READS = ("GET", "HEAD")
_UNANSWERED = "none"
"""The status label of requests that ended without an answer of ours: the client hung up (or a bug, see the log)."""

log = get_logger(__name__)


class MethodNotAllowed(InvalidInput):
    """A method that what was named doesn't have."""

    http_status = 405

    def __init__(self, method: str, allowed: tuple[str, ...]) -> None:
        super().__init__(f"{method[:40]} isn't for this; {', '.join(allowed)} are")
        self.allowed = allowed


class Loop(NotFound):
    """A request that this fleet has made comes back to it."""


class Shim:
    """The handler of a listener; `default_upstream` is whom requests mean that name no registry.

    With `login` that upstream says to whom this is a registry, so that clients send their credentials. `ours` are the
    nodes that ask for us: what they have made themselves isn't served.
    """

    def __init__(
        self,
        content: Content,
        elsewhere: PassThrough,
        metrics: AgentMetrics,
        default_upstream: str | None = None,
        *,
        login: bool = False,
        ours: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._content = content
        self._elsewhere = elsewhere
        self._blobs = BlobAnswers(content, metrics)
        self._metrics = metrics
        self._default_upstream = default_upstream
        self._login = login
        self._ours = ours

    async def __call__(self, request: Request, response: Response) -> None:
        """Answer one request."""
        kind = ShimRequest.OTHER
        try:
            route = self._route(request)
            kind = _kind(route, request.method)
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
        if not set(nodes_in(request.headers.get("via"))).isdisjoint(self._ours()):
            raise Loop("this request was made here: the origin of an upstream leads back to this fleet's own shim")
        namespaces = request.query.get("ns", [])
        route = parse_route(request.path, namespaces, self._content.upstreams(), self._default_upstream)
        if request.method not in _methods(route):
            raise MethodNotAllowed(request.method, _methods(route))
        return route

    async def _answer(self, route: Route, request: Request, response: Response) -> None:
        match route:
            case VersionCheck():
                await self._answer_version(request, response)
            case _ if self._goes_on(route, request):
                await self._relay(route, request, response)
            case ManifestRoute():
                await self._answer_manifest(route, request, response)
            case BlobRoute():
                await self._answer_blob(route, request, response)
            case _:
                await self._relay(route, request, response)

    def _goes_on(self, route: RepositoryRoute, request: Request) -> bool:
        """Whether the upstream answers itself, instead of what the fleet has from it."""
        if request.method not in _READS or route in self._elsewhere.deleted:
            return True
        if request.method == "HEAD" and isinstance(route, BlobRoute) and _shows_password(request):
            # No pull asks so: a client that pushes wants to know what it needn't upload.
            return True
        # For another fleet this is a registry: what it asks for must name us, all the way, so that a loop is seen.
        return bool(nodes_in(request.headers.get("via")))

    async def _relay(self, route: RepositoryRoute, request: Request, response: Response) -> None:
        try:
            await self._elsewhere.relay(route, self._default_upstream, request, response)
        except P2PDistError as error:
            if response.started or isinstance(error, ClientGone) or request.method not in _READS:
                raise
            if isinstance(route, ManifestRoute | BlobRoute):
                raise _missing(
                    route, error, BlobUnknown if isinstance(route, BlobRoute) else ManifestUnknown
                ) from error
            raise

    async def _answer_version(self, request: Request, response: Response) -> None:
        if self._login and self._default_upstream is not None:
            try:
                await self._elsewhere.greet(self._default_upstream, request, response)
                return
            except P2PDistError as error:
                if response.started:
                    raise
                # What is here is served without it.
                log.warning("upstream_doesnt_greet", upstream=self._default_upstream, error=error)
        await response.send(200, {**ALWAYS, "Content-Type": "application/json"}, b"{}")

    async def _answer_manifest(self, route: ManifestRoute, request: Request, response: Response) -> None:
        token = BearerToken.from_header(request.headers.get("authorization"))
        try:
            manifest = await self._content.manifest(route.upstream, route.repository, route.reference, token)
        except P2PDistError as error:
            raise _missing(route, error, ManifestUnknown) from error
        if not accepts(request.headers.get("accept"), manifest.media_type):
            raise ManifestUnknown(f"{route.reference} is of the type {manifest.media_type}, which Accept doesn't list")
        headers = {"Content-Type": manifest.media_type, **identity(manifest.digest)}
        await response.send(200, headers, manifest.body)

    async def _answer_blob(self, route: BlobRoute, request: Request, response: Response) -> None:
        try:
            if request.method == "HEAD":
                await self._blobs.head(route, request.headers, response)
            else:
                await self._blobs.get(route, request.headers, response)
        except (ClientGone, RangeNotSatisfiable):
            raise
        except P2PDistError as error:
            if response.started:
                raise
            raise _missing(route, error, BlobUnknown) from error

    def _cut_short(self, request: Request, response: Response, error: P2PDistError) -> None:
        log.warning("response_cut_short", target=request.raw_target, peer=request.peer, error=error)
        self._metrics.shim_cut_short.inc()
        response.abandon()


def _shows_password(request: Request) -> bool:
    return (request.headers.get("authorization") or "").lower().startswith("basic ")


def _methods(route: Route) -> tuple[str, ...]:
    match route:
        case ManifestRoute():
            return (*_READS, "PUT", "DELETE")
        case BlobRoute():
            return (*_READS, "DELETE")
        case UploadRoute(session=""):
            return ("POST",)
        case UploadRoute():
            return ("GET", "PATCH", "PUT", "DELETE")
        case _:
            return _READS


def _kind(route: Route, method: str) -> ShimRequest:
    match route:
        case VersionCheck():
            return ShimRequest.VERSION
        case TagsRoute() | ReferrersRoute():
            return ShimRequest.LIST
        case _ if method not in _READS or isinstance(route, UploadRoute):
            return ShimRequest.PUSH
        case ManifestRoute():
            return ShimRequest.MANIFEST
        case _:
            return ShimRequest.BLOB


def _missing(
    route: ManifestRoute | BlobRoute, error: P2PDistError, missing: type[ManifestUnknown] | type[BlobUnknown]
) -> NotFound | Unauthorized:
    """The 404 that sends the daemon to the origin; the log keeps what it was if it wasn't simply not there."""
    if isinstance(error, NotFound | Unauthorized):
        return error
    what = route.reference if isinstance(route, ManifestRoute) else route.digest
    log.warning("content_missing", upstream=route.upstream, repository=route.repository, content=what, error=error)
    return missing(str(error))


async def _send_error(response: Response, error: P2PDistError) -> None:
    headers = {**ALWAYS, "Content-Type": "application/json"}
    if isinstance(error, RangeNotSatisfiable):
        headers["Content-Range"] = error.content_range
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(error.allowed)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = str(error.challenge)
    await response.send(error.http_status, headers, error_body(error))
