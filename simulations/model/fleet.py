"""A run of the model: the scenario's hosts and links, the origin and the events, from first request to last byte."""

import random
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import msgspec

from p2pdist.core.errors import InvalidInput
from p2pdist.core.pieces import PieceLayout
from simulations.emulation.arrivals import waves
from simulations.emulation.bound import bounds_of
from simulations.emulation.scenario import ORIGIN, TRACKER, Event, Scenario
from simulations.model.events import Events
from simulations.model.node import Node, Totals
from simulations.model.options import Options
from simulations.model.pulls import Client, Pulls
from simulations.model.steering import LEASE_SECONDS, Blob, Steering
from simulations.model.variants import Variant

UNSHAPED_BPS = 10e9
_ORIGIN_SECONDS = 0.003
_MAX_HOSTS = 10_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to: `started` and `finished` by host in seconds of the clock, and everything that was counted."""

    scenario: Scenario
    options: Options
    clients: Mapping[str, Client]
    bounds: Mapping[str, float]
    totals: Totals
    steering: Steering
    origin_bytes: int
    tracker_bytes: int
    takeovers: int
    longest_control_seconds: float
    seconds: float
    events: int
    wall_seconds: float


class Origin:
    """Sends blobs to the tracker: those under way share its link piece by piece."""

    def __init__(self, events: Events, bytes_per_second: float) -> None:
        self._events = events
        self._bytes_per_second = bytes_per_second
        self._queue: deque[tuple[Blob, int]] = deque()
        self._busy = False
        self.steering: Steering
        self.sent_bytes = 0

    def fetch(self, blob: Blob) -> None:
        """The tracker starts a generation of a blob: from its store, or from here after a round trip."""
        if blob.whole:
            self._events.after(0.0, self.steering.begin, blob)
        else:
            self._events.after(_ORIGIN_SECONDS, self._begin, blob)

    def _begin(self, blob: Blob) -> None:
        self.steering.begin(blob)
        self._queue.append((blob, 0))
        if not self._busy:
            self._send()

    def _send(self) -> None:
        self._busy = bool(self._queue)
        if self._busy:
            blob, index = self._queue.popleft()
            size = blob.layout.length(index)
            self._events.after(size / self._bytes_per_second, self._sent, blob, index, size)

    def _sent(self, blob: Blob, index: int, size: int) -> None:
        self.sent_bytes += size
        if index + 1 < blob.layout.count:
            self._queue.append((blob, index + 1))
        self._send()
        self.steering.arrived(blob, index)


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
    """One run; made, run once, and read."""

    def __init__(self, scenario: Scenario, options: Options) -> None:
        self.scenario = scenario = scaled(scenario, options.hosts)
        self.options = options
        _refuse_unmodelled(scenario)
        self.events = Events()
        self._rng = random.Random(options.seed)
        self.totals = Totals()
        self.nodes: dict[str, Node] = {}
        blobs = [self._blob(layer, size) for layer, size in enumerate(scenario.layer_sizes)]
        down = self._rate(scenario.tracker.shape.down_bps)
        rate = min(self._rate(scenario.origin.shape.up_bps), down)
        self.pulls = Pulls(self.events, blobs, scenario.client.parallel, rate, self._on_done)
        self.tracker = self._add(TRACKER, scenario.tracker.shape.up_bps, scenario.tracker.shape.down_bps)
        self.tracker.paced = Variant.PACED_DEALS in options.variants
        for group in scenario.hosts:
            for name in group.hosts:
                self._add(name, group.shape.up_bps, group.shape.down_bps)
        self.origin = Origin(self.events, rate)
        self.steering = Steering(
            self.events,
            self.tracker,
            self.nodes,
            blobs,
            options,
            self.origin.fetch,
            self.pulls.to_swarm,
            self.pulls.dealt,
        )
        for node in self.nodes.values():
            if node is not self.tracker:
                node.on_lag = partial(self.steering.lagging, node)
        self.pulls.steering = self.origin.steering = self.steering
        self._left_to_wait = set(scenario.pullers)
        self._waves = deque(waves(scenario, self._expected(), options.seed))
        self._in_wave: set[str] = set()

    def _blob(self, layer: int, size: int) -> Blob:
        piece = self.options.piece_bytes
        layout = PieceLayout(size, piece) if piece is not None else PieceLayout.for_size(size)
        return Blob.make(layer, layout, self.scenario.start == "warm")

    def _rate(self, bps: int | None) -> float:
        return (bps if bps is not None else UNSHAPED_BPS) * self.options.share / 8

    def _add(self, name: str, up_bps: int | None, down_bps: int | None) -> Node:
        options = self.options
        latency = options.hop_seconds + self.scenario.round_trip / 2
        up, down = self._rate(up_bps), self._rate(down_bps)
        window = options.window_bytes + int(up * self.scenario.round_trip)
        rng = random.Random(self._rng.random())
        node = self.nodes[name] = Node(
            name,
            self.events,
            up,
            down,
            options.burst_bytes,
            latency,
            window,
            options.kernel_bytes,
            rng,
            self.nodes,
            self.totals,
            self.pulls.got_piece if name != TRACKER else _ignore,
        )
        return node

    def _expected(self) -> float:
        """What the bound says of a fleet that asks at once."""
        starts = dict.fromkeys((host for host in self.scenario.pullers), 0.0)
        bounds = bounds_of(self.scenario, self.options.share, starts, held_by=self.scenario.holders)
        return max(bounds.values())

    def go(self) -> Outcome:
        """Run until every host that can have the image has it, or the scenario gives up."""
        scenario, began = self.scenario, time.perf_counter()
        if not self.options.registers:
            names = [name for group in scenario.hosts for name in group.hosts]
            zones = [scenario.zone_of(group) for group in scenario.hosts for _ in group.hosts]
            self.steering.register(names, zones, self._rng, told=False)
        self.steering.hold(scenario.holders)
        self._arm_variants()
        for event in scenario.event:
            self.events.at(event.at.after(self._expected()), self._befall, event)
        self._next_wave()
        self.events.run(scenario.give_up, lambda: not self._left_to_wait)
        wall = time.perf_counter() - began
        starts = {name: client.asked_at for name, client in self.pulls.clients.items() if client.asked_at is not None}
        return Outcome(
            scenario,
            self.options,
            self.pulls.clients,
            bounds_of(scenario, self.options.share, starts, held_by=scenario.holders),
            self.totals,
            self.steering,
            self.origin.sent_bytes,
            self.tracker.uplink.sent_bytes,
            sum(node.engine.takeovers for node in self.nodes.values()),
            max(node.longest_control_seconds for node in self.nodes.values()),
            self.events.now,
            self.events.count,
            wall,
        )

    def _arm_variants(self) -> None:
        variants, steering = self.options.variants, self.steering
        if Variant.REPORT_FROZEN in variants:
            for node in self.nodes.values():
                node.on_lost = partial(steering.frozen, node)

    def _next_wave(self) -> None:
        if self._waves:
            wave = self._waves.popleft()
            self._in_wave = set(wave)
            for host, after in wave.items():
                self.events.after(after, self._ask, host)

    def _ask(self, host: str) -> None:
        node = self.nodes[host]
        if node.dead:
            return
        if self.options.registers:
            self.steering.register([host], [self.scenario.zone_of(self.scenario.group_of(host))], self._rng, told=True)
        self.pulls.start(node)

    def _on_done(self, client: Client) -> None:
        self._settled(client.node.name)

    def _settled(self, host: str) -> None:
        self._left_to_wait.discard(host)
        self._in_wave.discard(host)
        if not self._in_wave:
            self._next_wave()

    def _befall(self, event: Event) -> None:
        node = self.nodes[event.target]
        if event.action == "kill":
            node.die()
            self.steering.gone(node.name)
            self._settled(node.name)
        elif event.action == "stop":
            node.stop()
            self.events.after(LEASE_SECONDS, self._expire, node)
        else:
            node.resume()
            self.steering.heard_again(node.name)

    def _expire(self, node: Node) -> None:
        if node.frozen:
            self.steering.gone(node.name)
            self._settled(node.name)


def _ignore(_node: Node, _generation: int, _index: int) -> None:
    """The tracker's own pieces are counted by the origin."""


def _refuse_unmodelled(scenario: Scenario) -> None:
    """Raise `InvalidInput` for what the model can't say anything about."""
    for event in scenario.event:
        if event.target in (TRACKER, ORIGIN) or event.action == "restart":
            raise InvalidInput(f"event: the model can't {event.action} {event.target}; emulate that")
    if scenario.zone_link is not None:
        raise InvalidInput("zone_link: the model has no zones; emulate that")


def run(scenario: Scenario, options: Options) -> Outcome:
    """Run a scenario once."""
    return Run(scenario, options).go()
