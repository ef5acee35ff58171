"""A blocking HTTP/1.1 client for worker threads, over `http.client`: the seam where its exceptions become ours.

One request is one `Exchange`; redirects, authorization and repetition belong to whoever asks. Connections that were
left in a clean state are kept for the next request to the same server. Why not a client on trio: facts.md, "Python
pieces".
"""

import http.client
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Self

from p2pdist import __version__
from p2pdist.core.errors import InvalidInput, ProtocolError, Unavailable
from p2pdist.http.dial import Dialer, Resolver, drop, resolve, shut_down
from p2pdist.http.headers import Headers
from p2pdist.http.interrupt import Interrupt
from p2pdist.http.proxies import Proxies, ProxyServer
from p2pdist.http.url import Url
from p2pdist.http.via import naming

_USER_AGENT = f"p2pdist/{__version__}"
_IDLE_PER_SERVER = 8
_IDLE_SECONDS = 20.0
_READ_BYTES = 64 * 1024
_CLOSED_WHILE_IDLE = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)


@dataclass(frozen=True, slots=True)
class PassedBody:
    """A request's body that comes while it is sent: `read` blocks for the next bytes and gives none at the end.

    `length_bytes` is None for a body whose length isn't known; it goes out chunked. What `read` raises ends the
    request.
    """

    read: Callable[[], bytes]
    length_bytes: int | None

    def framed(self) -> Iterator[bytes]:
        """The bytes as they go over the connection (RFC 9112, 7.1)."""
        sent_bytes = 0
        while part := self.read():
            sent_bytes += len(part)
            yield part if self.length_bytes is not None else b"%x\r\n%b\r\n" % (len(part), part)
        if self.length_bytes is None:
            yield b"0\r\n\r\n"
        elif sent_bytes != self.length_bytes:
            raise ProtocolError(f"a body of {self.length_bytes} bytes ended after {sent_bytes}")


_Server = tuple[tuple[str, str, int], ProxyServer | None]


class ConnectionBroken(Unavailable):
    """A connection ended, or nothing came over it for too long, before the answer was whole."""


class Stalled(ConnectionBroken):
    """Nothing came over a connection for too long."""


@dataclass(slots=True, eq=False)
class _Link:
    """A connection and what it leads to."""

    server: _Server
    socket: socket.socket
    http: http.client.HTTPConnection
    inside: bool = False
    idle_since: float = 0.0

    def alive(self, now: float) -> bool:
        """Whether it may carry another request: not idle for long, and the server said nothing since."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return now - self.idle_since < _IDLE_SECONDS and not poll.poll(0)

    def close(self) -> None:
        self.http.close()
        self.socket.close()


@dataclass(slots=True)
class _Pool:
    """Connections that wait for another request; safe to use from several threads."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    idle: list[_Link] = field(default_factory=list)
    closed: bool = False

    def take(self, server: _Server, *, public_only: bool) -> _Link | None:
        """A live connection to `server`, if there is one; dead ones are closed on the way."""
        now = time.monotonic()
        with self.lock:
            dead = [link for link in self.idle if not link.alive(now)]
            self.idle = [link for link in self.idle if link not in dead]
            fitting = (link for link in reversed(self.idle) if not (public_only and link.inside))
            found = next((link for link in fitting if link.server == server), None)
            if found is not None:
                self.idle.remove(found)
        for link in dead:
            link.close()
        return found

    def give(self, link: _Link) -> None:
        """Keep `link` for later, or close it when enough are kept."""
        link.idle_since = time.monotonic()
        with self.lock:
            if not self.closed and sum(other.server == link.server for other in self.idle) < _IDLE_PER_SERVER:
                self.idle.append(link)
                return
        link.close()

    def close(self) -> None:
        with self.lock:
            self.closed = True
            idle, self.idle = self.idle, []
        for link in idle:
            link.close()


