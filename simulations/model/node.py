"""A node of the model: the real rules (`relay.engine`), with modelled connections where the reactor has sockets.

What `relay/reactor.py` does with frames and actions, in its words and its order; bytes, signatures and files are left
out. The clock and the links are the model's.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from p2pdist.core.pieces import PieceLayout, PieceSet
from p2pdist.relay.engine import Ack, Credit, Engine, Offer, Push, Refuse, Want
from p2pdist.relay.lag import LagWatch
from p2pdist.relay.liveness import Liveness
from p2pdist.relay.spans import Ring
from simulations.model.events import Events
from simulations.model.links import Host

TICK_SECONDS = 0.1
OWN_FREEZE_SECONDS = 1.0
REDIAL_SECONDS = 0.2


@dataclass(slots=True)
class Part:
    """What a node has of one generation; `deferred` are fills that wait for a piece."""

    layout: PieceLayout
    held: PieceSet
    dealing: int | None = None
    by_offer: bool = False
    deferred: dict[int, list[int]] = field(default_factory=dict)


@dataclass(slots=True)
class Totals:
    """What all nodes did together."""

    received_bytes: int = 0
    duplicate_bytes: int = 0
    dealt_bytes: int = 0
    frozen_verdicts: int = 0


class Node(Host):
    """An agent, or the tracker's relay side. `on_piece(node, generation, index)` is told of every new piece."""

    def __init__(
        self,
        name: str,
        events: Events,
        up_bytes_per_second: float,
        down_bytes_per_second: float,
        burst_bytes: int,
        latency_seconds: float,
        window_bytes: int,
        kernel_bytes: int,
        rng: random.Random,
        directory: dict[str, "Node"],
        totals: Totals,
        on_piece: Callable[["Node", int, int], None],
    ) -> None:
        super().__init__(
            name,
            events,
            up_bytes_per_second,
            down_bytes_per_second,
            burst_bytes,
            latency_seconds,
            window_bytes,
            kernel_bytes,
        )
        self.engine = Engine(name, rng)
        self.parts: dict[int, Part] = {}
        self.dead = False
        self._watched: set[str] = set()
        self._lag = LagWatch()
        self._ticking = False
        self.on_lag: Callable[[str], None] = _nothing
        self.on_lost: Callable[[str], None] = _nothing
        self._directory = directory
        self._totals = totals
        self._on_piece = on_piece
        self._parked: defaultdict[tuple[int, int], list[tuple[Node, Push | Offer]]] = defaultdict(list)
        self._closed: set[int] = set()
        self._heard: list[Callable[[Node], None]] = []
        self._acting = False
        self._frozen_at = 0.0

    # Commands, as the reactor has them.

    def open(self, generation: int, layout: PieceLayout, held: PieceSet, fan: int) -> None:
        """Take part in a generation."""
        if generation not in self.parts:
            self.parts[generation] = Part(layout, held)
            if not self._ticking:
                self._ticking = True
                self.events.after(TICK_SECONDS, self._tick)
            self.engine.open(generation, cast(Container[int], held), layout.piece_bytes, fan)

    def add_ring(self, generation: int, ring: Ring) -> None:
        """Learn an epoch's members, and take what had to wait for it."""
        if generation in self.parts:
            self.engine.add_ring(generation, ring)
            if ring.is_leaf(self.name):
                self._soften(generation)
            for sender, item in self._parked.pop((generation, ring.epoch), ()):
                self._judge(sender, item)
            self.act()

    def _soften(self, generation: int) -> None:
        """We are slow: offer what we haven't begun to send, since others have our spans now."""
        for peer in list(self.flows):
            for item in self.take_queued(peer, generation):
                offer = self.engine.soften(item.tag)
                if offer is not None:
                    self.send_control(self._directory[peer], offer)

    def _tick(self) -> None:
        """Look whose queue grows while its siblings' doesn't, as the reactor's ticks do."""
        self._ticking = bool(self.parts) and not self.dead
        if not self._ticking:
            return
        self.events.after(TICK_SECONDS, self._tick)
        if not self.frozen:
            self.engine.tick()
            self.act()
            owed_by = self.engine.owed_by
            waiting = {peer: flow.waiting_pieces for peer, flow in self.flows.items() if owed_by(peer)}
            for peer in self._lag.tick(waiting):
                self.on_lag(peer)

    def start_dealing(self, generation: int, ring: Ring) -> list[int]:
        """Be the dealer of a generation over `ring`; returns what was dealt before."""
        part = self.parts[generation]
        already = list(part.held)
        dealt: list[int] = []
        if part.dealing is None:
            self.engine.start_dealing(generation, ring)
            for index in already:
                self.engine.deal(generation, ring.epoch, index, part.by_offer)
        else:
            waiting = set(self.engine.waiting(generation, part.dealing))
            dealt = [index for index in already if index not in waiting]
            self.engine.replace_dealing(generation, part.dealing, ring)
        part.dealing = ring.epoch
        self.act()
        return dealt

    def deal(self, generation: int, index: int) -> None:
        """A piece came from the origin or the store: deal it, now or when there is a ring."""
        part = self.parts[generation]
        part.held.add(index)
        if part.dealing is not None:
            self.engine.deal(generation, part.dealing, index, part.by_offer)
        self._deal_deferred(generation, part, index)
        self.act()

    def start_fill(self, generation: int, ring: Ring, indices: Iterable[int]) -> None:
        """Deal these pieces over the ring of a fill, each as soon as it is here."""
        part = self.parts.get(generation)
        if part is None:
            return
        self.engine.start_dealing(generation, ring)
        for index in indices:
            if index in part.held:
                self.engine.deal(generation, ring.epoch, index)
            else:
                part.deferred.setdefault(index, []).append(ring.epoch)
        self.act()

    def close_generation(self, generation: int) -> None:
        """End our part in a generation."""
        if self.parts.pop(generation, None) is not None:
            self._closed.add(generation)
            self.engine.close(generation)
            for flow in self.flows.values():
                flow.lanes.pop(generation, None)

    def hear(self, call: Callable[["Node"], None]) -> None:
        """A control message arrived: do what it says, when the process runs."""
        if self.frozen:
            self._heard.append(call)
        elif not self.dead:
            call(self)

    # What the connections tell.

    def receive(self, sender: Host, item: Any) -> None:
        """A frame arrived whole."""
        name, engine = sender.name, self.engine
        engine.back(name)
        kind = type(item)
        if kind is Push or kind is Offer:
            assert isinstance(sender, Node)
            if item.generation in self._closed:
                self.send_control(sender, Refuse(name, item.tag))
            elif engine.knows(item.generation, item.epoch):
                self._judge(sender, item)
            else:
                self._parked[item.generation, item.epoch].append((sender, item))
        elif kind is Ack:
            engine.acked(name, item.tag)
        elif kind is Refuse:
            engine.refused(name, item.tag)
        elif kind is Credit:
            engine.credited(name, item.tag)
        elif kind is Want:
            engine.wanted(name, item.tag)
        self.act()

    def written(self, item: Any) -> None:
        """The kernel has a piece."""
        self.engine.written(item.tag)
        if not self._acting:
            self.act()

    def act(self) -> None:
        """Carry out what the rules say."""
        self._acting = True
        while actions := self.engine.take_actions():
            for action in actions:
                peer = self._directory[action.to]
                if peer.frozen:
                    self.begin_watch(peer)
                if peer.dead:
                    self.engine.lost(action.to)
                elif type(action) is Push:
                    size = self.parts[action.generation].layout.length(action.index)
                    self.send_piece(peer, action.generation, size, action)
                else:
                    self.send_control(peer, action)
        self._acting = False

    def _judge(self, sender: "Node", item: Push | Offer) -> None:
        generation, index = item.generation, item.index
        offered = not isinstance(item, Push) or item.offered
        self.engine.admit(sender.name, generation, index, item.epoch, item.root, item.span, offered)
        if isinstance(item, Offer):
            self.engine.offered(sender.name, item)
            return
        part = self.parts[generation]
        size = part.layout.length(index)
        self._totals.received_bytes += size
        if sender.name == "tracker":
            self._totals.dealt_bytes += size
        if part.held.add(index):
            self._on_piece(self, generation, index)
        else:
            self._totals.duplicate_bytes += size
        self.engine.pushed(sender.name, item)
        self._deal_deferred(generation, part, index)

    def _deal_deferred(self, generation: int, part: Part, index: int) -> None:
        for epoch in part.deferred.pop(index, ()):
            self.engine.deal(generation, epoch, index)

    # What goes wrong.

    def die(self) -> None:
        """The process is killed: its kernel tells everybody who is connected."""
        self.dead = True
        for peer in self._neighbours():
            self.close_flow(peer.name)
            peer.close_flow(self.name)
            peer.events.after(self.latency_seconds, peer.lose, self.name)

    def stop(self) -> None:
        """The process is stopped (SIGSTOP): everybody who is owed something finds out by their own clock."""
        self.freeze()
        self._frozen_at = self.events.now
        for peer in self._neighbours():
            peer.begin_watch(self)

    def resume(self) -> None:
        """The process goes on (SIGCONT); after a long freeze it starts afresh, as the reactor does."""
        if self.events.now - self._frozen_at <= OWN_FREEZE_SECONDS + TICK_SECONDS:
            self.thaw()
        else:
            self.frozen = False
            self._inbox.clear()
            for peer in self._neighbours():
                self._start_afresh(peer)
            self.act()
        heard, self._heard = self._heard, []
        for call in heard:
            call(self)

    def _start_afresh(self, peer: "Node") -> None:
        self.close_flow(peer.name)
        peer.close_flow(self.name)
        self.engine.lost(peer.name)
        self.events.after(self.latency_seconds, peer.lose, self.name)
        self.events.after(REDIAL_SECONDS, self.meet, peer)

    def begin_watch(self, peer: "Node") -> None:
        """From now on ticks matter: `peer` stands still. (Watching everybody all the time would cost more than all.)"""
        if peer.name not in self._watched:
            self._watched.add(peer.name)
            phase = (hash_of(self.name, peer.name) % 1000) / 1000 * TICK_SECONDS
            self.events.after(phase, self._watch, peer, Liveness(self.events.now), False)

    def _watch(self, peer: "Node", liveness: Liveness, owing: bool) -> None:
        """One tick of the switchboard's watch over a peer that stands still."""
        if not peer.frozen or self.dead:
            self._watched.discard(peer.name)
            return
        now = self.events.now
        owes = self.engine.owed_by(peer.name)
        flow = self.flow_to(peer)
        if owes and not owing:
            liveness.owing_since(now)
        elif owes and liveness.wants_ping(now):
            liveness.pinged(now, 0)
        elif owes and liveness.is_frozen(now, -flow.unsent_bytes, not flow.unsent_bytes):
            self._totals.frozen_verdicts += 1
            self.take_queued(peer.name)
            self.lose(peer.name)
            self.on_lost(peer.name)
        self.events.after(TICK_SECONDS, self._watch, peer, liveness, owes)

    def lose(self, peer: str) -> None:
        """A peer is out of reach."""
        if not self.dead and not self.frozen:
            self.engine.lost(peer)
            self.act()

    def meet(self, peer: "Node") -> None:
        """A connection is there again."""
        for one, other in ((self, peer), (peer, self)):
            if not one.dead and not other.dead:
                one.engine.back(other.name)
                one.act()

    def _neighbours(self) -> list["Node"]:
        """All who have a connection with us, in the order of their names."""
        return [
            peer
            for name, peer in self._directory.items()
            if peer is not self and not peer.dead and (name in self.flows or self.name in peer.flows)
        ]


def _nothing(_name: str) -> None:
    """Nobody is told."""


def hash_of(*names: str) -> int:
    """A number that is the same in every run."""
    return sum((position + 1) * byte for position, byte in enumerate("/".join(names).encode()))
