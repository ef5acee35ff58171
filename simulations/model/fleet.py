"""A run of the model: the scenario's hosts and links, the origin and the events, from first request to last byte."""

import gc
import random
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import trio
from prometheus_client import CollectorRegistry

from p2pdist.core.errors import InvalidInput
from p2pdist.core.pieces import PieceLayout
from p2pdist.telemetry.metrics import AgentMetrics
from simulations.emulation.arrivals import waves
from simulations.emulation.bound import bounds_of
from simulations.emulation.scenario import ORIGIN, TRACKER, Event, Group, Scenario, Server
from simulations.model.agent import BEATS_A_LEASE, Agent, Rings
from simulations.model.blobs import Blob
from simulations.model.control import ControlLines
from simulations.model.events import Events, HeapClock, drive
from simulations.model.links import Pipe, Zone
from simulations.model.node import Node, Totals
from simulations.model.options import Options
from simulations.model.origin import Origin
from simulations.model.pulls import Client, Pulls
from simulations.model.tracker import LEASE_SECONDS, Tracker
from simulations.model.variants import Variant

UNSHAPED_BPS = 10e9
_MAX_HOSTS = 10_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to, and everything that was counted; `seconds` are of the model's clock, `wall_seconds` ours."""

    scenario: Scenario
    options: Options
    clients: Mapping[str, Client]
    bounds: Mapping[str, float]
    totals: Totals
    lines: ControlLines
    rings: int
    called_slow: int
    origin_bytes: int
    tracker_bytes: int
    dealt_bytes: int
    zone_bytes: int
    takeovers: int
    longest_control_seconds: float
    seconds: float
    events: int
    tracker_cpu_seconds: float
    wall_seconds: float


def scaled(scenario: Scenario, hosts: int | None) -> Scenario:
    """The scenario with so many hosts in all; each group keeps its share, and one of a single host stays one."""
    if hosts is None:
        return scenario
    if not 1 <= hosts <= _MAX_HOSTS:
        raise InvalidInput(f"--hosts {hosts}: the model takes 1 to {_MAX_HOSTS}")
    total = sum(group.count for group in scenario.hosts)
    counts = [1 if group.count == 1 else max(1, round(group.count * hosts / total)) for group in scenario.hosts]
    counts[counts.index(max(counts))] += hosts - sum(counts)
    groups = tuple(
        msgspec.structs.replace(group, count=number) for group, number in zip(scenario.hosts, counts, strict=True)
    )
    return msgspec.structs.replace(scenario, hosts=groups)


