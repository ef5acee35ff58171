"""One data socket: bytes in as whole frames, frames out in turns. Owned by the relay's thread; knows no rules.

Reading: whole frames are cut from a buffer; SO_RCVLOWAT lets the kernel wait for the rest of a frame instead of
waking us for every segment. Writing: control frames go first; pieces wait in a lane per generation and the lanes take
turns frame by frame; data goes from the file by sendfile (over TLS: read and encrypted). TCP_NOTSENT_LOWAT keeps what
waits in the kernel short, so that control frames aren't stuck behind it and buffers need no size of their own. What is
small goes in one segment with what follows it; acknowledgements, which nobody is in a hurry for, wait a little for
something to go with: a segment of their own costs a wake-up at the other end.
"""

import fcntl
import os
import socket
import ssl
import struct
import termios
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator

from p2pdist.relay.frames import (
    MAX_DATA_BYTES,
    MAX_FRAME_BYTES,
    PREFIX_BYTES,
    Prefix,
    encode_piece,
    read_prefix,
)
from p2pdist.relay.transfer import Outgoing

BUFFER_BYTES = 4 * MAX_FRAME_BYTES
_NOTSENT_BYTES = 128 * 1024
_TURN_BYTES = 512 * 1024
_TCP_NOTSENT_LOWAT = 25


class ConnectionEnded(Exception):
    """The socket is closed, by the peer or by an error; the message says how."""


