"""The tracker of the model: the real `tracker.relaying` with its epochs, table and leases, over modelled connections.

They run on trio, whose clock is the model's (`events`). Here is what `tracker/distribution.py`, `starting.py` and
`control.py` do around them: a wish is decided by the real `tracker.choice`; bytes come from an origin that is a rate,
and nothing waits for a disk.
"""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count
from typing import cast

import trio
from prometheus_client import CollectorRegistry

from p2pdist.core.digest import Digest
from p2pdist.pki.vouch import KEY_ID_BYTES, MAX_BATCH
from p2pdist.relay.node import RelayNode
from p2pdist.relay.notices import Notice
from p2pdist.telemetry.metrics import TrackerMetrics
from p2pdist.tracker.choice import Situation, Way, choose
from p2pdist.tracker.epochs import Live, Steering
from p2pdist.tracker.fleet import Agent as Registered
from p2pdist.tracker.fleet import Fleet
from p2pdist.tracker.generation import Generation, Stage
from p2pdist.tracker.handout import NEIGHBOURS
from p2pdist.tracker.leases import Leases
from p2pdist.tracker.lines import Line
from p2pdist.tracker.relaying import Relaying, Subject
from p2pdist.tracker.table import TableSpread
from p2pdist.tracker.wishes import Claim, Wish
from p2pdist.tracker.zones import Level, zone_of
from p2pdist.wire.messages import (
    CAPABILITIES,
    VERSION,
    Beat,
    Began,
    DealsDone,
    Ended,
    Endpoint,
    Hello,
    Inventory,
    Join,
    Lacking,
    Lagging,
    Left,
    Message,
    Silent,
    Supply,
    SwarmPlan,
    Table,
    Welcome,
)
from simulations.model.blobs import Blob, HeldFile
from simulations.model.control import ControlLines
from simulations.model.events import Events
from simulations.model.node import Node
from simulations.model.options import Options
from simulations.model.origin import Fetch, Origin
from simulations.model.pulls import REPOSITORY, UPSTREAM

LEASE_SECONDS = 30.0
COPY_PER: Level = "region"
_ORIGIN_SECONDS = 0.003
_ADDRESS = Endpoint("10.77.123.123", 7501)
_SIGNATURE = bytes(64)


class _Relaying(Relaying):
    """The tracker's own, with the options' fan, and a seed."""

    def __init__(self, steering: Steering, again: Callable[[Wish], None], options: Options) -> None:
        super().__init__(steering, again)
        self._options = options
        self._rng = random.Random(options.seed)
        self._rings = 0

    def _generation(self, subject: Subject, claim: Claim) -> Generation:
        generation = super()._generation(subject, claim)
        generation.fan = self._options.fan
        generation.rng = random.Random(self._rng.random())
        return generation

    def _end(self, live: Live, word: Ended) -> None:
        if live.generation.stage is not Stage.ENDED:
            self._rings += live.generation.last_epoch
        super()._end(live, word)

    def all_rings(self) -> int:
        """How many rings were made, those of fills and of generations under way included."""
        return self._rings + sum(live.generation.last_epoch for live in self._live.values())

    def slow(self, nodes: Iterable[str], now: float) -> list[str]:
        """Those of `nodes` that are leaves."""
        return [node for node in nodes if self._epochs.slowness.is_slow(node, now)]


