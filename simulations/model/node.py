"""A node of the relay in the model: what `relay.node.RelayNode` offers, over modelled connections.

The rules are the real ones (`relay.engine`, `dealer`, `lag`, `liveness`); here is what `relay/reactor.py` and
`switchboard.py` do between them and the sockets, in their words. Bytes, signatures and files are left out. Whoever
gives commands (the tracker's `Relaying`, an agent's `Relays`) is told by notices, in an event of its own each.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from p2pdist.core.pieces import PieceSet
from p2pdist.relay.dealer import Dealer
from p2pdist.relay.dealing import EVERY_ROOT, Lane
from p2pdist.relay.engine import Ack, Credit, Engine, Offer, Push, Refuse, Want
from p2pdist.relay.lag import LagWatch, Queue
from p2pdist.relay.liveness import Liveness
from p2pdist.relay.node import Ticket
from p2pdist.relay.notices import DealsDone, EpochBegan, Notice, PeerLags, PeerSilent, StoodStill
from p2pdist.relay.pacing import Pace
from p2pdist.relay.reactor import OWN_FREEZE_SECONDS, TICK_SECONDS
from p2pdist.relay.spans import Ring
from p2pdist.relay.transfer import Counts, TransferSpec
from simulations.model.events import Events
from simulations.model.links import Host, Zone

REDIAL_SECONDS = 0.2
_NO_HASHES: tuple[bytes | None, ...] = ()


@dataclass(slots=True)
class Part:
    """What a node has of one generation: `vouched` are the pieces that it may pass on."""

    spec: TransferSpec
    vouched: PieceSet
    dealer: Dealer
    counts: Counts = field(default_factory=Counts)

    def length(self, index: int) -> int:
        """The size of a piece."""
        return self.spec.layout.length(index)

    @property
    def left_bytes(self) -> int:
        """About how much is yet to be received."""
        return (self.vouched.count - self.vouched.size) * self.spec.layout.piece_bytes

    def vouch(self, index: int) -> None:
        """Learn the proof of a piece that is here."""
        if self.vouched.add(index):
            self.dealer.arrived(index)


@dataclass(slots=True)
class Totals:
    """What all nodes did together."""

    received_bytes: int = 0
    duplicate_bytes: int = 0
    frozen_verdicts: int = 0
    fills: int = 0


class Node(Host):
    """The relay's side of an agent, or of the tracker; `on_notice` hears what its process is told."""

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
        zone: Zone | None,
        rng: random.Random,
        directory: dict[str, "Node"],
        totals: Totals,
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
            zone,
        )
        self.engine = Engine(name, rng)
        self.dead = False
        self.dealt_bytes = 0
        self.on_notice: Callable[[Notice], None] = _nobody_hears
        self.on_resume: Callable[[], None] = _nothing
        self._parts: dict[int, Part] = {}
        self._watched_deals: set[int] = set()
        self._watched: set[str] = set()
        self._lag = LagWatch()
        self._pace = Pace()
        self._rests = False
        self._arrivals: list[tuple[Host, Any]] = []
        self._ticking = False
        self._directory = directory
        self._totals = totals
        self._parked: defaultdict[tuple[int, int], list[tuple[Node, Push | Offer]]] = defaultdict(list)
        self._closed: set[int] = set()
        self._acting = False
        self._frozen_at = 0.0

    # What a process asks of its relay: see `relay.node.RelayNode`.

    def open(self, spec: TransferSpec) -> Ticket:
        """Take part in a generation."""
        number, count = spec.generation, spec.layout.count
        if number not in self._parts:
            vouched = PieceSet(count)
            held = cast(Container[int], vouched)
            self._parts[number] = Part(spec, vouched, Dealer(self.engine, number, count, held))
            self._closed.discard(number)
            self.engine.open(number, held, spec.layout.piece_bytes, spec.fan)
            if not self._ticking:
                self._ticking = True
                self.events.after(TICK_SECONDS, self._tick)
        return Ticket(self._parts[number].counts, _NO_HASHES)

    def close(self, generation: int) -> None:
        """End our part in a generation."""
        if self._parts.pop(generation, None) is not None:
            self._closed.add(generation)
            self._watched_deals.discard(generation)
            self.engine.close(generation)
            for flow in self.flows.values():
                flow.lanes.pop(generation, None)
            self.act()

    def add_ring(self, generation: int, ring: Ring) -> None:
        """Learn an epoch's members, and take what had to wait for it."""
        if generation in self._parts:
            self.engine.add_ring(generation, ring)
            if ring.is_leaf(self.name):
                self._soften(generation)
            for sender, item in self._parked.pop((generation, ring.epoch), ()):
                self._judge(sender, item)
            self.act()

    def start_dealing(
        self,
        generation: int,
        share: int,
        ring: Ring,
        pieces: Iterable[int] | None = None,
        by_offer: bool = False,
        lane: Lane = EVERY_ROOT,
    ) -> None:
        """Deal these pieces over a ring, in place of the one that this share had before."""
        part = self._parts.get(generation)
        if part is not None:
            wanted = frozenset(pieces) if pieces is not None else None
            dealt = part.dealer.start(share, ring, wanted, by_offer, lane)
            self._notify(EpochBegan(generation, ring.epoch, tuple(dealt)))
            self.act()

    def deal(self, generation: int, pieces: Iterable[tuple[int, bytes, bytes]]) -> None:
        """Pieces are there and vouched for: deal them, now or when there is a ring."""
        part = self._parts.get(generation)
        if part is not None:
            for index, _, _ in pieces:
                part.vouch(index)
            self.act()

    def start_fill(
        self,
        generation: int,
        ring: Ring,
        indices: Iterable[int],
        by_offer: bool = False,
        lane: Lane = EVERY_ROOT,
    ) -> None:
        """Deal these pieces over the ring of a fill, each as soon as it is here."""
        part = self._parts.get(generation)
        if part is not None:
            self._totals.fills += 1
            part.dealer.fill(ring, indices, by_offer, lane)
            self.act()

    def watch(self, generation: int) -> None:
        """Ask for the notice `DealsDone`."""
        if generation in self._parts:
            self._watched_deals.add(generation)

    # Time.

    def _tick(self) -> None:
        """What the reactor's ticks do."""
        self._ticking = bool(self._parts) and not self.dead
        if not self._ticking:
            return
        self.events.after(TICK_SECONDS, self._tick)
        if self.frozen:
            return
        engine = self.engine
        engine.tick()
        self.act()
        owed_by = engine.owed_by
        queues = {
            peer: Queue(flow.queued_pieces, flow.waiting_pieces) for peer, flow in self.flows.items() if owed_by(peer)
        }
        for peer in self._lag.tick(queues):
            self._notify(PeerLags(peer))
        for generation in sorted(self._watched_deals):
            if self._parts[generation].dealer.finished:
                self._watched_deals.discard(generation)
                self._notify(DealsDone(generation))

    def _notify(self, notice: Notice) -> None:
        self.events.after(0.0, self._tell, notice)

    def _tell(self, notice: Notice) -> None:
        if not self.dead:
            self.on_notice(notice)

    def _soften(self, generation: int) -> None:
        """We are slow: offer what we haven't begun to send, since others have our spans now."""
        for peer in list(self.flows):
            for item in self.take_queued(peer, generation):
                offer = self.engine.soften(item.tag)
                if offer is not None:
                    self.send_control(self._directory[peer], offer)

    # What the connections tell.

    def receive(self, sender: Host, item: Any) -> None:
        """A frame arrived whole: it is looked at when the relay's thread doesn't rest, with what came meanwhile."""
        self._arrivals.append((sender, item))
        if not self._rests:
            self._round()

    def _round(self) -> None:
        self._rests = False
        if self.frozen or self.dead or not self._arrivals:
            return
        arrivals, self._arrivals = self._arrivals, []
        received = Counter[str]()
        for sender, item in arrivals:
            if type(item) is Push and item.generation in self._parts:
                received[sender.name] += self._parts[item.generation].length(item.index)
            self._take(sender, item)
        most_bytes = max(received.values(), default=0)
        left_bytes = sum(part.left_bytes for part in self._parts.values())
        rest_seconds = self._pace.rest_seconds(self.events.now, received.total(), most_bytes, left_bytes)
        if rest_seconds:
            self._rests = True
            self.events.after(rest_seconds, self._round)

    def _take(self, sender: Host, item: Any) -> None:
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
                    part = self._parts[action.generation]
                    size = part.length(action.index)
                    part.counts.sent_bytes += size
                    self.send_piece(peer, action.generation, size, action)
                else:
                    self.send_control(peer, action)
        self._acting = False

    def _judge(self, sender: "Node", item: Push | Offer) -> None:
        generation, index = item.generation, item.index
        offered = not isinstance(item, Push) or item.offered
        self.engine.admit(sender.name, generation, index, item.epoch, item.root, item.span, offered)
        part = self._parts[generation]
        if isinstance(item, Offer):
            if part.spec.file.has(index):
                part.vouch(index)
            self.engine.offered(sender.name, item)
            return
        size = part.length(index)
        self._totals.received_bytes += size
        sender.dealt_bytes += size
        known = index in part.vouched
        part.vouched.add(index)
        if known or not part.spec.file.write_piece(index, b""):
            self._totals.duplicate_bytes += size
        self.engine.pushed(sender.name, item)
        if not known:
            part.dealer.arrived(index)

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
            self._round()
        else:
            self.frozen = False
            self._inbox.clear()
            self._arrivals.clear()
            for peer in self._neighbours():
                self._start_afresh(peer)
            self._notify(StoodStill())
            self.act()
        self.on_resume()

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
            self._notify(PeerSilent(peer.name))
            self.lose(peer.name)
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


def _nobody_hears(_notice: Notice) -> None:
    """There is no process behind this node."""


def _nothing() -> None:
    """Nobody waits for it."""


def hash_of(*names: str) -> int:
    """A number that is the same in every run."""
    return sum((position + 1) * byte for position, byte in enumerate("/".join(names).encode()))
