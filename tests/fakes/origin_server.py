"""A registry on loopback that does as a script tells it: well-behaved unless told otherwise, in threads.

`OriginServer` serves what was put into it. `script` queues, for one path, what happens to the next requests: a `Reply`,
or a function that makes one from the request and the good reply. `guard` is asked before everything else.
"""

import base64
import json
import re
import ssl
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from p2pdist.core.digest import Digest

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True)
class Seen:
    """A request that arrived."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query)


@dataclass(frozen=True)
class Reply:
    """An answer and what goes wrong with it."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    announced: int | None = None
    """A Content-Length other than the body's; -1 for none."""
    cut_after: int | None = None
    """Close the connection after so many bytes of the body; -1: before anything."""
    hang_after: int | None = None
    """Say nothing more after so many bytes of the body, until the server ends; -1: before anything."""
    chunked: bool = False
    raw: bytes | None = None
    """Send this, and nothing else."""
    drips: bool = False
    """Send a header line that has no end, a byte every 20 ms."""


Step = Reply | Callable[[Seen, Reply], Reply]
Guard = Callable[[Seen], Reply | None]


def cut(after: int) -> Callable[[Seen, Reply], Reply]:
    """The good reply, cut after so many bytes."""
    return lambda _, reply: replace(reply, cut_after=after)


def oci_error(status: int, code: str, message: str = "no", **headers: str) -> Reply:
    """An error answer as registries give it."""
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def image_manifest(*layers: bytes) -> bytes:
    """A small image manifest that names these layers."""

    def pointer(data: bytes) -> dict[str, Any]:
        return {"mediaType": "application/x", "digest": str(Digest.of(data)), "size": len(data)}

    document = {"schemaVersion": 2, "config": pointer(b"{}"), "layers": [pointer(data) for data in layers]}
    return json.dumps(document | {"mediaType": MANIFEST_TYPE}).encode()


