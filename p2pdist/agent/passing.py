"""What isn't a pull goes on to the upstream: pushes, deletions, lists of tags and of referrers.

Nothing of it is kept or shared: each request of a client is one of ours to the upstream, with the client's own
Authorization or none (an upstream that wants a token from everybody is asked for an anonymous one), never with ours.
Bodies are passed on while they come, either way. The answer comes back as it is, with URLs that lead through the shim
(links.py); so does a refusal, whose challenge the client answers at the upstream's token server by itself.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Protocol

import trio

from p2pdist.agent.deleted import Deleted
from p2pdist.agent.links import Naming, query_of, replaced, without
from p2pdist.agent.routes import RepositoryRoute, UploadRoute, client_base, parse_mount_source
from p2pdist.core.digest import Digest
from p2pdist.core.errors import Denied, DigestInvalid, InvalidInput, NotFound, ProtocolError, Unavailable
from p2pdist.http.client import Exchange, HttpClient, PassedBody
from p2pdist.http.interrupt import Interrupt
from p2pdist.http.interruptible import resolve_interruptible, run_interruptible, run_on_loop
from p2pdist.http.reach import names_private
from p2pdist.http.request import BadRequest, BodyTooLarge
from p2pdist.http.server import Request, Response
from p2pdist.http.url import Url
from p2pdist.oci.authorizer import Authorizer
from p2pdist.oci.call import Call, Wanted
from p2pdist.oci.challenge import parse_challenges
from p2pdist.oci.redirects import follow
from p2pdist.oci.reference import Repository
from p2pdist.oci.session import OriginSession
from p2pdist.oci.upstream import Upstream

TIMEOUT_SECONDS = 120.0
"""How long the upstream may keep us waiting: it may copy a whole layer before it answers its last PUT."""
MAX_BODY_BYTES = 1 << 42
_AT_ONCE = 64
_BUFFER_BYTES = 256 * 1024
_MAX_GREETING_BYTES = 64 * 1024
_GREETINGS = (200, 401, 403)
_READS = ("GET", "HEAD")
_WITH_BODY = ("POST", "PUT", "PATCH")
_LENGTH = re.compile("[0-9]{1,19}")
_PASSED_ON = re.compile(r"accept|content-type|content-range|range|if-[a-z-]+|user-agent|via|oci-[a-z-]+|docker-[a-z-]+")
_OF_GREETINGS = re.compile(r"content-type|www-authenticate|docker-[a-z-]+|oci-[a-z-]+")
_PASSED_BACK = re.compile(
    r"content-(type|range|length)|range|accept-ranges|etag|www-authenticate|retry-after|warning|allow|location|link|"
    r"oci-[a-z-]+|docker-[a-z-]+|ratelimit-[a-z-]+"
)


class KnownUpstreams(Protocol):
    """The upstreams that may be spoken to."""

    def names(self) -> Collection[str]:
        """What they are called."""

    def get(self, name: str) -> Upstream | None:
        """One of them."""


class _Way:
    """How one upstream is reached: as the caller, or as anybody."""

    def __init__(self, upstream: Upstream, via: str) -> None:
        self.upstream = upstream
        self.http = HttpClient(
            ca_file=upstream.ca_file, timeout_seconds=TIMEOUT_SECONDS, resolver=resolve_interruptible, via=via
        )
        anonymous = replace(upstream, credentials=None)
        self.anybody = OriginSession(anonymous, self.http, TIMEOUT_SECONDS, Authorizer(anonymous, self.http))


class PassThrough:
    """Sends requests on, naming `node` as the one that did; must be closed."""

    def __init__(self, upstreams: KnownUpstreams, node: str = "") -> None:
        self._node = node
        self.deleted = Deleted()
        self._upstreams = upstreams
        self._ways: dict[str, _Way] = {}
        self._threads = trio.CapacityLimiter(_AT_ONCE)

    def close(self) -> None:
        """Close the connections that wait for further requests."""
        for way in self._ways.values():
            way.http.close()

    async def relay(
        self, route: RepositoryRoute, default_upstream: str | None, request: Request, response: Response
    ) -> None:
        """Answer `request` by what the upstream answers; raises `P2PDistError` when it can't be asked."""
        if request.method not in _READS and request.headers.get("origin") is not None:
            raise Denied("what changes a registry isn't for web pages")
        way = self._way(route.upstream)
        query = self._query(route, default_upstream, request)
        wanted = Wanted(Repository(route.upstream, route.repository), f"{route.rest}{'?' if query else ''}{query}")
        naming = Naming(
            client_base(request.path),
            next(iter(request.query.get("ns", [])), None),
            way.upstream.url(f"/v2/{route.repository}"),
        )
        call = Call(wanted, 0.0, lambda _: None)
        work = partial(_exchange, way, call, naming, request, response)
        digest = await run_interruptible(work, call.interrupt, self._threads)
        self._note(route, digest, request, response.status)

    async def greet(self, upstream: str, request: Request, response: Response) -> None:
        """Answer a request for `/v2/` as the upstream does: with its challenge, if it wants one answered."""
        way = self._way(upstream)
        interrupt = Interrupt()
        await run_interruptible(partial(_greet, way, interrupt, request, response), interrupt, self._threads)

    def _way(self, name: str) -> _Way:
        upstream = self._upstreams.get(name)
        if upstream is None:
            raise NotFound(f"the registry {name!r} isn't a configured upstream")
        way = self._ways.get(name)
        if way is None or way.upstream != upstream:
            if way is not None:
                way.http.close()
            way = self._ways[name] = _Way(upstream, self._node)
        return way

    def _query(self, route: RepositoryRoute, default_upstream: str | None, request: Request) -> str:
        """The query for the upstream. The source of a mount is named as it knows it; what it hasn't, is uploaded."""
        query = without(query_of(request.raw_target), "ns")
        source = request.query.get("from", [""])[0]
        if not (isinstance(route, UploadRoute) and source):
            return query
        namespaces = request.query.get("ns", [])
        try:
            upstream, repository = parse_mount_source(
                request.path, source, namespaces, self._upstreams.names(), default_upstream
            )
        except (NotFound, InvalidInput):
            return without(query, "from", "mount")
        return replaced(query, {"from": repository}) if upstream == route.upstream else without(query, "from", "mount")

    def _note(self, route: RepositoryRoute, said: str, request: Request, status: int) -> None:
        """Remember what is there no more, and forget it when it is pushed again."""
        if not 200 <= status < 300:
            return
        if request.method == "DELETE":
            self.deleted.add(route)
        elif request.method in _WITH_BODY:
            for text in (said, *request.query.get("digest", []), *request.query.get("mount", [])):
                try:
                    self.deleted.put_back(route.upstream, route.repository, Digest.parse(text))
                except DigestInvalid:
                    continue


