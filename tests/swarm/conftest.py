import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

import pytest
import trio

from p2pdist.swarm import DiskBackend, Endpoint, Swarm, SwarmSettings

LOOPBACK = Endpoint("127.0.0.1", 0)
OpenSwarm = Callable[..., AbstractAsyncContextManager[Swarm]]


@pytest.fixture(params=list(DiskBackend), ids=lambda disk: disk.name.lower())
def disk(request: pytest.FixtureRequest) -> DiskBackend:
    """Each of libtorrent's back ends that we support."""
    return DiskBackend(request.param)


@pytest.fixture
def open_swarm() -> OpenSwarm:
    """`open_swarm(**settings)`: a swarm on 127.0.0.1 that lets 127.0.0.1 in."""

    @asynccontextmanager
    async def open_it(**settings: Any) -> AsyncIterator[Swarm]:
        async with Swarm.open(SwarmSettings(**{"listen": (LOOPBACK,)} | settings)) as swarm:
            swarm.allow_peers({"127.0.0.1", "::1"})
            yield swarm

    return open_it


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What is inside must end within so many seconds."""
    with trio.fail_after(seconds):
        yield


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that no event tells."""
    with within(10):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


async def eventually(read: Callable[[], Awaitable[object]], expected: object) -> None:
    """Figures lag behind what they count, by a tick of libtorrent's."""
    with within(10):
        while await read() != expected:
            await trio.lowlevel.checkpoint()


def events_so_far(swarm: Swarm) -> list[object]:
    """Everything that waits in the swarm's channel."""
    found: list[object] = []
    with contextlib.suppress(trio.WouldBlock):
        while True:
            found.append(swarm.events.receive_nowait())
    return found