class OriginServer:
    """Listens on 127.0.0.1 while it is entered."""

    def __init__(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", name: str = "") -> None:
        self.requests: list[Seen] = []
        self.connections = 0
        self.guard: Guard = lambda _: None
        self.closing = threading.Event()
        self.hanging = threading.Event()
        """Set when a reply begins to hang."""
        self._content: dict[str, Reply] = {}
        self._scripts: defaultdict[str, deque[Step]] = defaultdict(deque)
        self._lock = threading.Lock()
        self._http = _Server(host, self)
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        scheme = "http" if tls is None else "https"
        shown = name or (f"[{host}]" if ":" in host else host)
        self.port = self._http.server_address[1]
        self.url = f"{scheme}://{shown}:{self.port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.drop_connections()
        self._http.server_close()
        self._thread.join()

    def put_blob(self, repository: str, data: bytes) -> Digest:
        """Serve `data` as a blob."""
        digest = Digest.of(data)
        headers = {"Docker-Content-Digest": str(digest), "ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        self._content[f"/v2/{repository}/blobs/{digest}"] = Reply(200, headers, data)
        return digest

    def put_manifest(self, repository: str, tag: str, body: bytes, media_type: str = MANIFEST_TYPE) -> Digest:
        """Serve `body` as the manifest of `tag` and of its digest."""
        digest = Digest.of(body)
        reply = Reply(200, {"Content-Type": media_type, "Docker-Content-Digest": str(digest)}, body)
        self._content[f"/v2/{repository}/manifests/{tag}"] = reply
        self._content[f"/v2/{repository}/manifests/{digest}"] = reply
        return digest

    def put(self, path: str, reply: Reply) -> None:
        """Serve `reply` at any path."""
        self._content[path] = reply

    def script(self, path: str, *steps: Step) -> None:
        """Have the next requests for `path` answered by `steps`, one each."""
        self._scripts[path].extend(steps)

    def seen(self, path: str) -> list[Seen]:
        """The requests for `path`, in order."""
        with self._lock:
            return [seen for seen in self.requests if seen.path == path]

    def answer(self, seen: Seen) -> Reply:
        with self._lock:
            self.requests.append(seen)
            refused = self.guard(seen)
            if refused is not None:
                return refused
            good = _ranged(seen, self._content.get(seen.path) or oci_error(404, "BLOB_UNKNOWN", "unknown here"))
            script = self._scripts[seen.path]
            step = script.popleft() if script else good
            return step(seen, good) if callable(step) else step


def _ranged(seen: Seen, reply: Reply) -> Reply:
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", seen.headers.get("range", ""))
    if match is None or "ETag" not in reply.headers:
        return reply
    if seen.headers.get("if-range", reply.headers["ETag"]) != reply.headers["ETag"]:
        return reply
    size = len(reply.body)
    start, end = int(match[1]), min(int(match[2] or size) + 1, size)
    if start >= size:
        return oci_error(416, "RANGE_INVALID", Content_Range=f"bytes */{size}")
    content_range = {"Content-Range": f"bytes {start}-{end - 1}/{size}"}
    return Reply(206, reply.headers | content_range, reply.body[start:end])


class TokenServer:
    """The guard of a registry that wants tokens, and the server that gives them, at `/token` of the registry itself.

    Anonymous tokens open the repositories in `public`; those for a user, or for an identity token, open all.
    """

    def __init__(self, server: OriginServer, users: dict[str, str], public: tuple[str, ...] = ()) -> None:
        self.users = users
        self.public = public
        self.identity_tokens: set[str] = set()
        self.valid: set[str] = set()
        self.expires_in: int | None = 300
        self.anonymous_refused = False
        self.field = "token"
        self._server = server
        self._issued = 0
        server.guard = self.guard

    def guard(self, seen: Seen) -> Reply | None:
        if seen.path == "/token":
            return self._give(seen)
        repository = seen.path.removeprefix("/v2/").partition("/manifests/")[0].partition("/blobs/")[0]
        token = seen.headers.get("authorization", "").removeprefix("Bearer ")
        if token in self.valid and (token.startswith("user") or repository in self.public):
            return None
        challenge = f'Bearer realm="{self._server.url}/token",service="reg",scope="repository:{repository}:pull"'
        return oci_error(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate=challenge)

    def _give(self, seen: Seen) -> Reply:
        kind = "anonymous"
        if seen.method == "POST":
            form = parse_qs(seen.body.decode())
            if form["refresh_token"][0] not in self.identity_tokens or form["grant_type"] != ["refresh_token"]:
                return oci_error(401, "UNAUTHORIZED", "bad refresh token")
            kind = "user"
        elif authorization := seen.headers.get("authorization"):
            user, _, password = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
            if self.users.get(user) != password:
                return oci_error(401, "UNAUTHORIZED", "bad password")
            kind = "user"
        elif self.anonymous_refused:
            return oci_error(401, "UNAUTHORIZED", "who are you")
        self._issued += 1
        token = f"{kind}-{self._issued}"
        self.valid.add(token)
        answer: dict[str, object] = {self.field: token}
        if self.expires_in is not None:
            answer["expires_in"] = self.expires_in
        return Reply(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())


def basic_guard(user: str, password: str) -> Guard:
    """A registry behind htpasswd."""
    expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def guard(seen: Seen) -> Reply | None:
        if seen.headers.get("authorization") == expected:
            return None
        return oci_error(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="registry, private"')

    return guard


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128
    block_on_close = True

    def __init__(self, host: str, origin: OriginServer) -> None:
        import socket

        self.origin = origin
        self.open: set[Any] = set()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are what these tests are about."""

    def process_request(self, request: Any, client_address: Any) -> None:
        self.origin.connections += 1
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def drop_connections(self) -> None:
        from p2pdist.http.dial import shut_down

        for request in list(self.open):
            shut_down(request)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """The tests look at `requests`."""

    def _serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self._read_body()
        if body is None:
            self.close_connection = True
            return
        reply = self.server.origin.answer(Seen(self.command, self.path, headers, body))
        if reply.raw is not None:
            self.wfile.write(reply.raw)
            self.close_connection = True
            return
        if reply.drips:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            while not self.server.origin.closing.wait(0.02):
                self.wfile.write(b"x")
        if reply.drips or reply.cut_after == -1 or self._hangs(reply.hang_after, -1):
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif reply.announced != -1:
            self.send_header("Content-Length", str(len(reply.body) if reply.announced is None else reply.announced))
        else:
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(reply)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

    def _read_body(self) -> bytes | None:
        """The body; None for one that is cut, which no server answers."""
        if self.headers.get("transfer-encoding") != "chunked":
            length = int(self.headers.get("content-length", 0))
            body = self.rfile.read(length)
            return body if len(body) == length else None
        body = b""
        while line := self.rfile.readline():
            if int(line, 16) == 0:
                self.rfile.readline()
                return body
            body += self.rfile.read(int(line, 16))
            self.rfile.readline()
        return None

    def _send_body(self, reply: Reply) -> None:
        stop = next((at for at in (reply.cut_after, reply.hang_after) if at is not None), len(reply.body))
        body = reply.body[:stop]
        if reply.chunked:
            for at in range(0, len(body), 10_000):
                part = body[at : at + 10_000]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            if stop == len(reply.body):
                self.wfile.write(b"0\r\n\r\n")
        else:
            self.wfile.write(body)
        self.wfile.flush()
        if self._hangs(reply.hang_after, reply.hang_after) or reply.cut_after is not None or reply.announced:
            self.close_connection = True

    def _hangs(self, hang_after: int | None, here: int | None) -> bool:
        if hang_after is None or hang_after != here:
            return False
        self.server.origin.hanging.set()
        self.server.origin.closing.wait()
        return True
