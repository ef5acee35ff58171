"""An HTTP client that shows what really goes over the socket: it sends any bytes, and keeps FIN and reset apart."""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h11
import trio

from p2pdist.http.server import Handler, Limits, open_listeners, serve


@dataclass
class Answer:
    """One response; `complete` is False when the connection ended before its framing did."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    complete: bool = False
    informational: list[int] = field(default_factory=list)


class RawClient:
    """One connection to a server under test."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._protocol = h11.Connection(h11.CLIENT)
        self._unread = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def get(self, target: str, *lines: str, method: str = "GET") -> Answer:
        """Send a request with the header `lines` and read its answer."""
        await self.request(target, *lines, method=method)
        return await self.answer(method)

    async def request(self, target: str, *lines: str, method: str = "GET", body: bytes = b"") -> None:
        head = [f"{method} {target} HTTP/1.1", "Host: test", *lines, "", ""]
        await self.send("\r\n".join(head).encode("latin-1") + body)

    async def answer(self, method: str = "GET") -> Answer:
        """The next answer on the connection, however it was asked for."""
        protocol = h11.Connection(h11.CLIENT)
        protocol.send(h11.Request(method=method, target="/", headers=[("Host", "test")]))
        protocol.send(h11.EndOfMessage())
        protocol.receive_data(self._unread) if self._unread else None
        answer = Answer(0, {})
        while True:
            try:
                event = protocol.next_event()
            except h11.RemoteProtocolError:
                return answer
            if event is h11.NEED_DATA:
                protocol.receive_data(await self.stream.receive_some(65536))
            elif isinstance(event, h11.InformationalResponse):
                answer.informational.append(event.status_code)
            elif isinstance(event, h11.Response):
                answer.status = event.status_code
                answer.headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
            elif isinstance(event, h11.Data):
                answer.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                answer.complete = True
                self._unread = protocol.trailing_data[0]
                return answer
            else:
                return answer

    async def ending(self) -> str:
        """Read to the end of the connection; `fin` or `reset`."""
        try:
            while await self.stream.receive_some(65536):
                pass
        except trio.BrokenResourceError as error:
            return "reset" if isinstance(error.__cause__, ConnectionResetError) else repr(error.__cause__)
        return "fin"

    def reset(self) -> None:
        """Close by a reset."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()


class TestServer:
    """A server under test and the way to it."""

    __test__ = False

    def __init__(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        self.port: int = listener.socket.getsockname()[1]
        self.nursery = nursery

    @asynccontextmanager
    async def connect(self, *, receive_buffer: int | None = None) -> AsyncIterator[RawClient]:
        sock = trio.socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await sock.connect(("127.0.0.1", self.port))
        async with trio.SocketStream(sock) as stream:
            yield RawClient(stream)


@asynccontextmanager
async def running_server(handler: Handler, limits: Limits | None = None) -> AsyncIterator[TestServer]:
    """The real server on a free port of 127.0.0.1, stopped at the end."""
    listeners = await open_listeners("127.0.0.1:0")
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: serve(handler, listeners, limits=limits, task_status=task_status))
        yield TestServer(listeners[0], nursery)
        nursery.cancel_scope.cancel()
