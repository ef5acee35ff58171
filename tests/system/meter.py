"""The meter in front of an origin: counts what leaves it, and slows, stops or spoils it on demand.

A reverse proxy counts more reliably than the registry's access log: a body is counted while it is sent, so that a test
can act in the middle of it, and there is no line that comes late.
"""

import re
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from typing import Any, Self

from tests.system.http_threads import Handler, ServerThread

_PART_BYTES = 64 * 1024
_GATE_SECONDS = 60
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding"}
_BLOB = re.compile(r"/v2/.+/blobs/(sha256:[0-9a-f]{64})")
_MANIFEST = re.compile(r"/v2/.+/manifests/")


@dataclass(frozen=True)
class Answered:
    """One request that was answered; `body_bytes` is what was sent of the body."""

    method: str
    path: str
    status: int
    body_bytes: int
    authorization: str = field(repr=False)


@dataclass
class Gate:
    """Holds back a blob's bytes from an offset on, until it is opened; at the latest when its context ends."""

    after_bytes: int
    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def wait_reached(self, timeout_seconds: float = 20) -> None:
        """Return once a body stands at the gate."""
        if not self.reached.wait(timeout_seconds):
            raise TimeoutError(f"no body reached the gate at {self.after_bytes} bytes in {timeout_seconds:g} s")

    def open(self) -> None:
        self.opened.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.open()


class Meter:
    """Counts, per digest, the bytes of blobs that `registry` answers with."""

    def __init__(self, dial: Callable[[], HTTPConnection]) -> None:
        self.dial = dial
        self._lock = threading.Lock()
        self._answered: list[Answered] = []
        self._blob_bytes: Counter[str] = Counter()
        self._gates: dict[str, Gate] = {}
        self._manifests = Gate(0)
        self._manifests.open()
        self._spoilt: set[str] = set()
        self._cuts: dict[str, int] = {}
        self.revoked: set[str] = set()
        """Values of Authorization fields that the registry is shown spoilt, as if it had looked them up in a list."""
        self._bytes_per_second = 0.0
        self._free_at = 0.0
        self._closed = threading.Event()

    def serve(self, listener: socket.socket, context: ssl.SSLContext | None = None) -> ServerThread:
        """The proxy as a context; its `url` is the origin that p2pdist is told."""
        return ServerThread(listener, lambda *arguments: _MeterHandler(self, *arguments), context)

    def close(self) -> None:
        """Open every gate, so that whatever waits ends."""
        self._closed.set()
        for gate in [*self._gates.values(), self._manifests]:
            gate.open()

    def gate(self, digest: str, after_bytes: int) -> Gate:
        """Let only the first `after_bytes` of this blob pass until the gate is opened."""
        gate = self._gates[digest] = Gate(after_bytes)
        return gate

    def gate_manifests(self) -> Gate:
        """Answer no request for a manifest until the gate is opened."""
        self._manifests = Gate(0)
        return self._manifests

    def wait_for_manifests(self) -> None:
        """Wait at the gate of manifests; it is open unless a test shut it."""
        self._manifests.reached.set()
        self._manifests.opened.wait(_GATE_SECONDS)

    def pace(self, bytes_per_second: float) -> None:
        """Send bodies no faster than this, all together."""
        self._bytes_per_second = bytes_per_second

    def spoil(self, digest: str) -> None:
        """Send this blob with its last byte changed."""
        self._spoilt.add(digest)

    def cut_once(self, digest: str, after_bytes: int) -> None:
        """Close the next connection that sends this blob after so many bytes of it."""
        self._cuts[digest] = after_bytes

    def answered(self) -> list[Answered]:
        with self._lock:
            return list(self._answered)

    def blob_bytes(self) -> Counter[str]:
        """Bytes sent so far of each blob, bodies under way included."""
        with self._lock:
            return Counter(self._blob_bytes)

    def total_blob_bytes(self) -> int:
        return self.blob_bytes().total()

    def requests(self, method: str, pattern: str) -> int:
        """How many requests of this method had a path that matches `pattern`."""
        return sum(one.method == method and re.search(pattern, one.path) is not None for one in self.answered())

    def record(self, answered: Answered) -> None:
        with self._lock:
            self._answered.append(answered)

    def count(self, digest: str, size_bytes: int) -> None:
        with self._lock:
            self._blob_bytes[digest] += size_bytes

    def room(self, digest: str, offset: int) -> int:
        """How many bytes may be sent from `offset` on; waits at a gate."""
        gate = self._gates.get(digest)
        if gate is not None and not gate.opened.is_set():
            if offset < gate.after_bytes:
                return min(_PART_BYTES, gate.after_bytes - offset)
            gate.reached.set()
            gate.opened.wait(_GATE_SECONDS)
        return _PART_BYTES

    def wait_for_pace(self, size_bytes: int) -> None:
        """Wait until `size_bytes` more may leave."""
        if not self._bytes_per_second:
            return
        with self._lock:
            start = max(self._free_at, time.monotonic())
            self._free_at = start + size_bytes / self._bytes_per_second
        self._closed.wait(max(0.0, start - time.monotonic()))

    def is_cut_at(self, digest: str, offset: int) -> bool:
        """Whether the connection must be closed here; holds once."""
        with self._lock:
            if offset < self._cuts.get(digest, offset + 1):
                return False
            del self._cuts[digest]
            return True

    def is_spoilt(self, digest: str) -> bool:
        return digest in self._spoilt


class _MeterHandler(Handler):
    def __init__(self, meter: Meter, *arguments: Any) -> None:
        self._meter = meter
        super().__init__(*arguments)

    def respond(self) -> None:
        if _MANIFEST.match(self.path):
            self._meter.wait_for_manifests()
        connection = self._meter.dial()
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
            headers["Accept"] = ", ".join(self.headers.get_all("Accept") or ["*/*"])
            if headers.get("Authorization") in self._meter.revoked:
                headers["Authorization"] = "Bearer revoked"
            connection.request(self.command, self.path, headers=headers)
            with connection.getresponse() as response:
                self._answer_with(response)
        finally:
            connection.close()

    def _answer_with(self, response: HTTPResponse) -> None:
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        blob = _BLOB.match(self.path)
        sent = 0
        try:
            if self.command == "GET" and blob and response.status in (200, 206):
                for part in self._blob_parts(response, blob[1]):
                    self.wfile.write(part)
                    self._meter.count(blob[1], len(part))
                    sent += len(part)
            elif self.command == "GET":
                body = response.read()
                self.wfile.write(body)
                sent = len(body)
        finally:
            authorization = self.headers.get("Authorization", "")
            self._meter.record(Answered(self.command, self.path, response.status, sent, authorization))

    def _blob_parts(self, response: HTTPResponse, digest: str) -> Any:
        partial = re.match(r"bytes (\d+)-", response.getheader("Content-Range", ""))
        offset = int(partial[1]) if partial else 0
        end = offset + int(response.getheader("Content-Length", "0"))
        while part := response.read(self._meter.room(digest, offset)):
            if self._meter.is_cut_at(digest, offset):
                return
            self._meter.wait_for_pace(len(part))
            offset += len(part)
            if offset == end and self._meter.is_spoilt(digest):
                part = part[:-1] + bytes([part[-1] ^ 1])
            yield part
