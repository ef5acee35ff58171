"""Runs cells: a registry, a tracker and two agents with proxies on every way between them, and the clients.

The client's agent is the first; the second is its peer, and holds the image beforehand where peers are to fail. Each
cell has an image of its own. Afterwards the fault is lifted, everything must come back by itself, and a client whose
pull failed must succeed with its next one.
"""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from simulations.processes import poll_until
from tests.system.daemons import Agent
from tests.system.faults.cells import Cell, Client, Fault, Outcome, When, Where
from tests.system.faults.origin import REFUSED_SECONDS, FaultyOrigin, Plan
from tests.system.faults.pullers import HUB, UPSTREAM, ClientFailed, Puller, puller
from tests.system.faults.tcp import TcpProxy
from tests.system.fetches import pull
from tests.system.fleet import Fleet
from tests.system.images import Image, image, layer
from tests.system.registries import Registry

LAYER_BYTES = 4 << 20
SLOW_BYTES_A_SECOND = 1 << 20
_FIRST_BYTES = 4096
_SENT = "p2pdist_agent_sent_bytes_total"
_CLIENT_SECONDS = 10
_WELL_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a cell; `recovery_seconds` is by how much longer it took than without a fault.

    What a slow way takes by itself, and the time for which an origin refuses, aren't counted.
    """

    cell: Cell
    outcome: Outcome
    seconds: float
    recovery_seconds: float
    said: str
    next_pulled: bool = True
    well_again: str = ""


class Bench:
    """A context manager; clients start when a cell first wants them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._cleanup = ExitStack()
        self._pullers: dict[Client, Puller] = {}
        self._usual: dict[tuple[Client, bool], float] = {}
        self._ending = threading.Lock()
        self._images = 0
        self._passed_bytes = 0
        self._after_bytes: tuple[int, Callable[[], None]] | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            registry = self._registry = stack.enter_context(Registry(self._directory / "registry"))
            self._origin = stack.enter_context(FaultyOrigin(registry.connect))
            # The tracker's ways in: control and relay.
            self._to_tracker = [TcpProxy(lambda: self._fleet.tracker.control_port)]
            self._to_tracker.append(TcpProxy(lambda: _port(self._fleet.tracker.settings["relay"])))
            for proxy in self._to_tracker:
                stack.enter_context(proxy)
            upstreams = [{"name": name, "origin": f"http://{self._origin.address}"} for name in (UPSTREAM, HUB)]
            settings = {"relay": {"advertise": self._to_tracker[1].address}}
            self._fleet = Fleet(self._directory / "fleet", upstreams, 0, tracker_settings=settings)
            stack.enter_context(self._fleet)
            self._between: list[TcpProxy] = []
            self._agent, self._peer = (self._new_agent(stack) for _ in range(2))
            for agent in (self._agent, self._peer):
                agent.start()
            for agent in (self._agent, self._peer):
                agent.wait_ready()
            self._clients = stack.enter_context(ExitStack())
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._origin.set(Plan("", 0))
        self._cleanup.close()

    def _new_agent(self, stack: ExitStack) -> Agent:
        """An agent that reaches the tracker, and is reached by others, through proxies."""
        made: list[Agent] = []
        ways = {
            way: stack.enter_context(TcpProxy(lambda way=way: _port(made[0].settings[way]), self._note_passing))
            for way in ("relay", "swarm")
        }
        self._between += ways.values()
        settings: dict[str, Any] = {way: {"advertise": proxy.address} for way, proxy in ways.items()}
        settings |= {"tracker": {"address": self._to_tracker[0].address}, "shim": {"default_upstream": HUB}}
        made.append(self._fleet.new_agent(settings))
        return made[0]

    def _note_passing(self, size_bytes: int) -> None:
        """Bytes pass between agents."""
        self._passed_bytes += size_bytes
        due = self._after_bytes
        if due is not None and self._passed_bytes >= due[0]:
            self._after_bytes = None
            due[1]()

    def run(self, cell: Cell) -> Result:
        """Run one cell; everything is well again when this returns, or the result says what isn't."""
        warm = cell.where is Where.PEER
        usual = self._usual_seconds(cell.client, warm)
        name, made = self._new_image(warm)
        self._arm(cell, made)
        started = time.monotonic()
        outcome, said = self._pull(cell.client, name, made)
        seconds = time.monotonic() - started
        well = self._lift()
        recovery = seconds - usual - self._fault_takes(cell)
        next_pulled = outcome is Outcome.PULLED or self._next_pull(cell.client, name, made)
        return Result(cell, outcome, seconds, max(0.0, recovery), said, next_pulled, well)

    def _next_pull(self, client: Client, name: str, made: Image) -> bool:
        """Whether the next pull succeeds.

        containerd keeps what it has of a layer, wrong bytes too, until it collects its garbage, whoever gave it them;
        so for it the agent is asked what it gives now.
        """
        if client is not Client.CONTAINERD:
            return self._pull(client, name, made)[0] is Outcome.PULLED
        pull(self._agent, f"library/{name}", "1", made)
        return True

    def _usual_seconds(self, client: Client, warm: bool) -> float:
        """How long a pull takes when nothing is broken: of two, the second."""
        if (client, warm) not in self._usual:
            for _ in range(2):
                name, made = self._new_image(warm)
                started = time.monotonic()
                outcome, said = self._pull(client, name, made)
                if outcome is not Outcome.PULLED:
                    raise AssertionError(f"{client} can't pull when nothing is broken: {said}")
                self._usual[client, warm] = time.monotonic() - started
        return self._usual[client, warm]

    def _new_image(self, warm: bool) -> tuple[str, Image]:
        self._images += 1
        name = f"cell-{self._images}"
        made = image(layer(LAYER_BYTES, name, "none"))
        self._registry.push(made, f"library/{name}", "1")
        blob = made.layers[0]
        self._origin.set(Plan(blob.digest, blob.size_bytes))
        if warm:
            pull(self._peer, f"library/{name}", "1", made)
        return name, made

    def _pull(self, client: Client, name: str, made: Image) -> tuple[Outcome, str]:
        if client not in self._pullers:
            made_puller = puller(client, self._directory / client, self._agent.shim_address, self._origin.address)
            self._pullers[client] = self._clients.enter_context(made_puller)
        try:
            self._pullers[client].pull(name, made)
        except ClientFailed as error:
            return Outcome.FAILED, str(error)
        return Outcome.PULLED, ""

    # Faults.

    def _arm(self, cell: Cell, made: Image) -> None:
        blob = made.layers[0]
        sent_before = self._agent.growing_metric(_SENT, sink="shim")

        def client_reads() -> None:
            sent = partial(self._agent.growing_metric, _SENT, sink="shim")
            poll_until(lambda: sent() - sent_before > _FIRST_BYTES, "the client gets the layer", _CLIENT_SECONDS)

        plan = Plan(blob.digest, blob.size_bytes, None, cell.when, SLOW_BYTES_A_SECOND, ready=client_reads)
        if cell.where is Where.ORIGIN:
            self._origin.set(replace(plan, fault=cell.fault))
            return
        strike = self._strike(cell)
        if cell.when is When.HEADERS:
            strike()
        elif cell.where is Where.PEER:
            self._passed_bytes = 0
            self._after_bytes = (_FIRST_BYTES if cell.when is When.START else LAYER_BYTES // 2, strike)
        else:
            self._origin.set(replace(plan, call=strike))

    def _strike(self, cell: Cell) -> Callable[[], None]:
        """What makes the fault of the cell happen, anywhere but at the origin."""

        def arm() -> None:
            # The tracker dials agents too; in its cells nobody else does.
            for proxy in [*self._to_tracker, *self._between] if cell.where is Where.TRACKER else self._between:
                proxy.arm(cell.fault, SLOW_BYTES_A_SECOND)

        def end_agent() -> None:
            with self._ending:
                self._agent.kill()
                if cell.fault is Fault.RESTARTED:
                    self._agent.start()

        return end_agent if cell.where is Where.AGENT else arm

    def _fault_takes(self, cell: Cell) -> float:
        """What no recovery can make shorter."""
        if cell.fault is Fault.SLOW:
            left = LAYER_BYTES / 2 if cell.when is When.MIDDLE else LAYER_BYTES
            return left / SLOW_BYTES_A_SECOND
        return REFUSED_SECONDS if (cell.where, cell.fault) == (Where.ORIGIN, Fault.REFUSED) else 0.0

    def _lift(self) -> str:
        """End the fault; what isn't well again after a while, if anything."""
        self._after_bytes = None
        self._origin.set(Plan("", 0))
        for proxy in [*self._to_tracker, *self._between]:
            proxy.disarm()
        # A client notices sooner than whoever killed it that its agent is dead.
        with self._ending:
            if not self._agent.process.running:
                self._agent.start()
        try:
            for agent in (self._agent, self._peer):
                poll_until(lambda agent=agent: agent.is_ready(), f"{agent.name} is ready again", _WELL_SECONDS)
        except TimeoutError as error:
            return str(error)
        return ""


def _port(settings: dict[str, Any]) -> int:
    """The port of the first listening address of a table of a configuration."""
    return int(settings["listen"][0].rsplit(":", 1)[1])
