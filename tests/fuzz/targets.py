"""One function a parser: it gets any bytes, and fails only by a bug."""

import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime

import h11
import trio
import trio.testing

from p2pdist.agent.links import replaced, without
from p2pdist.agent.routes import BlobRoute, ManifestRoute, ReferrersRoute, parse_route
from p2pdist.core.digest import Digest
from p2pdist.core.errors import DigestInvalid, InvalidInput, NotFound, P2PDistError, ProtocolError
from p2pdist.http.closing import Closing
from p2pdist.http.connection import Connection
from p2pdist.http.content_range import parse_content_range
from p2pdist.http.headers import accepts
from p2pdist.http.limits import Limits
from p2pdist.http.multipart import Multipart
from p2pdist.http.ranges import MOST_RANGES, RangeNotSatisfiable, parse_ranges
from p2pdist.http.request import BadRequest, Request, Target
from p2pdist.http.response import Response
from p2pdist.http.retry_after import parse_retry_after
from p2pdist.http.url import Url
from p2pdist.oci.challenge import parse_challenges, relayed
from p2pdist.oci.errors import NameInvalid, parse_error_body
from p2pdist.oci.manifest import parse_manifest
from p2pdist.oci.reference import Reference, parse_target

_UPSTREAMS = ("docker.io", "ghcr.io", "localhost:5000")
_NOW = datetime(2026, 1, 2, tzinfo=UTC)
_QUICK = Limits(header_seconds=1, body_seconds=1, idle_seconds=1, half_close_seconds=0.01, linger_seconds=1)


def ranges(data: bytes) -> None:
    """A Range field, for a representation whose size is in the first two bytes."""
    size = int.from_bytes(data[:2], "big")
    found = parse_ranges(data[2:].decode("latin-1"))
    if found is None:
        return
    assert 1 <= len(found.specs) <= MOST_RANGES
    try:
        parts = found.resolve(size)
    except RangeNotSatisfiable:
        return
    if parts is None:
        return
    assert all(0 <= part.start < part.end <= size for part in parts)
    assert sum(part.length for part in parts) <= size
    framing = Multipart(parts, size, "a/b")
    heads = sum(len(framing.head(index)) for index in range(len(parts)))
    assert framing.length == heads + sum(part.length for part in parts) + len(framing.tail)


def path(data: bytes) -> None:
    """A request target, up to what it names among the upstreams."""
    try:
        target = Target.parse(data.decode("latin-1"))
    except BadRequest:
        return
    for default in (None, "docker.io"):
        try:
            route = parse_route(target.path, target.query.get("ns", []), _UPSTREAMS, default)
        except (InvalidInput, NotFound):
            continue
        if isinstance(route, (ManifestRoute, BlobRoute, ReferrersRoute)):
            assert route.upstream in _UPSTREAMS
            assert ".." not in route.repository.split("/")


def query(data: bytes) -> None:
    """A query, from which parameters are taken and into which others are put."""
    text = data.decode("latin-1")
    assert "ns" not in [part.partition("=")[0] for part in without(text, "ns").split("&")]
    assert replaced(text, {"from": "a/b"}).endswith("from=a/b")


def challenge(data: bytes) -> None:
    """A WWW-Authenticate field; what is relayed of it says the same when it is read again."""
    value = data.decode("latin-1")
    try:
        parse_challenges(value)
        sent = relayed(value)
    except ProtocolError:
        return
    if sent is not None:
        assert relayed(str(sent)) == sent
        assert "\n" not in str(sent)
        assert "\r" not in str(sent)


def reference(data: bytes) -> None:
    """An image reference, and what may stand behind /manifests/."""
    text = data.decode("utf-8", "replace")
    with suppress(NameInvalid, DigestInvalid):
        parse_target(text)
    try:
        found = Reference.parse(text)
    except (NameInvalid, DigestInvalid):
        return
    assert Reference.parse(str(found)) == found


def fields(data: bytes) -> None:
    """Digests, Accept, Content-Range, Retry-After and Location fields."""
    text = data.decode("latin-1")
    with suppress(DigestInvalid):
        assert str(Digest.parse(text)) == text
    accepts(text, "application/vnd.oci.image.index.v1+json")
    with suppress(ProtocolError):
        part = parse_content_range(text)
        assert part.start < part.end
    seconds = parse_retry_after(text, _NOW)
    assert seconds is None or seconds >= 0
    with suppress(InvalidInput):
        url = Url.parse("https://registry.example/v2/").join(text)
        assert Url.parse(str(url)) == url
        assert not set(url.target) & set(" \r\n")


def documents(data: bytes) -> None:
    """Manifests, and bodies of errors."""
    parse_error_body(data)
    for media_type in ("application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"):
        with suppress(P2PDistError):
            parse_manifest(data, media_type)


