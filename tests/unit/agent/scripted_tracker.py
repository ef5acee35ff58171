"""A tracker over a real socket that says what a test tells it to, and keeps what it hears."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from p2pdist.wire.channel import Channel
from p2pdist.wire.messages import (
    VERSION,
    Endpoint,
    FromAgent,
    Greeting,
    Hello,
    Member,
    Message,
    Table,
    UpstreamInfo,
    Welcome,
)

WAIT_SECONDS = 10.0
SECRET = b"s" * 32
M = TypeVar("M", bound=Message)


class Line:
    """One connection of an agent."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.channel = Channel(stream, FromAgent)
        self.heard: list[Message] = []
        self._seen: dict[type[Message], int] = {}
        self._more = trio.Event()

    async def say(self, *messages: Message) -> None:
        await self.channel.send(*messages)

    async def listen(self) -> None:
        """Keep what the agent says, until it hangs up."""
        try:
            while (message := await self.channel.receive()) is not None:
                self.heard.append(message)
                self._more.set()
                self._more = trio.Event()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def next(self, kind: type[M]) -> M:
        """The next message of that kind that this method hasn't given yet."""
        with trio.fail_after(WAIT_SECONDS):
            while True:
                for number in range(self._seen.get(kind, 0), len(self.heard)):
                    message = self.heard[number]
                    if isinstance(message, kind):
                        self._seen[kind] = number + 1
                        return message
                await self._more.wait()

    async def drop(self) -> None:
        """Hang up."""
        await trio.aclose_forcefully(self.stream)


class ScriptedTracker:
    """Made by `listening`; `welcome` takes the next agent in."""

    def __init__(self, nursery: trio.Nursery, listener: trio.SocketListener, lines: list[Line]) -> None:
        self.nursery = nursery
        self.port = int(listener.socket.getsockname()[1])
        self.upstreams: tuple[UpstreamInfo, ...] = ()
        self.keys: tuple[bytes, ...] = ()
        self.relay_port = 1
        self.lease_seconds = 30.0
        self.others: tuple[Member, ...] = ()
        self.hello: Hello | None = None
        self.lines = lines
        self._listener = listener

    async def accept(self) -> Line:
        with trio.fail_after(WAIT_SECONDS):
            line = Line(await self._listener.accept())
        self.lines.append(line)
        return line

    async def close(self) -> None:
        """Nobody listens any more."""
        await self._listener.aclose()

    async def welcome(self) -> Line:
        """Take an agent in as slot 0."""
        line = await self.accept()
        await line.say(Greeting(VERSION, (), "tracker"))
        with trio.fail_after(WAIT_SECONDS):
            hello = await line.channel.receive()
        assert isinstance(hello, Hello)
        self.hello = hello
        line.channel.trust()
        secrets = (SECRET,)
        await line.say(
            Welcome(hello.node, 0, self.lease_seconds, secrets, self.keys, self.upstreams, "", self.relay_port),
            Table(True, (member(0, hello.node, hello.relay_port, hello.swarm_port), *self.others)),
        )
        self.nursery.start_soon(line.listen)
        return line


def member(slot: int, node: str, relay_port: int = 1, swarm_port: int = 1, host: str = "127.0.0.1") -> Member:
    return Member(slot, node, node, "", Endpoint("127.0.0.1", relay_port), Endpoint(host, swarm_port))


@asynccontextmanager
async def listening(port: int = 0) -> AsyncIterator[ScriptedTracker]:
    (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
    lines: list[Line] = []
    try:
        async with trio.open_nursery() as nursery:
            yield ScriptedTracker(nursery, listener, lines)
            nursery.cancel_scope.cancel()
    finally:
        # Without a checkpoint, which would put a cancellation in the place of what a test raised.
        listener.socket.close()
        for line in lines:
            line.stream.socket.close()