class Tracker:
    """The tracker's process, on `node`, in the zone `home`."""

    def __init__(
        self,
        events: Events,
        node: Node,
        blobs: Sequence[Blob],
        warm: bool,
        origin: Origin,
        options: Options,
        home: str,
        nursery: trio.Nursery,
    ) -> None:
        self._events = events
        self._blobs = {blob.digest: blob for blob in blobs}
        self._stored = set(self._blobs) if warm else set[Digest]()
        self._known = set(self._stored)
        self._origin = origin
        self._fan = options.fan
        self._slots: dict[int, str] = {}
        self._numbers = count(1 << 62)
        self._undecided: dict[Digest, list[Wish]] = {}
        self._lines_of: dict[str, Line] = {}
        self.cpu_seconds = 0.0
        metrics = TrackerMetrics(CollectorRegistry())
        self.fleet = Fleet(LEASE_SECONDS)
        self.lines = ControlLines(metrics, events, node)
        self._table = TableSpread(self.fleet, self.lines, metrics, lambda: None)
        zone = partial(zone_of, COPY_PER)
        relay = cast(RelayNode, node)
        steering = Steering(
            node.name, self.fleet, relay, metrics, nursery, self.lines.say, self._table.flush, zone, zone(home)
        )
        self.relaying = _Relaying(steering, self._decide, options)
        self._leases = Leases(self.fleet, self.lines, self._table, metrics, self._gone)
        node.on_notice = self._notice
        for task in (self._table.run, self._leases.watch, self.relaying.watch_stalls):
            nursery.start_soon(task)

    # Who is there.

    def register(self, name: str, zone: str, hear: Callable[[Message], None], told: bool) -> None:
        """Give an agent its lease; `told`: everybody has to hear of it now."""
        self.lines.attach(name, hear)
        if not told:
            self._lines_of[name], _ = self.lines.open(name)
            agent, _ = self.fleet.register(name, name, zone, _ADDRESS, _ADDRESS, self._events.now)
            self._slots[agent.member.slot] = name
            return
        hello = Hello(VERSION, CAPABILITIES, "p2pdist", name, name, zone, _ADDRESS.host, 7501, _ADDRESS.host, 7502)
        agent, self._lines_of[name] = self._leases.grant(hello, _ADDRESS, _ADDRESS)
        self._slots[agent.member.slot] = name
        keys = (bytes(32),)
        self.lines.say(name, Welcome(name, agent.member.slot, LEASE_SECONDS, keys, keys, (), _ADDRESS.host, 7401))
        self.lines.say(name, Table(True, self.fleet.table()))
        self._events.pause()

    def has_line(self, name: str) -> bool:
        """Whether an agent's connection stands."""
        return name in self.lines

    def hold(self, name: str) -> None:
        """An agent has every blob from the start, and the tracker knows the blobs."""
        self.fleet.update_holdings(name, added=list(self._blobs))
        self._known.update(self._blobs)
        self._stored.update(self._blobs)

    def broke(self, name: str) -> None:
        """An agent's connection broke."""
        self._leases.disconnected(self._lines_of[name], farewell=False)
        self._events.pause()

    def node_at(self, slot: int) -> str:
        """Who has a slot."""
        return self._slots[slot]

    def _gone(self, name: str) -> None:
        for wishes in self._undecided.values():
            wishes[:] = [wish for wish in wishes if wish.node != name]
        self.relaying.disconnected(name)

    # What is said.

    def take(self, name: str, message: Message) -> None:
        """An agent says something; see `tracker.control.Control`."""
        agent = self.fleet.get(name)
        if agent is None or name not in self.lines:
            return
        self._events.pause()
        self.lines.heard(message)
        began = time.thread_time()
        self._act_on(name, agent, message)
        self.cpu_seconds += time.thread_time() - began

    def _act_on(self, name: str, agent: Registered, message: Message) -> None:
        self._leases.renew(name)
        self.relaying.heard(name)
        match message:
            case Beat():
                self.lines.say(name, Beat())
            case Inventory(added, _):
                self.fleet.update_holdings(name, [Digest.parse(held.digest) for held in added])
            case Join():
                self._decide(Wish(name, message))
            case Lacking(generation, missing):
                self.relaying.lacking(agent, generation, missing)
            case Lagging(node):
                self.relaying.lagging(agent, node)
            case Silent(node):
                self.relaying.silent(agent, node)
            case Began(generation, epoch, dealt):
                self.relaying.began(name, generation, epoch, dealt)
            case DealsDone(generation):
                self.relaying.deals_done(name, generation)
            case Left(generation, reason):
                self.relaying.left(agent, generation, reason)
            case _:
                raise AssertionError(f"the model's agents have no business to say {type(message).__name__}")

    def _notice(self, notice: Notice) -> None:
        began = time.thread_time()
        self.relaying.notice(notice)
        self.cpu_seconds += time.thread_time() - began
        self._events.pause()

    # Decisions: see `tracker.distribution` and `tracker.starting`.

    def _decide(self, wish: Wish) -> None:
        digest = Digest.parse(wish.join.digest)
        if self.fleet.get(wish.node) is None:
            return
        if digest in self._undecided:
            self._undecided[digest].append(wish)
            return
        blob, live = self._blobs[digest], self.relaying.get(digest)
        known = live.metainfo is not None if live is not None else digest in self._known
        holders = [
            holder
            for holder in self.fleet.holders(digest, besides=wish.node)
            if not self.relaying.is_silent(holder.node)
        ]
        stored = known and digest in self._stored
        match choose(Situation(live is not None, len(holders), known, False, stored, wish.join.fruitless > 0)):
            case Way.JOIN_RELAY:
                assert live is not None
                self.relaying.enter(live, wish)
            case Way.SWARM:
                layout, hashes = blob.layout, b"".join(blob.metainfo.hashes)
                neighbours = (_ADDRESS,) * min(NEIGHBOURS, len(holders))
                plan = SwarmPlan(wish.join.id, str(digest), layout.size_bytes, layout.piece_bytes, hashes, neighbours)
                self.lines.say(wish.node, plan)
            case Way.RELAY_FROM_HOLDERS:
                self._undecided[digest] = [wish]
                self._events.after(0.0, self._from_holders, blob, holders)
            case Way.RELAY_FROM_STORE:
                self._undecided[digest] = [wish]
                self._events.after(0.0, self._from_store, blob)
            case Way.RELAY_FROM_ORIGIN:
                self._undecided[digest] = [wish]
                self._events.after(_ORIGIN_SECONDS, self._from_origin, blob)

    def _subject(self, blob: Blob) -> Subject:
        return Subject(next(self._numbers), blob.digest, UPSTREAM, REPOSITORY, False, blob.layout)

    def _from_origin(self, blob: Blob) -> None:
        file = HeldFile(blob)
        claim = Claim(self._undecided, blob.digest)
        live = self.relaying.open(self._subject(blob), file, claim, trio.CancelScope())
        fetch = Fetch(self._events, file, lambda pieces: self.relaying.deal(live, pieces))

        def on_piece(index: int) -> None:
            fetch.piece(index)
            if file.pieces.complete:
                self._stored.add(blob.digest)
                self._known.add(blob.digest)
                self.relaying.whole(live, blob.metainfo)
                self._events.pause()

        self._origin.send(blob, on_piece)
        self._events.pause()

    def _from_store(self, blob: Blob) -> None:
        claim = Claim(self._undecided, blob.digest)
        live = self.relaying.open(self._subject(blob), HeldFile(blob, whole=True), claim)
        self.relaying.deal(live, [(index, b"", b"") for index in range(blob.layout.count)])
        self.relaying.whole(live, blob.metainfo)
        self._events.pause()

    def _from_holders(self, blob: Blob, holders: list[Registered]) -> None:
        subject, layout = self._subject(blob), blob.layout
        signatures = (_SIGNATURE,) * -(-layout.count // MAX_BATCH)
        supply = Supply(
            subject.number,
            str(blob.digest),
            layout.size_bytes,
            layout.piece_bytes,
            self._fan,
            False,
            bytes(KEY_ID_BYTES),
            signatures,
        )
        self.relaying.open_held(subject, supply, blob.metainfo, holders, Claim(self._undecided, blob.digest))
        self._events.pause()