class Run:
    """One run; made inside of a trio loop that has the heap's clock, run once, and read."""

    def __init__(self, scenario: Scenario, options: Options, events: Events, nursery: trio.Nursery) -> None:
        self.scenario = scenario
        self.options = options
        self.events = events
        self._rng = random.Random(options.seed)
        self.totals = Totals()
        self.nodes: dict[str, Node] = {}
        self.agents: dict[str, Agent] = {}
        self._zones = self._make_zones()
        blobs = [self._blob(layer, size) for layer, size in enumerate(scenario.layer_sizes)]
        down = self._rate(scenario.tracker.shape.down_bps)
        rate = min(self._rate(scenario.origin.shape.up_bps), down)
        self.origin = Origin(events, rate)
        node = self._add(TRACKER, scenario.tracker)
        node.paced = Variant.PACED_DEALS in options.variants
        warm = scenario.start == "warm"
        home = scenario.zone_of(scenario.tracker)
        self.tracker = Tracker(events, node, blobs, warm, self.origin, options, home, nursery)
        self.pulls = Pulls(events, blobs, scenario.client.parallel, rate, self._on_done)
        metrics, rings = AgentMetrics(CollectorRegistry()), Rings(self.tracker.node_at)
        for group in scenario.hosts:
            for name in group.hosts:
                self.agents[name] = Agent(self._add(name, group), events, metrics, rings, self.tracker.take)
        for name in scenario.holders:
            for blob in blobs:
                self.agents[name].hold(blob)
        self._left_to_wait = set(scenario.pullers)
        self._waves = deque(waves(scenario, self._expected(), options.seed))
        self._in_wave: set[str] = set()

    def _blob(self, layer: int, size: int) -> Blob:
        piece = self.options.piece_bytes
        return Blob.make(layer, PieceLayout(size, piece) if piece is not None else PieceLayout.for_size(size))

    def _rate(self, bps: int | None) -> float:
        return (bps if bps is not None else UNSHAPED_BPS) * self.options.share / 8

    def _make_zones(self) -> dict[str, Zone | None]:
        """Zones matter where a link between them does: each but the first has two pipes."""
        first, *others = self.scenario.zones
        zones: dict[str, Zone | None] = dict.fromkeys(self.scenario.zones)
        if self.scenario.zone_link is not None:
            rate, burst = self._rate(self.scenario.zone_link), self.options.burst_bytes
            zones[first] = Zone()
            zones |= {name: Zone(Pipe(rate, burst), Pipe(rate, burst)) for name in others}
        return zones

    def _add(self, name: str, place: Server | Group) -> Node:
        options, shape = self.options, place.shape
        up, down = self._rate(shape.up_bps), self._rate(shape.down_bps)
        node = self.nodes[name] = Node(
            name,
            self.events,
            up,
            down,
            options.burst_bytes,
            options.hop_seconds + self.scenario.round_trip / 2,
            options.window_bytes + int(up * self.scenario.round_trip),
            options.kernel_bytes,
            self._zones[self.scenario.zone_of(place)],
            random.Random(self._rng.random()),
            self.nodes,
            self.totals,
        )
        return node

    def _expected(self) -> float:
        """What the bound says of a fleet that asks at once."""
        starts = dict.fromkeys((host for host in self.scenario.pullers), 0.0)
        bounds = bounds_of(self.scenario, self.options.share, starts, held_by=self.scenario.holders)
        return max(bounds.values())

    async def go(self) -> Outcome:
        """Run until every host that can have the image has it, or the scenario gives up."""
        scenario, began = self.scenario, time.perf_counter()
        if not self.options.registers:
            for name in self._rng.sample(list(self.agents), len(self.agents)):
                self._register(name, told=False)
        for name in scenario.holders:
            self.tracker.hold(name)
        for event in scenario.event:
            self.events.at(event.at.after(self._expected()), self._befall, event)
        self._next_wave()
        await drive(self.events, scenario.give_up, lambda: not self._left_to_wait)
        wall = time.perf_counter() - began
        starts = {name: client.asked_at for name, client in self.pulls.clients.items() if client.asked_at is not None}
        pipes = [pipe for zone in self._zones.values() if zone is not None for pipe in (zone.out, zone.into)]
        return Outcome(
            scenario,
            self.options,
            self.pulls.clients,
            bounds_of(scenario, self.options.share, starts, held_by=scenario.holders),
            self.totals,
            self.tracker.lines,
            self.tracker.relaying.all_rings(),
            len(self.tracker.relaying.slow(self.agents, self.events.now)),
            self.origin.sent_bytes,
            self.nodes[TRACKER].uplink.sent_bytes,
            self.nodes[TRACKER].dealt_bytes,
            max((pipe.passed_bytes for pipe in pipes if pipe is not None), default=0),
            sum(node.engine.takeovers for node in self.nodes.values()),
            max(node.longest_control_seconds for node in self.nodes.values()),
            self.events.now,
            self.events.count,
            self.tracker.cpu_seconds + self.events.tasks_cpu_seconds,
            wall,
        )

    def _register(self, name: str, told: bool) -> None:
        """Give a host its lease, in an order that is drawn as races draw it."""
        agent, zone = self.agents[name], self.scenario.zone_of(self.scenario.group_of(name))
        self.tracker.register(name, zone, agent.hear, told)
        agent.beat(LEASE_SECONDS / BEATS_A_LEASE * self._rng.uniform(0.5, 1))

    def _next_wave(self) -> None:
        if self._waves:
            wave = self._waves.popleft()
            self._in_wave = set(wave)
            for host, after in wave.items():
                self.events.after(after, self._ask, host)

    def _ask(self, host: str) -> None:
        if self.nodes[host].dead:
            return
        if self.options.registers:
            self._register(host, told=True)
        self.pulls.start(self.agents[host])

    def _on_done(self, client: Client) -> None:
        self._settled(client.agent.name)

    def _settled(self, host: str) -> None:
        self.events.pause()
        self._left_to_wait.discard(host)
        self._in_wave.discard(host)
        if not self._in_wave:
            self._next_wave()

    def _befall(self, event: Event) -> None:
        node = self.nodes[event.target]
        match event.action:
            case "kill":
                node.die()
                self.tracker.broke(node.name)
                self._settled(node.name)
            case "stop":
                node.stop()
                if not any(each.target == event.target and each.action == "continue" for each in self.scenario.event):
                    self._settled(node.name)
            case _:
                node.resume()
                if not self.tracker.has_line(node.name):
                    self._register(node.name, told=True)


def _refuse_unmodelled(scenario: Scenario) -> None:
    """Raise `InvalidInput` for what the model can't say anything about."""
    hosts = {host for group in scenario.hosts for host in group.hosts}
    for event in scenario.event:
        if event.target in (TRACKER, ORIGIN) or event.action == "restart":
            raise InvalidInput(f"event: the model can't {event.action} {event.target}; emulate that")
        if event.target not in hosts:
            raise InvalidInput(f"event: there is no {event.target} among {len(hosts)} hosts; give more with --hosts")


def run(scenario: Scenario, options: Options) -> Outcome:
    """Run a scenario once; raises `InvalidInput` for one that can't be modelled."""
    grown = scaled(scenario, options.hosts)
    _refuse_unmodelled(grown)
    events = Events()

    async def inside() -> Outcome:
        async with trio.open_nursery() as nursery:
            outcome = await Run(grown, options, events, nursery).go()
            nursery.cancel_scope.cancel()
        return outcome

    # Hardly anything here is a cycle, and looking for them costs a seventh of the time.
    gc.disable()
    try:
        return trio.run(inside, clock=HeapClock(events))
    finally:
        gc.enable()
