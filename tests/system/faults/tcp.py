"""A TCP proxy that plays faults, for protocols that it knows nothing of."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Self

from tests.system.faults.cells import Fault

_PART_BYTES = 64 * 1024
_RESET = struct.pack("ii", 1, 0)
_CUTS = (Fault.FIN, Fault.RST, Fault.REFUSED)


class _Passage:
    """One connection and its way on; each direction has a thread."""

    def __init__(self, proxy: "TcpProxy", client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self.client, self.server = client, server
        self._lock = threading.Lock()
        self._open = True

    def pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := source.recv(_PART_BYTES):
                changed = self._proxy.passing(self, part)
                if changed is None:
                    return
                target.sendall(changed)
        self.end()

    def end(self, *, reset: bool = False, last_words: bytes = b"") -> None:
        """Close both sides, once; `last_words` for the client first."""
        with self._lock:
            if not self._open:
                return
            self._open = False
        self._proxy.forget(self)
        for sock in (self.client, self.server):
            with contextlib.suppress(OSError):
                if reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                elif sock is self.client and last_words:
                    sock.sendall(last_words)
                # Wakes the thread that reads; closing alone doesn't, and nothing is sent before that thread lets go.
                sock.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
            sock.close()


class TcpProxy:
    """Listens on a port of loopback and passes everything on to `target()`, a port there, or does what `arm` says."""

    def __init__(self, target: Callable[[], int], on_bytes: Callable[[int], None] = lambda _: None) -> None:
        self._target = target
        self._on_bytes = on_bytes
        self._fault: Fault | None = None
        self._rate = 0.0
        self._lifted = threading.Event()
        self._lock = threading.Lock()
        self._passages: set[_Passage] = set()
        self._listener: socket.socket | None = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._closing = False

    def __enter__(self) -> Self:
        assert self._listener is not None
        self._accept_from(self._listener)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._closing = True
        self._lifted.set()
        self._stop_listening()
        self._end_all()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    # Faults.

    def arm(self, fault: Fault, bytes_per_second: float = 0) -> None:
        """From now on, for the connections that stand and for those to come."""
        self._lifted.clear()
        self._fault, self._rate = fault, bytes_per_second
        if fault is Fault.REFUSED:
            self._stop_listening()
        if fault in _CUTS or fault.status:
            self._end_all()

    def disarm(self) -> None:
        """All is well again; connections that hung are closed, since bytes of theirs are lost."""
        fault, self._fault = self._fault, None
        self._lifted.set()
        if fault is Fault.HANG:
            self._end_all()
        if self._listener is None and not self._closing:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._accept_from(self._listener)

    def _end_all(self) -> None:
        with self._lock:
            passages = list(self._passages)
        for passage in passages:
            self._cut(passage)

    def _cut(self, passage: _Passage) -> None:
        fault = self._fault
        words = f"HTTP/1.1 {fault.status} Fault\r\nContent-Length: 0\r\n\r\n" if fault and fault.status else ""
        passage.end(reset=fault in (Fault.RST, Fault.REFUSED), last_words=words.encode())

    def passing(self, passage: _Passage, part: bytes) -> bytes | None:
        """What to pass on of `part`; None when the connection is at its end."""
        self._on_bytes(len(part))
        match self._fault:
            case None:
                return part
            case Fault.HANG:
                self._lifted.wait()
                passage.end()
                return None
            case Fault.SLOW:
                self._lifted.wait(len(part) / self._rate)
                return part
            case Fault.WRONG_BYTES:
                return bytes([part[0] ^ 1]) + part[1:]
            case Fault.WRONG_LENGTH:
                return part[1:]
        self._cut(passage)
        return None

    def forget(self, passage: _Passage) -> None:
        with self._lock:
            self._passages.discard(passage)

    # Connections.

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _accept_from(self, listener: socket.socket) -> None:
        threading.Thread(target=self._accept, args=(listener,), name="fault proxy", daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._begin, args=(client,), name="fault passage", daemon=True).start()

    def _begin(self, client: socket.socket) -> None:
        if self._fault is Fault.HANG:
            self._lifted.wait()
            client.close()
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._target()), 5)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        passage = _Passage(self, client, server)
        with self._lock:
            self._passages.add(passage)
        if self._fault is not None and (self._fault in _CUTS or self._fault.status):
            self._cut(passage)
            return
        threading.Thread(target=passage.pump, args=(server, client), name="fault passage", daemon=True).start()
        passage.pump(client, server)
