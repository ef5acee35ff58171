"""An HTTP/1.1 server on trio: accepts connections, as many as its limits allow, and gives each to a `Connection`.

What happens on a connection is in connection.py; this module knows how many there are.
"""

import errno
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address

import trio

from p2pdist.http.closing import Closing
from p2pdist.http.connection import Connection, Handler
from p2pdist.http.limits import Limits
from p2pdist.http.listeners import open_listeners
from p2pdist.http.request import Request
from p2pdist.http.response import Response
from p2pdist.http.sending import ClientGone
from p2pdist.telemetry.logging import get_logger

__all__ = ["ClientGone", "Closing", "Handler", "Limits", "Request", "Response", "open_listeners", "serve"]

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_EXHAUSTED_PAUSE_SECONDS = 0.1
_UNSENT_BYTES = 4 << 20
"""Bytes in a socket that the network hasn't taken yet; with trio's 16 KiB one sendfile(2) would send no more than that.
They are references to the page cache. Measured on loopback, CPU s/GiB: 256 KiB 0.13, 1 MiB 0.08, 4 MiB 0.06."""

log = get_logger(__name__)


class _Places:
    """The connections that may be open at once; the one that has been idle longest gives its place to a new one."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._idle: dict[trio.CancelScope, None] = {}
        self._changed = trio.lowlevel.ParkingLot()

    async def take(self) -> None:
        """Wait for a place. A busy server leaves new clients in the kernel's queue, where they cost nothing."""
        while self._free == 0:
            if self._idle:
                longest_idle = next(iter(self._idle))
                del self._idle[longest_idle]
                longest_idle.cancel()
            await self._changed.park()
        self._free -= 1

    def give_back(self) -> None:
        """A connection has ended."""
        self._free += 1
        self._changed.unpark()

    @contextmanager
    def idle(self, scope: trio.CancelScope) -> Iterator[None]:
        """While entered, a connection waits for a request and may be ended by cancelling `scope`."""
        self._idle[scope] = None
        if self._free == 0:
            self._changed.unpark()
        try:
            yield
        finally:
            self._idle.pop(scope, None)


async def serve(
    handler: Handler,
    listeners: Sequence[trio.SocketListener],
    *,
    limits: Limits | None = None,
    closing: Closing | None = None,
    held_open: bool = False,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests on `listeners` by `handler` until cancelled; closes them, and every connection by FIN.

    When `closing` begins it returns by itself, as soon as all that it answers has gone out. Who waits in the kernel's
    queue then is taken in and served, unless the listeners are `held_open` by somebody else, for whoever comes next.
    A handler that raises a `P2PDistError` before it has answered answers with the error's HTTP status and sentence.
    """
    limits, closing = limits or Limits(), closing or Closing()
    places = _Places(limits.connections)
    threads = trio.CapacityLimiter(limits.send_threads)

    async def run_connection(stream: trio.SocketStream) -> None:
        try:
            await Connection(stream, handler, limits, threads, places.idle, closing).serve()
        finally:
            places.give_back()

    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(_accept_all, listener, places, nursery, run_connection, closing, held_open)
        task_status.started()


async def _accept_all(
    listener: trio.SocketListener,
    places: _Places,
    nursery: trio.Nursery,
    run_connection: Callable[[trio.SocketStream], Awaitable[None]],
    closing: Closing,
    held_open: bool,
) -> None:
    async def take_in(stream: trio.SocketStream) -> None:
        try:
            await places.take()
        except trio.Cancelled:
            stream.socket.close()
            raise
        _prepare(stream)
        nursery.start_soon(run_connection, stream)

    async with listener:
        while not closing.begun:
            stream = None
            with trio.CancelScope() as scope, closing.ends(scope):
                stream = await _accept(listener)
            if stream is not None:
                await take_in(stream)
        if not held_open:
            for stream in _queued(listener):
                await take_in(stream)


def _queued(listener: trio.SocketListener) -> Iterator[trio.SocketStream]:
    """The connections that nobody has accepted yet; closing their listener would reset them."""
    with socket.socket(fileno=os.dup(listener.socket.fileno())) as same:
        same.setblocking(False)
        while True:
            try:
                accepted, _ = same.accept()
            except OSError:
                return
            accepted.setblocking(False)
            yield trio.SocketStream(trio.socket.from_stdlib_socket(accepted))


def _prepare(stream: trio.SocketStream) -> None:
    """Set a new connection up. On loopback nothing needs pacing: a host's bbr would halve the speed there."""
    stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    with suppress(OSError):
        if ip_address(stream.socket.getsockname()[0]).is_loopback:
            stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_CONGESTION, b"reno")


async def _accept(listener: trio.SocketListener) -> trio.SocketStream:
    """The next connection; pauses while the process is out of descriptors, and leaves it in the kernel's queue."""
    while True:
        try:
            return await listener.accept()
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            log.error("accept_failed", error=error, advice="raise the limit of open files (nofile)")
            await trio.sleep(_EXHAUSTED_PAUSE_SECONDS)
