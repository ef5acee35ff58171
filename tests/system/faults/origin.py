"""The registry as its users see it: a docker-registry behind a proxy that plays one fault, once."""

import re
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from typing import Any, Self

from tests.system.faults.cells import Fault, When
from tests.system.faults.tcp import TcpProxy
from tests.system.http_threads import Handler, ServerThread

REFUSED_SECONDS = 1.0
_HANG_SECONDS = 60
_PART_BYTES = 16 * 1024
_MISSING_BYTES = 1000
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "date", "server"}
_RESET = struct.pack("ii", 1, 0)


@dataclass
class Plan:
    """What is to happen to one image: which fault, when, and who is called when the layer's bytes are that far.

    `ready` is called first, half-way through the layer: it returns when the client has some of it.
    """

    layer: str
    layer_bytes: int
    fault: Fault | None = None
    when: When = When.HEADERS
    bytes_per_second: float = 0
    call: Callable[[], None] | None = None
    ready: Callable[[], None] = lambda: None
    spent: bool = False
    status_next: int = 0

    def due_at(self, offset: int) -> bool:
        """Whether it happens at this byte of the layer."""
        return (self.when is When.START) or (self.when is When.MIDDLE and offset >= self.layer_bytes // 2)


class FaultyOrigin:
    """Passes requests on to the registry that `dial` leads to; a context manager, `address` is where it listens."""

    def __init__(self, dial: Callable[[], HTTPConnection]) -> None:
        self.dial = dial
        self.plan = Plan("", 0)
        self.lifted = threading.Event()
        self._lock = threading.Lock()
        self._cleanup = ExitStack()
        self._front: TcpProxy
        self.served_bytes = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            listener = socket.create_server(("127.0.0.1", 0))
            port = int(listener.getsockname()[1])
            stack.enter_context(ServerThread(listener, lambda *arguments: _FaultyHandler(self, *arguments)))
            stack.callback(self.lifted.set)
            self._front = stack.enter_context(TcpProxy(lambda: port))
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._cleanup.close()

    @property
    def address(self) -> str:
        return self._front.address

    @property
    def port(self) -> int:
        return self._front.port

    def set(self, plan: Plan) -> None:
        """What is to happen from now on; the faults of before are over."""
        self.lifted.set()
        self.lifted = threading.Event()
        self.plan = plan

    def take(self, due: bool) -> Fault | None:
        """The fault, if it is due and hasn't struck; whoever is to be called then is called first."""
        plan = self.plan
        with self._lock:
            if plan.spent or not due or (plan.fault is None and plan.call is None):
                return None
            plan.spent = True
        if plan.when is When.MIDDLE:
            plan.ready()
        if plan.call is not None:
            plan.call()
        return plan.fault

    def refuse(self) -> None:
        """Break all connections and take no new one for a while."""
        self._front.arm(Fault.REFUSED)
        threading.Timer(REFUSED_SECONDS, self._front.disarm).start()

    def count(self, size_bytes: int) -> None:
        with self._lock:
            self.served_bytes += size_bytes


class _Cut(Exception):
    """The connection ends here."""


class _FaultyHandler(Handler):
    def __init__(self, origin: FaultyOrigin, *arguments: Any) -> None:
        self._origin = origin
        self._plan = origin.plan
        self._slow = False
        super().__init__(*arguments)

    def respond(self) -> None:
        origin, plan = self._origin, self._plan
        blob = re.search(r"/blobs/(sha256:[0-9a-f]{64})(\?|$)", self.path)
        is_layer = blob is not None and blob[1] == plan.layer and self.command == "GET"
        headers_due = "/manifests/" in self.path and plan.when is When.HEADERS
        fault = origin.take(headers_due or (is_layer and plan.when is When.START))
        if is_layer and plan.status_next:
            fault, plan.status_next = Fault(str(plan.status_next)), 0
        try:
            if fault is not None and self._struck(fault, body=False):
                return
            self._pass_on(fault, is_layer)
        except _Cut:
            return

    def _struck(self, fault: Fault, *, body: bool) -> bool:
        """Do what a fault does to a request; whether that was the answer. In a body it raises `_Cut` then."""
        if fault.status and not body:
            extra = {"Retry-After": "1"} if fault in (Fault.TOO_MANY, Fault.BUSY) else {}
            self.send_response(fault.status)
            for name, value in {"Content-Length": "0", "Connection": "close", **extra}.items():
                self.send_header(name, value)
            self.end_headers()
            return True
        if fault.status:
            self._plan.status_next = fault.status
            raise _Cut
        match fault:
            case Fault.REFUSED:
                self._origin.refuse()
                raise _Cut
            case Fault.HANG:
                self._origin.lifted.wait(_HANG_SECONDS)
                raise _Cut
            case Fault.SLOW:
                self._slow = True
            case Fault.FIN:
                raise _Cut
            case Fault.RST:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                raise _Cut
        return False

    def _pass_on(self, fault: Fault | None, is_layer: bool) -> None:
        connection = self._origin.dial()
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
            headers["Accept"] = ", ".join(self.headers.get_all("Accept") or ["*/*"])
            connection.request(self.command, self.path, headers=headers)
            with connection.getresponse() as response:
                self._answer(response, fault, is_layer)
        finally:
            connection.close()

    def _answer(self, response: HTTPResponse, fault: Fault | None, is_layer: bool) -> None:
        length = int(response.getheader("Content-Length", "0"))
        if fault is Fault.WRONG_LENGTH:
            length = length - _MISSING_BYTES if is_layer else length + _MISSING_BYTES
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in _HOP_BY_HOP | {"content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        match = re.match(r"bytes (\d+)-", response.getheader("Content-Range", ""))
        offset, sent = int(match[1]) if match else 0, 0
        flip = fault is Fault.WRONG_BYTES
        while part := response.read(_PART_BYTES):
            if is_layer and self._plan.when is When.MIDDLE:
                struck = self._origin.take(self._plan.due_at(offset))
                if struck is not None:
                    self._struck(struck, body=True)
                    flip = flip or struck is Fault.WRONG_BYTES
                    if struck is Fault.WRONG_LENGTH:
                        part = part[_MISSING_BYTES:]
            if flip:
                part, flip = bytes([part[0] ^ 1]) + part[1:], False
            if self._slow:
                self._origin.lifted.wait(len(part) / self._plan.bytes_per_second)
            part = part[: length - sent]
            self.wfile.write(part)
            self._origin.count(len(part))
            offset += len(part)
            sent += len(part)