class Connection:
    """A connected, non-blocking socket, and what is on its way over it.

    `buffer` is where it reads; all connections of a thread share one, since only part of a frame is kept between reads.
    """

    def __init__(
        self, sock: socket.socket | ssl.SSLSocket, buffer: memoryview, on_written: Callable[[Outgoing], None]
    ) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _NOTSENT_BYTES)
        self.sock = sock
        self._fd = sock.fileno()
        self.secure = isinstance(sock, ssl.SSLSocket)
        self._on_written = on_written
        self._buffer = buffer
        self._rest = b""
        self._low_water = 1
        self._control = bytearray()
        self._patient = bytearray()
        self._lanes: OrderedDict[int, deque[tuple[Outgoing, int]]] = OrderedDict()
        self._head = b""
        self._body: tuple[int, int, int] | None = None
        self._leaving: Outgoing | None = None
        self.sent_bytes = 0
        self.received_bytes = 0
        self.queued_pieces = 0

    # Reading.

    def read(self) -> Iterator[tuple[Prefix, memoryview, memoryview]]:
        """Whole frames that have arrived: prefix, meta, data. The views hold until the next step of the iterator.

        Raises `ConnectionEnded` when the peer hung up, `ProtocolError` for what isn't a frame.
        """
        budget = _TURN_BYTES
        buffer = self._buffer
        while budget > 0 or self._holds_decrypted_bytes:
            begun = len(self._rest)
            if begun:
                buffer[:begun] = self._rest
            received = self._receive(buffer[begun:])
            if received is None:
                return
            budget -= received
            self.received_bytes += received
            start, end, missing = 0, begun + received, 1
            while end - start >= PREFIX_BYTES:
                prefix = read_prefix(buffer, start)
                meta = start + PREFIX_BYTES
                data = meta + prefix.meta_bytes
                behind = data + prefix.data_bytes
                if behind > end:
                    missing = behind - end
                    break
                yield prefix, buffer[meta:data], buffer[data:behind]
                start = behind
            self._rest = bytes(buffer[start:end]) if start < end else b""
            if missing != self._low_water and not self.secure:
                self._low_water = missing
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, missing)
            if not self.secure and end < len(buffer):
                return

    @property
    def _holds_decrypted_bytes(self) -> bool:
        """Whether TLS has bytes for us that epoll can't know of."""
        return isinstance(self.sock, ssl.SSLSocket) and self.sock.pending() > 0

    def _receive(self, room: memoryview) -> int | None:
        try:
            received = self.sock.recv_into(room)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except OSError as error:
            raise ConnectionEnded(str(error)) from error
        if not received:
            raise ConnectionEnded("closed by the peer")
        return received

    # Writing.

    def queue_control(self, frame: bytes) -> None:
        """Send a small frame as soon as the one under way has ended."""
        self._control += frame

    def queue_patient(self, frame: bytes) -> None:
        """Send a small frame with whatever goes next, or when `hurry` is called."""
        self._patient += frame

    def hurry(self) -> None:
        """Let what may wait do so no longer."""
        self._control += self._patient
        self._patient.clear()

    def queue_piece(self, outgoing: Outgoing) -> None:
        """Send a piece when its blob's turn comes."""
        self.queued_pieces += 1
        self._lanes.setdefault(outgoing.frame.generation, deque()).append((outgoing, 0))

    def take_queued(self, generations: Collection[int] | None = None) -> list[Outgoing]:
        """Take back the pieces of which no byte has left, of these generations or of all."""
        taken: list[Outgoing] = []
        for generation, lane in list(self._lanes.items()):
            if generations is not None and generation not in generations:
                continue
            begun = deque(item for item in lane if item[1])
            taken += [outgoing for outgoing, offset in lane if not offset]
            if begun:
                self._lanes[generation] = begun
            else:
                del self._lanes[generation]
        return taken

    @property
    def waiting_pieces(self) -> int:
        """How many pieces wait to be sent, whole or in part."""
        return sum(map(len, self._lanes.values()))

    def drop_generation(self, generation: int) -> None:
        """Forget the pieces of a generation, except the frame that is under way."""
        self._lanes.pop(generation, None)

    def sends_from(self, fd: int) -> bool:
        """Whether the frame under way is read from `fd`."""
        return self._body is not None and self._body[0] == fd

    @property
    def has_output(self) -> bool:
        """Whether anything waits to be written."""
        return bool(self._control or self._head or self._body or self._lanes)

    def write(self) -> bool:
        """Write what the socket takes; True when something still waits. Raises `ConnectionEnded`."""
        budget = _TURN_BYTES
        try:
            while budget > 0:
                if not self._head and self._body is None and not self._next_frame():
                    return False
                budget -= self._send_head() if self._head else self._send_body()
                if self._leaving is not None and not self._head and self._body is None:
                    outgoing, self._leaving = self._leaving, None
                    self._on_written(outgoing)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return True
        except OSError as error:
            raise ConnectionEnded(str(error)) from error
        return self.has_output

    def _send_head(self) -> int:
        head = self._head
        sent = self.sock.send(head) if self._body is None else self.sock.send(head, socket.MSG_MORE)
        self._head = head[sent:]
        self.sent_bytes += sent
        return sent

    def _send_body(self) -> int:
        assert self._body is not None
        fd, offset, count = self._body
        sent = os.sendfile(self._fd, fd, offset, count)
        if not sent:
            raise OSError("the blob's file is shorter than its piece")
        self._body = (fd, offset + sent, count - sent) if sent < count else None
        self.sent_bytes += sent
        return sent

    def _next_frame(self) -> bool:
        if not self._lanes:
            if not self._control:
                return False
            self._head = bytes(self._control + self._patient)
            self._control.clear()
            self._patient.clear()
            return True
        generation, lane = self._lanes.popitem(last=False)
        outgoing, offset = lane.popleft()
        transfer, frame, _ = outgoing
        layout = transfer.spec.layout
        length = layout.length(frame.piece)
        count = min(MAX_DATA_BYTES, length - offset)
        at = layout.offset(frame.piece) + offset
        self._head = encode_piece(frame._replace(offset=offset) if offset else frame, count)
        if self._control or self._patient:
            self._head = bytes(self._control + self._patient) + self._head
            self._control.clear()
            self._patient.clear()
        if self.secure:
            self._head += os.pread(transfer.fd, count, at)
        else:
            self._body = (transfer.fd, at, count)
        if offset + count < length:
            lane.appendleft((outgoing, offset + count))
        else:
            self._leaving = outgoing
        if lane:
            self._lanes[generation] = lane
        transfer.counts.sent_bytes += count
        return True

    @property
    def unsent_bytes(self) -> int:
        """What is on its way: in the kernel's queue, unacknowledged bytes included."""
        queued = fcntl.ioctl(self.sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        return int(struct.unpack("i", queued)[0])

    @property
    def mark_bytes(self) -> int:
        """When so many bytes of this connection are delivered, what was queued by `queue_control` is, too."""
        under_way = len(self._head) + (self._body[2] if self._body is not None else 0)
        return self.sent_bytes + under_way + len(self._control)

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()
