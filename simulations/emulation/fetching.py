"""One connection of a client: GETs that are received without a detour, and checked by sha256.

Runs in the thread that calls it and connects from where that thread stands; a request whose connection is gone is made
on a new one. Knows nothing of hosts and images.
"""

import hashlib
import mmap
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from p2pdist.oci.manifest import MANIFEST_MEDIA_TYPES
from simulations.emulation.heads import BadMessage, Head, parse_head, read_head

READ_BYTES = 256 * 1024
_CONNECT_SECONDS = 10
_MAX_MANIFEST_BYTES = 4 << 20
_MADV_POPULATE_WRITE = 23  # Linux 5.14, madvise(2); Python's mmap doesn't name it


class Sink(Protocol):
    """Takes a blob's bytes in order, and tells the digest of all of them."""

    def receive(self, sock: socket.socket, buffer: memoryview, limit_bytes: int) -> int:
        """Receive some bytes, `limit_bytes` at most, through `buffer` where that helps; 0 when there are no more."""

    def sha256(self) -> str:
        """The digest of everything received, as hex digits."""


class Streaming:
    """Hashes while the bytes arrive, and keeps none."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def receive(self, sock: socket.socket, buffer: memoryview, limit_bytes: int) -> int:
        count = sock.recv_into(buffer, min(limit_bytes, len(buffer)))
        self._hash.update(buffer[:count])
        return count

    def sha256(self) -> str:
        return self._hash.hexdigest()


class Afterwards:
    """Keeps the bytes, in memory that is there before they come, so that hashing can wait until the clock stopped."""

    def __init__(self, size_bytes: int) -> None:
        self._map = mmap.mmap(-1, size_bytes)
        for advice in (mmap.MADV_HUGEPAGE, _MADV_POPULATE_WRITE):
            with suppress(OSError):
                self._map.madvise(advice)
        self._view = memoryview(self._map)
        self._filled = 0

    def receive(self, sock: socket.socket, buffer: memoryview, limit_bytes: int) -> int:
        room = self._view[self._filled : self._filled + limit_bytes]
        count = sock.recv_into(room[:READ_BYTES]) if room else 0
        self._filled += count
        return count

    def sha256(self) -> str:
        return hashlib.sha256(self._view[: self._filled]).hexdigest()


class Connection:
    """Asks one server after the other, one at a time; `on_socket` is told of every socket, so that it can be cut."""

    def __init__(self, on_socket: Callable[[socket.socket], None]) -> None:
        self._on_socket = on_socket
        self._socket: socket.socket | None = None
        self._server = ""
        self._buffer = memoryview(bytearray(READ_BYTES))

    def close(self) -> None:
        """End the connection, if there is one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def manifest(self, url: str) -> bytes:
        """The body that a manifest's URL gives; raises `BadMessage` for any other answer than 200."""
        head = self._ask(url, {"Accept": ", ".join(MANIFEST_MEDIA_TYPES)})
        size = self._size_of(head, 200, url)
        if size > _MAX_MANIFEST_BYTES:
            raise BadMessage(f"{url}: a manifest of {size} bytes")
        body = bytearray()
        while len(body) < size:
            part = self._needed().recv(size - len(body))
            if not part:
                raise BadMessage(f"{url}: the answer ended after {len(body)} of {size} bytes")
            body += part
        self._done(head)
        return bytes(body)

    def blob(self, url: str, offset: int, sink: Sink, on_bytes: Callable[[int], None]) -> None:
        """Receive a blob from `offset` on; raises `OSError` or `BadMessage` when it doesn't come to its end."""
        head = self._ask(url, {"Range": f"bytes={offset}-"} if offset else {})
        left = self._size_of(head, 206 if offset else 200, url)
        sock = self._needed()
        while left:
            count = sink.receive(sock, self._buffer, left)
            if not count:
                self.close()
                raise BadMessage(f"{url}: the answer ended {left} bytes early")
            left -= count
            on_bytes(count)
        self._done(head)

    def _ask(self, url: str, headers: dict[str, str]) -> Head:
        where = urlsplit(url)
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        target = f"{where.path}?{where.query}" if where.query else where.path
        request = f"GET {target} HTTP/1.1\r\nHost: {where.netloc}\r\n{fields}\r\n".encode()
        if self._socket is not None and self._server == where.netloc:
            with suppress(OSError, BadMessage):
                if (head := self._exchange(request)) is not None:
                    return head
        self._connect(where)
        head = self._exchange(request)
        if head is None:
            raise BadMessage(f"{url}: the connection was closed without an answer")
        return head

    def _exchange(self, request: bytes) -> Head | None:
        sock = self._needed()
        sock.sendall(request)
        head = read_head(sock)
        return parse_head(head) if head else None

    def _connect(self, where: SplitResult) -> None:
        self.close()
        assert where.hostname is not None, f"{where.geturl()} names a host"
        self._socket = socket.create_connection((where.hostname, where.port or 80), _CONNECT_SECONDS)
        self._socket.settimeout(None)
        self._server = where.netloc
        self._on_socket(self._socket)

    def _needed(self) -> socket.socket:
        assert self._socket is not None, "a request was sent"
        return self._socket

    def _size_of(self, head: Head, status: int, url: str) -> int:
        if head.status != status or head.body_bytes is None:
            self.close()
            raise BadMessage(f"{url}: answered with {head.status} instead of {status} and a length")
        return head.body_bytes

    def _done(self, head: Head) -> None:
        if not head.lasting:
            self.close()
