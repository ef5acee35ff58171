"""The shim's listeners before there is a shim, while it starts, and while it drains."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing

from p2pdist.agent.front import Front
from p2pdist.http.activation import Inherited
from p2pdist.http.server import Request, Response
from tests.fakes.raw_client import TestServer
from tests.unit.agent.test_main import free_ports


class Tracker:
    """What the front needs of the connection to the tracker."""

    def __init__(self) -> None:
        self.connected = trio.Event()

    async def wait_connected(self, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            await self.connected.wait()
        return self.connected.is_set()


async def shim(request: Request, response: Response) -> None:
    await response.send(200, {}, b"shim")


@asynccontextmanager
async def listening(front: Front) -> AsyncIterator[tuple[TestServer, trio.Nursery]]:
    (port,) = free_ports(1)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await front.listen(nursery, Inherited(), [f"127.0.0.1:{port}"])
            server = TestServer.__new__(TestServer)
            server.port, server.nursery = port, nursery
            yield server, nursery
            nursery.cancel_scope.cancel()


async def test_an_agent_that_must_enrol_first_says_404_at_once() -> None:
    front = Front(may_wait=False)
    async with listening(front) as (server, _), server.connect() as client:
        started = trio.current_time()
        answer = await client.get("/v2/app/manifests/1")
        assert (answer.status, b"isn't ready" in answer.body) == (404, True)
        assert trio.current_time() - started < 1


async def test_a_request_waits_for_an_agent_that_starts() -> None:
    front, tracker = Front(may_wait=True), Tracker()
    async with listening(front) as (server, nursery), server.connect() as client:
        await client.request("/v2/app/manifests/1")
        nursery.start_soon(front.settle, shim, tracker)  # type: ignore[arg-type]
        with trio.move_on_after(0.2) as early:
            await client.answer()
        assert early.cancelled_caught
        tracker.connected.set()
        assert (await client.answer()).body == b"shim"
        await trio.testing.wait_all_tasks_blocked()
        assert [name.name for client in front.clients.report() if (name := client.manifest)] == ["app:1"]


async def test_draining_ends_when_nothing_is_answered() -> None:
    front = Front(may_wait=True)
    assert front.why_not_ready() == []
    async with listening(front) as (server, _):
        with trio.fail_after(3):
            await front.drain(60)
        assert front.why_not_ready() == ["draining: told to stop, 0 answers under way"]
        with socket.socket() as late:
            assert late.connect_ex(("127.0.0.1", server.port)) != 0


async def test_draining_has_a_bound() -> None:
    front, tracker = Front(may_wait=True), Tracker()
    stuck = trio.Event()

    async def never(_request: Request, _response: Response) -> None:
        stuck.set()
        await trio.sleep_forever()

    tracker.connected.set()
    async with listening(front) as (server, nursery), server.connect() as client:
        nursery.start_soon(front.settle, never, tracker)  # type: ignore[arg-type]
        await client.request("/v2/")
        await stuck.wait()
        with trio.fail_after(3):
            await front.drain(0.1)
        assert front.why_not_ready() == ["draining: told to stop, 1 answers under way"]


async def test_before_it_listens_there_is_nothing_to_drain() -> None:
    with trio.fail_after(1):
        await Front(may_wait=False).drain(60)
