"""Opening TCP and TLS connections from a worker thread: every address of a name, through a proxy if one is given.

Knows nothing of requests, apart from the CONNECT that a proxy wants.
"""

import errno
import http.client
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any, Self

from p2pdist.core.errors import ProtocolError, Unavailable
from p2pdist.http.interrupt import Interrupt
from p2pdist.http.proxies import ProxyServer
from p2pdist.http.reach import is_private, names_private
from p2pdist.http.url import Url

AddressInfo = tuple[int, int, int, str, Any]
"""What `socket.getaddrinfo` gives: family, type, protocol, canonical name, socket address."""

Resolver = Callable[[str, int, Interrupt], Sequence[AddressInfo]]
"""Finds the addresses of a host and port; blocks, unless interrupted; raises `OSError` or `UnicodeError`."""

_NEXT_ADDRESS_SECONDS = 0.25


class ConnectFailed(Unavailable):
    """No connection to a server came about: name, address, TLS or proxy."""


class LeadsInside(ProtocolError):
    """A server of the internet would have us connect to an address that only we reach."""


def resolve(host: str, port: int, _: Interrupt) -> Sequence[AddressInfo]:
    """The addresses of a host, by the system's resolver, which can't be interrupted."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


@dataclass(frozen=True, slots=True)
class Dialer:
    """How connections are opened: whom to trust, where names are looked up, and how long it may take.

    `timeout_seconds` limits connecting as a whole, and every later operation on the socket.
    """

    tls: ssl.SSLContext
    timeout_seconds: float
    resolver: Resolver = resolve

    def dial(
        self, url: Url, proxy: ProxyServer | None, interrupt: Interrupt, *, public_only: bool = False
    ) -> tuple[socket.socket, bool]:
        """A connection for requests for `url`, with TLS for https, watched by `interrupt`; whether it leads inside.

        With `public_only` no connection to a private address is made. What a proxy connects to is for the proxy to
        judge, so of its requests only hosts that say by themselves what they are count. Raises `ConnectFailed` or
        `LeadsInside`.
        """
        if proxy is not None and public_only and names_private(url.host):
            raise LeadsInside(f"a server of the internet leads us to {url.authority}, which is no host of it")
        peer = url.authority if proxy is None else f"the proxy {proxy.host}:{proxy.port}"
        with _explained(peer, interrupt), ExitStack() as undo:
            host, port = (url.host, url.port) if proxy is None else (proxy.host, proxy.port)
            connection = self._connect(host, port, peer, interrupt, public_only=public_only and proxy is None)
            inside = names_private(url.host) if proxy is not None else is_private(str(connection.getpeername()[0]))
            undo.callback(drop, connection, interrupt)
            interrupt.watch(connection, partial(shut_down, connection))
            if url.scheme == "https":
                if proxy is not None:
                    _tunnel(connection, url, proxy)
                # The plain socket gives its descriptor away here, so it may no longer be watched.
                interrupt.release(connection)
                connection = self.tls.wrap_socket(connection, server_hostname=url.host, do_handshake_on_connect=False)
                undo.callback(drop, connection, interrupt)
                interrupt.watch(connection, partial(shut_down, connection))
                connection.do_handshake()
            undo.pop_all()
        return connection, inside

    def _connect(self, host: str, port: int, peer: str, interrupt: Interrupt, *, public_only: bool) -> socket.socket:
        """The first connection that succeeds; another address is tried every 250 ms, as in RFC 8305."""
        try:
            found = self.resolver(host, port, interrupt)
        except (OSError, UnicodeError) as error:
            raise ConnectFailed(f"the host {host!r} can't be resolved: {error}") from error
        waiting = _alternating([info for info in found if not (public_only and is_private(str(info[4][0])))])
        if found and not waiting:
            raise LeadsInside(
                f"a server of the internet leads us to {peer}, which has private addresses only; an upstream that is"
                " inside itself may do that"
            )
        deadline = time.monotonic() + self.timeout_seconds
        with _Race() as race:
            while waiting or race.attempts:
                interrupt.check()
                if waiting:
                    race.start(waiting.pop(0))
                pause = min(deadline - time.monotonic(), _NEXT_ADDRESS_SECONDS)
                if pause <= 0:
                    race.failures.append(f"no answer within {self.timeout_seconds:g} s")
                    break
                if connection := race.winner(pause):
                    connection.settimeout(self.timeout_seconds)
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    return connection
        raise ConnectFailed(f"no connection to {peer}: {'; '.join(race.failures) or 'it has no address'}")


class _Race:
    """Attempts to connect that are under way at once; those that didn't win are closed at the end."""

    def __init__(self) -> None:
        self.attempts: dict[int, tuple[socket.socket, str]] = {}
        self.failures: list[str] = []
        self._poll = select.poll()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection, _address in self.attempts.values():
            connection.close()

    def start(self, info: AddressInfo) -> None:
        """Begin to connect to an address."""
        family, kind, protocol, _, address = info
        try:
            connection = socket.socket(family, kind, protocol)
        except OSError as error:
            self.failures.append(f"{address[0]}: {error.strerror}")
            return
        connection.setblocking(False)
        self.attempts[connection.fileno()] = (connection, str(address[0]))
        self._poll.register(connection, select.POLLOUT)
        if (code := connection.connect_ex(address)) not in (0, errno.EINPROGRESS):
            self._fail(connection.fileno(), code)

    def winner(self, seconds: float) -> socket.socket | None:
        """A connection that came about within `seconds`; returns early, with None, when an attempt failed."""
        if not self.attempts:
            return None
        for descriptor, _ in self._poll.poll(seconds * 1000):
            connection, _address = self.attempts[descriptor]
            code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code == 0:
                del self.attempts[descriptor]
                return connection
            self._fail(descriptor, code)
        return None

    def _fail(self, descriptor: int, code: int) -> None:
        connection, address = self.attempts.pop(descriptor)
        self._poll.unregister(descriptor)
        connection.close()
        self.failures.append(f"{address}: {os.strerror(code)}")