class Exchange:
    """The answer to one request: status and headers are there, the body is read piecemeal; close it when done."""

    def __init__(self, url: Url, link: _Link, response: http.client.HTTPResponse, call: Interrupt, pool: _Pool) -> None:
        self.url = url
        self.inside = link.inside
        """Whether it came from a private address (reach.py)."""
        self.status = response.status
        self.headers = Headers(response.getheaders())
        self._link = link
        self._response = response
        self._interrupt = call
        self._pool = pool
        self._length = response.length
        self._remaining = response.length
        self._open = True

    @property
    def content_length(self) -> int | None:
        """What Content-Length says, in bytes, also for HEAD; None when it is absent or isn't a number."""
        value = self.headers.get("content-length", "")
        return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else None

    def readinto(self, view: memoryview) -> int:
        """Put the next bytes of the body into `view`, at least one, as soon as they come; 0 at the end.

        Raises `ConnectionBroken` for a body that ends early or stalls.
        """
        with _explained(self.url, self._interrupt):
            if self._remaining is None:
                # Not readinto, which fills the view or loses what it has when the connection breaks.
                some = self._response.read1(len(view))
                view[: len(some)] = some
                return len(some)
            if self._remaining == 0:
                return 0
            count = self._response.fp.readinto1(view[: self._remaining])
            self._remaining -= count
            if count:
                return count
        self._interrupt.check()
        read = (self._length or 0) - self._remaining
        raise ConnectionBroken(f"{self.url.shown} was cut after {read} of {self._length} bytes")

    def read(self, limit_bytes: int) -> bytes:
        """The whole body; raises `ProtocolError` when it is longer than `limit_bytes`."""
        body = self.read_start(limit_bytes + 1) if (self._length or 0) <= limit_bytes else None
        if body is None or len(body) > limit_bytes:
            raise ProtocolError(f"{self.url.shown} is longer than the limit of {limit_bytes} bytes")
        return body

    def read_start(self, limit_bytes: int) -> bytes:
        """The body, or as much of it as `limit_bytes`."""
        body = memoryview(bytearray(limit_bytes))
        filled = 0
        while filled < limit_bytes and (count := self.readinto(body[filled : filled + _READ_BYTES])):
            filled += count
        return bytes(body[:filled])

    def close(self) -> None:
        """Let the connection go: kept when the body was read to its end, else closed. May be repeated."""
        if not self._open:
            return
        self._open = False
        self._interrupt.release(self._link.socket)
        whole = self._response.isclosed() or self._remaining == 0
        self._response.close()
        if whole and not self._response.will_close:
            self._pool.give(self._link)
        else:
            self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class HttpClient:
    """Makes requests; one client may serve many threads. Must be closed.

    `ca_file` is trusted besides the system's authorities. `timeout_seconds` limits opening a connection and every
    single wait for bytes. `proxies` are the environment's unless given. `via` is the node that every request names as
    its sender (via.py).
    """

    def __init__(
        self,
        *,
        ca_file: Path | None = None,
        timeout_seconds: float = 30.0,
        proxies: Proxies | None = None,
        resolver: Resolver = resolve,
        via: str = "",
    ) -> None:
        self._dialer = Dialer(_tls_context(ca_file), timeout_seconds, resolver)
        self._timeout_seconds = timeout_seconds
        self._proxies = Proxies.from_environment() if proxies is None else proxies
        self._pool = _Pool()
        self._via = via

    def request(
        self,
        method: str,
        url: Url,
        headers: Mapping[str, str],
        *,
        interrupt: Interrupt,
        body: bytes | PassedBody | None = None,
        public_only: bool = False,
        wait_seconds: float | None = None,
    ) -> Exchange:
        """Send a request and wait for the head of its answer, whatever the status.

        `wait_seconds` limits every single wait for bytes on the connection further than the client's timeout does.

        A server may answer before it has read the body; the rest isn't sent then. `public_only`: not to an address
        that only we reach, since a server of the internet leads us there; raises `LeadsInside`.

        Raises `ConnectFailed`, `ConnectionBroken`, `ProtocolError` for what isn't HTTP, and `Interrupted`.
        """
        proxy = self._proxies.for_url(url)
        wait = self._timeout_seconds if wait_seconds is None else min(wait_seconds, self._timeout_seconds)
        with _explained(url, interrupt):
            if body is None and (link := self._pool.take((url.origin, proxy), public_only=public_only)):
                link.socket.settimeout(wait)
                try:
                    return self._exchange(link, method, url, headers, interrupt, None)
                except _CLOSED_WHILE_IDLE:
                    interrupt.check()
            connection, inside = self._dialer.dial(url, proxy, interrupt, public_only=public_only)
            connection.settimeout(wait)
            opened = http.client.HTTPConnection(url.host, url.port)
            opened.sock = connection
            link = _Link((url.origin, proxy), connection, opened, inside)
            return self._exchange(link, method, url, headers, interrupt, body)

    def close(self) -> None:
        """Close the connections that are kept; exchanges under way are their owners' to close."""
        self._pool.close()

    def _exchange(
        self,
        link: _Link,
        method: str,
        url: Url,
        headers: Mapping[str, str],
        interrupt: Interrupt,
        body: bytes | PassedBody | None,
    ) -> Exchange:
        proxy = link.server[1]
        forwarded = proxy is not None and url.scheme == "http"
        sent = naming(self._via, headers)
        fields = {"Host": url.authority, "User-Agent": _USER_AGENT, "Accept-Encoding": "identity", **sent}
        if proxy is not None and forwarded and proxy.authorization:
            fields["Proxy-Authorization"] = proxy.authorization
        length = body.length_bytes if isinstance(body, PassedBody) else None if body is None else len(body)
        if length is not None:
            fields["Content-Length"] = str(length)
        elif body is not None:
            fields["Transfer-Encoding"] = "chunked"
        try:
            interrupt.watch(link.socket, partial(shut_down, link.socket))
            link.http.putrequest(
                method, str(url) if forwarded else url.target, skip_host=True, skip_accept_encoding=True
            )
            for name, value in fields.items():
                link.http.putheader(name, value)
            link.http.endheaders(body if isinstance(body, bytes) else None)
            cut = not _send_all(link.socket, body) if isinstance(body, PassedBody) else False
            response = link.http.getresponse()
            response.will_close = response.will_close or cut
            return Exchange(url, link, response, interrupt, self._pool)
        except BaseException:
            drop(link.socket, interrupt)
            link.close()
            raise


def _send_all(connection: socket.socket, body: PassedBody) -> bool:
    """Send a body; False when the server stops taking it, as one does that has answered already."""
    for part in body.framed():
        try:
            connection.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            return False
    return True


@cache
def _system_context() -> ssl.SSLContext:
    """The one that trusts the system's authorities, shared by all clients: each costs most of a MiB."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    if ca_file is None:
        return _system_context()
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"the CA file {ca_file} can't be used: {error}; it must hold certificates in PEM") from error
    return context


@contextmanager
def _explained(url: Url, interrupt: Interrupt) -> Iterator[None]:
    """Turn what the libraries raise into our errors."""
    try:
        yield
    except TimeoutError as error:
        raise Stalled(f"{url.shown} didn't answer in time") from error
    except (OSError, http.client.IncompleteRead, http.client.RemoteDisconnected) as error:
        interrupt.check()
        raise ConnectionBroken(f"the connection for {url.shown} broke: {error or type(error).__name__}") from error
    except (http.client.HTTPException, ValueError) as error:
        interrupt.check()
        raise ProtocolError(f"{url.shown} doesn't answer in HTTP: {error or type(error).__name__}") from error
