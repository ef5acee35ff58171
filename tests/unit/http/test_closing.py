"""A server that is to end: what it answers goes out, who waits is let go, who comes then is the next one's."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio
import trio.testing

from p2pdist.http.closing import Closing
from p2pdist.http.server import Request, Response, open_listeners, serve
from tests.fakes.raw_client import TestServer


class Bench:
    """A server whose answers wait for `go`; `ended` when it has returned."""

    def __init__(self) -> None:
        self.closing = Closing()
        self.go = trio.Event()
        self.asked = trio.Event()
        self.ended = trio.Event()

    async def handle(self, request: Request, response: Response) -> None:
        if request.path == "/quick":
            await response.send(200, {}, b"quick")
            return
        if request.path == "/begun":
            await response.start(200, {"Content-Length": "4"})
        self.asked.set()
        await self.go.wait()
        await (response.write(b"slow") if response.started else response.send(200, {}, b"slow"))

    @asynccontextmanager
    async def running(self, *, held_open: bool = False) -> AsyncIterator[TestServer]:
        listeners = await open_listeners("127.0.0.1:0")

        async def run(task_status: trio.TaskStatus[None]) -> None:
            serving = partial(serve, closing=self.closing, held_open=held_open)
            await serving(self.handle, listeners, task_status=task_status)
            self.ended.set()

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                await nursery.start(run)
                yield TestServer(listeners[0], nursery)


async def test_answers_under_way_go_out_and_say_that_they_are_the_last() -> None:
    bench = Bench()
    async with bench.running() as server, server.connect() as client, server.connect() as begun:
        await begun.request("/begun")
        await bench.asked.wait()
        bench.asked = trio.Event()
        await client.request("/slow")
        await bench.asked.wait()
        bench.closing.begin()
        assert bench.closing.answering == 2
        assert not bench.ended.is_set()
        bench.go.set()
        answer = await client.answer()
        assert (answer.body, answer.complete, answer.headers["connection"]) == (b"slow", True, "close")
        assert await client.ending() == "fin"
        answer = await begun.answer()
        assert (answer.body, answer.complete) == (b"slow", True)
        assert await begun.ending() == "fin"
    assert bench.ended.is_set()
    assert bench.closing.answering == 0


async def test_connections_that_wait_are_closed_by_fin() -> None:
    bench = Bench()
    async with bench.running() as server, server.connect() as client:
        assert (await client.get("/quick")).body == b"quick"
        started = trio.current_time()
        bench.closing.begin()
        assert await client.ending() == "fin"
        assert trio.current_time() - started < 0.9


async def test_who_has_just_connected_may_still_ask() -> None:
    bench = Bench()
    async with bench.running() as server, server.connect() as client, server.connect() as silent:
        async with server.connect() as witness:
            await witness.get("/quick")
        bench.closing.begin()
        await trio.testing.wait_all_tasks_blocked()
        assert (await client.get("/quick")).body == b"quick"
        assert await client.ending() == "fin"
        assert await silent.ending() == "fin"
    assert bench.ended.is_set()


async def test_who_stands_in_the_queue_is_served() -> None:
    bench = Bench()
    async with bench.running() as server:
        # In the queue: the accepting task doesn't run between these lines.
        sock = socket.create_connection(("127.0.0.1", server.port))
        sock.setblocking(False)
        bench.closing.begin()
        async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
            await stream.send_all(b"GET /quick HTTP/1.1\r\nHost: t\r\n\r\n")
            assert b"quick" in await stream.receive_some(65536)
    assert bench.ended.is_set()


async def test_a_held_socket_keeps_its_queue_for_the_next() -> None:
    first, second = Bench(), Bench()
    listeners = await open_listeners("127.0.0.1:0")
    (held,) = listeners
    port = held.socket.getsockname()[1]
    with held.socket.dup() as kept:
        first.closing.begin()
        await serve(first.handle, listeners, closing=first.closing, held_open=True)
        client = trio.socket.socket()
        await client.connect(("127.0.0.1", port))
        async with trio.SocketStream(client) as stream, trio.open_nursery() as nursery:
            await stream.send_all(b"GET /quick HTTP/1.1\r\nHost: t\r\n\r\n")
            nursery.start_soon(serve, second.handle, [trio.SocketListener(kept)])
            with trio.fail_after(5):
                assert b"quick" in await stream.receive_some(65536)
            nursery.cancel_scope.cancel()


async def test_a_wait_that_begins_afterwards_ends_at_once() -> None:
    closing = Closing()
    closing.begin()
    with trio.fail_after(1), trio.CancelScope() as scope, closing.ends(scope):
        await trio.sleep_forever()
    assert scope.cancelled_caught