def _exchange(way: _Way, call: Call, naming: Naming, request: Request, response: Response) -> str:
    """In a worker thread: ask, and answer; returns the digest that the upstream names."""
    with call.wanted.explaining():
        exchange = _ask(way, call, request)
    with exchange:
        headers = _headers_back(exchange, naming, request.method)
        run_on_loop(call.interrupt, response.start, exchange.status, headers)
        if request.method != "HEAD":
            _send_back(exchange, call.interrupt, response)
        return exchange.headers.get("docker-content-digest", "")


def _greet(way: _Way, interrupt: Interrupt, request: Request, response: Response) -> None:
    """In a worker thread: ask for `/v2/` as the caller, and answer."""
    authorization = request.headers.get("authorization")
    shown = {"Authorization": authorization} if authorization else {}
    if via := request.headers.get("via"):
        shown["Via"] = via
    with way.http.request("GET", way.upstream.url("/v2/"), shown, interrupt=interrupt) as exchange:
        body = exchange.read(_MAX_GREETING_BYTES)
        if exchange.status not in _GREETINGS:
            raise Unavailable(f"{exchange.url.shown} answers {exchange.status}")
        headers = {name: value for name, value in exchange.headers.items() if _OF_GREETINGS.fullmatch(name)}
        if "www-authenticate" in headers and not exchange.inside:
            _check_realms(headers["www-authenticate"])
    run_on_loop(interrupt, response.send, exchange.status, headers, body)


def _ask(way: _Way, call: Call, request: Request) -> Exchange:
    headers = {name: value for name, value in request.headers.items() if _PASSED_ON.fullmatch(name)}
    authorization = request.headers.get("authorization") or ""
    url = way.upstream.url(call.wanted.path)
    if request.method in _READS:
        if not authorization:
            return way.anybody.ask(request.method, headers, call).exchange
        return follow(way.http, request.method, url, headers, authorization, call)
    if authorization:
        headers["Authorization"] = authorization
    body = _body(call.interrupt, request) if request.method in _WITH_BODY else None
    return way.http.request(request.method, url, headers, interrupt=call.interrupt, body=body)


def _body(interrupt: Interrupt, request: Request) -> PassedBody:
    """The body of a request for the worker thread that sends it on."""
    length = request.headers.get("content-length", "" if "transfer-encoding" in request.headers else "0")
    if length and _LENGTH.fullmatch(length) is None:
        raise BadRequest(f"the Content-Length {length[:40]!r} isn't a length")
    if length and int(length) > MAX_BODY_BYTES:
        raise BodyTooLarge(f"a body of {length} bytes is more than the {MAX_BODY_BYTES} that are passed on")
    passed_bytes = 0

    def read() -> bytes:
        nonlocal passed_bytes
        part = run_on_loop(interrupt, request.some_of_body)
        passed_bytes += len(part)
        if passed_bytes > MAX_BODY_BYTES:
            raise BodyTooLarge(f"more than the {MAX_BODY_BYTES} bytes that are passed on")
        return part

    return PassedBody(read, int(length) if length else None)


def _headers_back(exchange: Exchange, naming: Naming, method: str) -> Mapping[str, str]:
    headers = {name: value for name, value in exchange.headers.items() if _PASSED_BACK.fullmatch(name)}
    if "location" in headers:
        headers["location"] = naming.seen(headers["location"], exchange.url)
    if "link" in headers:
        headers["link"] = naming.seen_links(headers["link"], exchange.url)
    if "www-authenticate" in headers and not exchange.inside:
        _check_realms(headers["www-authenticate"])
    if exchange.status in (204, 304):
        headers.pop("content-length", None)
    return headers


def _check_realms(challenge_line: str) -> None:
    """Nobody is sent for a token by a registry of the internet to what only this host reaches."""
    for challenge in parse_challenges(challenge_line):
        realm = challenge.parameters.get("realm", "")
        if challenge.scheme == "bearer" and names_private(Url.parse(realm).host):
            raise ProtocolError(f"a registry of the internet sends us for a token to {realm[:140]!r}")


def _send_back(exchange: Exchange, interrupt: Interrupt, response: Response) -> None:
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    while count := exchange.readinto(buffer):
        run_on_loop(interrupt, response.write, buffer[:count])