def shut_down(connection: socket.socket) -> None:
    """End what another thread waits for on `connection`, without closing it."""
    with suppress(OSError):
        # Not the method of SSLSocket, which drops the TLS state under the reading thread.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def drop(connection: socket.socket, interrupt: Interrupt) -> None:
    """Close a connection that `interrupt` may be watching."""
    interrupt.release(connection)
    connection.close()


def _alternating(addresses: Sequence[AddressInfo]) -> list[AddressInfo]:
    """The addresses in the resolver's order, but with the families taking turns (RFC 8305, 4)."""
    if not addresses:
        return []
    first = [info for info in addresses if info[0] == addresses[0][0]]
    others = [info for info in addresses if info[0] != addresses[0][0]]
    return [info for pair in zip_longest(first, others) for info in pair if info is not None]


def _tunnel(connection: socket.socket, url: Url, proxy: ProxyServer) -> None:
    """Have the proxy connect on to the host of `url` (RFC 9110, 9.3.6)."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    lines = [f"CONNECT {host}:{url.port} HTTP/1.1", f"Host: {host}:{url.port}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    connection.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
    response = http.client.HTTPResponse(connection, method="CONNECT")
    try:
        response.begin()
    finally:
        response.close()
    if response.status == http.client.PROXY_AUTHENTICATION_REQUIRED:
        raise ConnectFailed(
            f"the proxy {proxy.host}:{proxy.port} refuses our credentials for {url.authority}; "
            "write them as http://user:password@host:port in HTTPS_PROXY"
        )
    if not 200 <= response.status < 300:
        raise ConnectFailed(
            f"the proxy {proxy.host}:{proxy.port} doesn't connect to {url.authority}: "
            f"{response.status} {response.reason[:80]!r}; if it should be reached directly, name it in NO_PROXY"
        )


@contextmanager
def _explained(peer: str, interrupt: Interrupt) -> Iterator[None]:
    """Turn what the libraries raise into `ConnectFailed`."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise ConnectFailed(
            f"the certificate that came through {peer} isn't trusted: {error.verify_message}; "
            "if a CA of your own signed it, name that CA's file in ca_file"
        ) from error
    except TimeoutError as error:
        raise ConnectFailed(f"{peer} took a connection but didn't finish opening it in time") from error
    except (OSError, http.client.HTTPException) as error:
        interrupt.check()
        raise ConnectFailed(f"{peer} took a connection but broke it off while it was opened: {error}") from error
