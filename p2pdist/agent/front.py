"""The shim's listeners, from before there is a shim until the last answer of an agent that was told to stop.

An agent is restarted under clients that go on asking. When it starts, whoever waited in the queue of an inherited
socket is there at once, and would get a 404 from an agent that doesn't know its upstreams yet; so requests wait until
the tracker is connected, for a moment. An agent that still has to enrol may wait long: then it is a 404 at once, which
sends a daemon to the origin. When the agent stops it drains: no new client, answers under way go on (with everything
that brings their bytes) until they are out or time is up. What is cut then ends by FIN, and is resumed.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import trio

from p2pdist.agent.clients import Clients
from p2pdist.agent.control import ControlLink
from p2pdist.core.errors import NotFound
from p2pdist.http.activation import Inherited
from p2pdist.http.server import Closing, Handler, Request, Response, serve
from p2pdist.oci.errors import error_body
from p2pdist.telemetry.logging import get_logger

START_SECONDS = 2.0
"""How long a request waits for an agent that starts; without an agent a daemon would be at the origin by then."""
log = get_logger("agent.front")


class Front:
    """Answers by the shim, once there is one.

    `may_wait`: whether an agent that starts is worth waiting for.
    """

    def __init__(self, *, may_wait: bool) -> None:
        self.clients = Clients()
        self._closing = Closing()
        self._ended: trio.Event | None = None
        self._settled = trio.Event()
        self._shim: Handler | None = None
        if not may_wait:
            self._settled.set()

    async def listen(self, nursery: trio.Nursery, inherited: Inherited, addresses: Iterable[str]) -> None:
        """Open every address, or take over who holds it, and answer there."""
        opened = [await inherited.open("shim", address) for address in addresses]
        self._ended = trio.Event()
        nursery.start_soon(self._serve, opened, self._ended)

    async def settle(self, shim: Handler, control: ControlLink) -> None:
        """There is a shim; requests that wait for it go on when the tracker is connected, or isn't for a while."""
        self._shim = shim
        await control.wait_connected(START_SECONDS)
        self._settled.set()

    async def drain(self, seconds: float) -> None:
        """Take no new clients; return when the answers under way are out, at the latest after so long."""
        self._closing.begin()
        if self._ended is None:
            return
        log.info("draining", answers=self._closing.answering, at_most_seconds=seconds)
        with trio.move_on_after(seconds) as bound:
            await self._ended.wait()
        if bound.cancelled_caught:
            log.warning("drain_cut_short", answers=self._closing.answering, advice="raise shim.drain")

    def why_not_ready(self) -> list[str]:
        """What keeps clients out."""
        if not self._closing.begun:
            return []
        return [f"draining: told to stop, {self._closing.answering} answers under way"]

    async def _serve(self, opened: Sequence[tuple[list[trio.SocketListener], bool]], ended: trio.Event) -> None:
        async with trio.open_nursery() as servers:
            for listeners, held_open in opened:
                servers.start_soon(partial(serve, self._answer, listeners, closing=self._closing, held_open=held_open))
        ended.set()

    async def _answer(self, request: Request, response: Response) -> None:
        with trio.move_on_after(START_SECONDS):
            await self._settled.wait()
        if self._shim is not None:
            await self.clients.watch(self._shim, request, response)
            return
        error = NotFound("p2pdist isn't ready: its agent is starting, or waits to enrol with the tracker")
        await response.send(error.http_status, {"Content-Type": "application/json"}, error_body(error))
