"""The sending half of a client's socket: bytes from memory, and runs of a file by sendfile(2).

sendfile on a file that isn't in the page cache blocks for as long as the disk takes, so it runs in a worker thread. One
hop to a thread costs about 175 us, as much as sending 1 MiB, so the thread stays as long as the client takes what it is
sent within a few milliseconds: a client on this host costs one hop in 64 MiB. Waiting for a slow client happens on the
event loop, where it costs no thread. A short run that is in the page cache (what a relay has just written always is) is
read and sent without a hop. Knows sockets and files, not HTTP.
"""

import errno
import fcntl
import os
import select
import struct
import termios

import trio

from p2pdist.core.errors import P2PDistError

_HOP_BYTES = 64 * 1024 * 1024
"""The most that one stay in a worker thread sends: a client as fast as the disk must not keep the thread."""
_PATIENCE_MILLISECONDS = 5
"""How long a worker thread waits for room in a full socket."""
_INLINE_BYTES = 256 * 1024
"""Runs up to this length are sent from memory when they are cached."""
_HANGUPS = frozenset(
    {
        errno.EPIPE,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ENETDOWN,
    }
)


class ClientGone(P2PDistError):
    """The client hung up, or took no byte for too long. A handler lets it pass; the connection's handler absorbs it."""


def is_hangup(error: OSError) -> bool:
    """Whether `error` says that the other end of a connection went away, and not that something failed here."""
    return error.errno in _HANGUPS


class Outlet:
    """Sends to one client; one task at a time."""

    def __init__(self, socket: trio.socket.SocketType, stall_seconds: float, threads: trio.CapacityLimiter) -> None:
        self._socket = socket
        self._stall_seconds = stall_seconds
        self._threads = threads
        self.sending = False
        """Whether a send is under way, that is, whether the client is due to take something."""
        self.sent_bytes = 0
        """How much the kernel has taken for this client."""

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`; raises `ClientGone`."""
        self.sending = True
        try:
            with memoryview(data) as view:
                offset = 0
                while offset < len(view):
                    sent = self._write(view[offset:])
                    if sent == 0:
                        await self._wait_writable()
                    offset += sent
        finally:
            self.sending = False
        await trio.lowlevel.checkpoint()

    async def send_file(self, fd: int, offset: int, count: int) -> None:
        """Send `count` bytes of the file `fd` from `offset` on.

        Raises `ClientGone`, or `OSError` when the file can't be read or ends before.
        """
        end = offset + count
        if count <= _INLINE_BYTES:
            cached = _read_cached(fd, offset, count)
            await self.send(cached)
            offset += len(cached)
        self.sending = True
        try:
            while offset < end:
                wanted = min(end - offset, _HOP_BYTES)
                sent = await self._push(fd, offset, wanted)
                offset += sent
                if sent < wanted:
                    await self._wait_writable()
        finally:
            self.sending = False

    def _write(self, data: memoryview) -> int:
        """Give the kernel as much as it takes now; 0 when the socket is full."""
        try:
            sent = os.write(self._socket.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ClientGone(f"it hung up while it was answered: {error.strerror}") from error
        self.sent_bytes += sent
        return sent

    async def _push(self, fd: int, offset: int, count: int) -> int:
        try:
            sent = await trio.to_thread.run_sync(
                _sendfile_while_taken, self._socket.fileno(), fd, offset, count, limiter=self._threads
            )
        except OSError as error:
            if is_hangup(error):
                raise ClientGone(f"it hung up while a file was sent to it: {error.strerror}") from error
            raise
        self.sent_bytes += sent
        return sent

    async def _wait_writable(self) -> None:
        """Wait for room in the socket; the kernel reports it by thirds of the buffer, so less can be progress too."""
        while True:
            queued = self._queued_bytes()
            with trio.move_on_after(self._stall_seconds):
                await trio.lowlevel.wait_writable(self._socket)
                return
            if self._queued_bytes() >= queued:
                raise ClientGone(f"it took no byte for {self._stall_seconds:g} s")

    def _queued_bytes(self) -> int:
        """What the client's end hasn't acknowledged yet (SIOCOUTQ, tcp(7))."""
        answer = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(4))
        return int(struct.unpack("i", answer)[0])


def _read_cached(fd: int, offset: int, count: int) -> memoryview:
    """What the page cache holds of a run of a file, from its beginning; empty when that would take a disk."""
    buffer = bytearray(count)
    try:
        length = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
            raise
        length = 0
    return memoryview(buffer)[:length]


def _sendfile_while_taken(socket_fd: int, fd: int, offset: int, count: int) -> int:
    """Send until `count` bytes have gone or the client lets wait; returns how many went. Runs in a worker thread."""
    room = select.poll()
    room.register(socket_fd, select.POLLOUT)
    sent = 0
    while sent < count:
        try:
            step = os.sendfile(socket_fd, fd, offset + sent, count - sent)
        except BlockingIOError:
            if room.poll(_PATIENCE_MILLISECONDS):
                continue
            break
        if step == 0:
            raise OSError(errno.EIO, f"a file that should hold byte {offset + sent} ends before it")
        sent += step
    return sent
