"""One data connection from first byte to last: dialling or accepting, TLS if it begins so, handshake, frames.

Owned by the relay's thread; the reactor tells it about readiness and gets whole frames back. The pieces that arrive in
several frames are put together here.
"""

import errno
import os
import select
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from p2pdist.core.errors import ProtocolError
from p2pdist.pki.contexts import explain, peer_identity
from p2pdist.relay.connection import Connection, ConnectionEnded
from p2pdist.relay.frames import Kind, PieceFrame
from p2pdist.relay.handshake import Handshake, NotLeased
from p2pdist.relay.liveness import Liveness
from p2pdist.relay.transfer import Outgoing

HANDSHAKE_SECONDS = 5.0
DIAL_SECONDS = 1.0
HELD_SECONDS = 2.0
_TLS_RECORD_HANDSHAKE = 0x16
_MAX_PARTS = 64
_MAX_HELD = 2
_IN = select.EPOLLIN
_IN_AND_OUT = select.EPOLLIN | select.EPOLLOUT


@dataclass(frozen=True, slots=True)
class TlsContexts:
    """The two ends of mutual TLS between members of the fleet."""

    server: ssl.SSLContext
    client: ssl.SSLContext


class Phase(Enum):
    """How far a connection has come."""

    DIALLING = auto()
    SNIFFING = auto()
    ENCRYPTING = auto()
    GREETING = auto()
    READY = auto()


@dataclass(slots=True)
class Part:
    """A piece of which not all frames have arrived."""

    first: PieceFrame
    data: bytearray
    received_bytes: int = 0


@dataclass(slots=True)
class Session:
    """A data connection and what is known of its other end."""

    sock: socket.socket | ssl.SSLSocket
    phase: Phase
    deadline: float
    handshake: Handshake
    tls: TlsContexts | None
    buffer: memoryview
    on_written: Callable[[Outgoing], None]
    dialled_node: str | None = None
    wants_tls: bool = False
    node: str = ""
    connection: Connection | None = None
    liveness: Liveness = field(default_factory=lambda: Liveness(0.0))
    owing: bool = False
    parts: dict[int, Part] = field(default_factory=dict)
    frozen_at: float | None = None
    held: list[tuple[Kind, bytes]] = field(default_factory=list)
    events: int = 0
    fd: int = field(init=False)

    def __post_init__(self) -> None:
        self.fd = self.sock.fileno()

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted and its peer showed a certificate."""
        return isinstance(self.sock, ssl.SSLSocket)

    def wanted_events(self) -> int:
        """What epoll is to wait for."""
        if self.connection is not None:
            return _IN_AND_OUT if self.connection.has_output else _IN
        if self.phase is Phase.DIALLING:
            return select.EPOLLOUT
        if self.phase is Phase.ENCRYPTING:
            return self.events or _IN
        return _IN

    def advance(self) -> None:
        """Go on with whatever comes before frames; raises `ConnectionEnded` or `ProtocolError`."""
        if self.phase is Phase.DIALLING:
            failure = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failure:
                raise ConnectionEnded(f"{os.strerror(failure)} ({errno.errorcode.get(failure, failure)})")
            self.deadline += HANDSHAKE_SECONDS
            if self.wants_tls:
                self._encrypt(server_side=False)
            else:
                self._greet()
        elif self.phase is Phase.SNIFFING:
            try:
                first = self.sock.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return
            except OSError as error:
                raise ConnectionEnded(str(error)) from error
            if not first:
                raise ConnectionEnded("closed by the peer")
            if first[0] == _TLS_RECORD_HANDSHAKE:
                self._encrypt(server_side=True)
            else:
                self._greet()
        if self.phase is Phase.ENCRYPTING:
            self._go_on_encrypting()

    def _encrypt(self, server_side: bool) -> None:
        if self.tls is None:
            raise ProtocolError("the peer wants TLS, but this node has no certificate")
        context = self.tls.server if server_side else self.tls.client
        self.sock = context.wrap_socket(self.sock, server_side=server_side, do_handshake_on_connect=False)
        self.phase = Phase.ENCRYPTING

    def _go_on_encrypting(self) -> None:
        assert isinstance(self.sock, ssl.SSLSocket)
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            self.events = select.EPOLLIN
        except ssl.SSLWantWriteError:
            self.events = select.EPOLLOUT
        except ssl.SSLError as error:
            raise ProtocolError(f"TLS between relay members failed: {explain(error)}") from error
        except OSError as error:
            raise ConnectionEnded(str(error)) from error
        else:
            self._greet()

    def _greet(self) -> None:
        self.phase = Phase.GREETING
        self.connection = Connection(self.sock, self.buffer, self.on_written)
        self.connection.queue_control(self.handshake.hello())

    def greet(self, kind: Kind, meta: memoryview) -> bool:
        """Take a frame of the handshake; True when it is done and `node` says who the peer is.

        A dialler that isn't in the table yet may be in a moment: its frames are held until the table is another.
        """
        assert self.connection is not None
        if self.held:
            if len(self.held) >= _MAX_HELD:
                raise ProtocolError("more frames than a handshake has")
            self.held.append((kind, bytes(meta)))
            return False
        try:
            answer = self.handshake.receive(kind, meta)
        except NotLeased:
            if self.dialled_node is not None:
                raise
            self.held.append((kind, bytes(meta)))
            self.deadline = min(self.deadline, time.monotonic() + HELD_SECONDS)
            return False
        if answer:
            self.connection.queue_control(answer)
        if self.handshake.peer is None:
            return False
        if self.dialled_node is not None and self.handshake.peer != self.dialled_node:
            raise ProtocolError(f"dialled {self.dialled_node}, but {self.handshake.peer} answered")
        if self.secure:
            identity = peer_identity(self.sock)
            if identity is None or identity.id != self.handshake.peer:
                raise ProtocolError(f"{self.handshake.peer} showed the certificate of {identity}")
        self.node = self.handshake.peer
        self.phase = Phase.READY
        return True

    def add_part(self, frame: PieceFrame, data: memoryview, piece_bytes: int) -> tuple[PieceFrame, memoryview] | None:
        """Put a frame that isn't a whole piece to the others of its piece; the first frame and all bytes with the last.

        What follows a part that was refused while it waited for its epoch is dropped.
        """
        if not data:
            raise ProtocolError(f"a frame of piece {frame.piece} without bytes")
        if frame.offset == 0:
            if len(self.parts) >= _MAX_PARTS:
                raise ProtocolError(f"more than {_MAX_PARTS} pieces interleaved on one connection")
            part = self.parts[frame.tag] = Part(frame, bytearray(piece_bytes))
        else:
            known = self.parts.get(frame.tag)
            if known is None:
                return None
            part = known
            if part.first.piece != frame.piece or part.received_bytes != frame.offset:
                raise ProtocolError(f"part {frame.offset} of piece {frame.piece} doesn't follow what came before")
        part.data[frame.offset : frame.offset + len(data)] = data
        part.received_bytes += len(data)
        if part.received_bytes < piece_bytes:
            return None
        del self.parts[frame.tag]
        return part.first, memoryview(part.data)

    def drop_generation(self, generation: int) -> list[int]:
        """Forget what is half here of a generation; the tags of those pieces."""
        tags = [tag for tag, part in self.parts.items() if part.first.generation == generation]
        for tag in tags:
            del self.parts[tag]
        if self.connection is not None:
            self.connection.drop_generation(generation)
        return tags

    def close(self) -> None:
        """Close the socket."""
        if self.connection is not None:
            self.connection.close()
        else:
            self.sock.close()