def http(data: bytes) -> None:
    """Bytes on a connection of the server; where one is NUL it gets time to read what came before.

    Every answer is whole, the end is a FIN, and nothing is taken for a bug.
    """
    with _errors_logged() as errors:
        methods, received = trio.run(_talk, data.split(b"\0"))
    assert not errors, errors
    rest = received
    for method in methods:
        if rest:
            rest = _without_answer(rest, "HEAD" if method == "HEAD" else "GET")
    if rest:  # The answer to a request that was refused, of which only we know the method.
        rest = _without_answer(rest, "HEAD" if b"HEAD " in data and rest.endswith(b"\r\n\r\n") else "GET")
    assert not rest, rest[:300]


def _without_answer(received: bytes, method: str) -> bytes:
    """What follows the first answer; it must be whole, and no 500."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "fuzz")]))
    client.send(h11.EndOfMessage())
    client.receive_data(received)
    client.receive_data(b"")
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        assert isinstance(event, (h11.InformationalResponse, h11.Response, h11.Data)), (event, received[:300])
        assert not isinstance(event, h11.Response) or event.status_code != 500, received[:300]
    return client.trailing_data[0]


async def _talk(writes: list[bytes]) -> tuple[list[str], bytes]:
    """The methods of the requests that were handled, and what the server sent; raises when it ends by a reset."""
    ours, theirs = _connected()
    methods: list[str] = []

    async def handle(request: Request, response: Response) -> None:
        methods.append(request.method)
        found = parse_ranges(request.headers.get("range"))
        parts = None if found is None else found.resolve(1000)
        body = await request.body(1000) if request.method in ("POST", "PUT") else b""
        await response.send(206 if parts else 200, {"X-Path": str(len(request.path))}, body)

    received = bytearray()
    async with ours, trio.open_nursery() as nursery:
        server = Connection(theirs, handle, _QUICK, trio.CapacityLimiter(1), lambda scope: nullcontext(), Closing())
        nursery.start_soon(server.serve)
        nursery.start_soon(_write, ours, writes)
        while more := await ours.receive_some(65536):
            received += more
    return methods, bytes(received)


def _connected() -> tuple[trio.SocketStream, trio.SocketStream]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    return trio.SocketStream(trio.socket.from_stdlib_socket(ours)), trio.SocketStream(
        trio.socket.from_stdlib_socket(theirs)
    )


async def _write(stream: trio.SocketStream, writes: list[bytes]) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        for data in writes:
            await stream.send_all(data)
            await trio.testing.wait_all_tasks_blocked()
        await stream.send_eof()


@contextmanager
def _errors_logged() -> Iterator[list[str]]:
    """What is logged as an error, which a client never may cause."""
    found: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    kept = Kept(logging.ERROR)
    logging.getLogger().addHandler(kept)
    try:
        yield found
    finally:
        logging.getLogger().removeHandler(kept)


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (ranges, path, query, challenge, reference, fields, documents, http)
}

SEEDS: Mapping[str, tuple[bytes, ...]] = {
    "ranges": (b"\x03\xe8bytes=0-99,200-,-5", b"\0\0bytes=0-", b"\x01\0bytes=" + b"1-2," * 50),
    "path": (
        b"/v2/library/app/manifests/1.2?ns=docker.io",
        b"/v2/ghcr.io/team/app/blobs/sha256:" + b"a" * 64,
        b"/docker.io/v2/app/blobs/uploads/x%2Fy?digest=",
        b"http://host/v2/app/tags/list?n=5&last=",
    ),
    "query": (b"ns=docker.io&n=5&%6es=x", b"from=a&mount=b"),
    "challenge": (
        b'Bearer realm="https://auth.example/token",service="reg",scope="repository:a/b:pull", Basic realm="x"',
        b'Bearer realm="a\\"b\\\\", error=invalid_token',
    ),
    "reference": (b"ghcr.io/team/app:1.2@sha256:" + b"0" * 64, b"[::1]:5000/app", b"app"),
    "fields": (
        b"bytes 0-99/1000",
        b"Wed, 21 Oct 2026 07:28:00 GMT",
        b"application/*;q=0.5, */*;q=0",
        b"//other.example/x?y#z",
        b"sha512:" + b"f" * 128,
    ),
    "documents": (
        b'{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"sha256:' + b"1" * 64 + b'","size":3},"layers":[]}',
        b'{"schemaVersion":2,"manifests":[]}',
        b'{"errors":[{"code":"DENIED","message":"no"}]}',
    ),
    "http": (
        b"GET /v2/ HTTP/1.1\r\nHost: a\r\nRange: bytes=0-5,7-9\r\n\r\n\0GET / HTTP/1.0\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n\0hello",
        b"PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\nxxxx",
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n\0abc",
        b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\nHEAD /%ff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    ),
}
