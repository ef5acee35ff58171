"""The tracker of the model: joins, epochs, fills and ends by the tracker's own pure rules, over modelled connections.

The rules are `tracker.choice`, `tracker.generation` and `tracker.fleet`; here is what `tracker/relaying.py`,
`epochs.py` and `table.py` do around them, with events where those have tasks. Swarms aren't modelled: whoever is sent
to one is told to the fleet, which estimates.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from p2pdist.core.digest import Digest
from p2pdist.core.pieces import PieceLayout, PieceSet
from p2pdist.relay.spans import Ring
from p2pdist.tracker.choice import Situation, Way, choose
from p2pdist.tracker.fleet import Fleet, TableChange
from p2pdist.tracker.generation import Order, Stage
from p2pdist.tracker.slowness import WITNESSES, Slowness
from p2pdist.wire.messages import (
    Dealt,
    Ended,
    Endpoint,
    Epoch,
    Fill,
    HeldBlob,
    Inventory,
    Join,
    Lacking,
    Lagging,
    Left,
    RelayPlan,
    Table,
    members_bitmap,
)
from simulations.model.control import ControlLines
from simulations.model.events import Events
from simulations.model.node import TICK_SECONDS, Node, Part
from simulations.model.options import Options
from simulations.model.variants import Latecomer, Variant, VariantGeneration

LEASE_SECONDS = 30.0
_CATCH_UP_SECONDS = 0.25
_UPSTREAM, _REPOSITORY = "registry.example", "library/app"


@dataclass(slots=True)
class Blob:
    """One layer: how it is cut, whether the tracker has it whole, and its generation while there is one."""

    digest: Digest
    layout: PieceLayout
    live: VariantGeneration | None = None
    whole: bool = False
    epoch_planned: bool = False
    wishes: list[str] = field(default_factory=list)
    undecided: list[str] | None = None

    @classmethod
    def make(cls, layer: int, layout: PieceLayout, in_store: bool) -> "Blob":
        """The layer of this number."""
        return cls(Digest.of(f"layer {layer}".encode()), layout, whole=in_store)

    @property
    def number(self) -> int:
        """The number of the generation under way."""
        assert self.live is not None
        return self.live.number


class Steering:
    """What the tracker decides. `fetch(blob)` starts an origin's delivery; `to_swarm(node, blob)` leaves the relay."""

    def __init__(
        self,
        events: Events,
        tracker: Node,
        agents: dict[str, Node],
        blobs: Sequence[Blob],
        options: Options,
        fetch: Callable[[Blob], None],
        to_swarm: Callable[[Node, Blob], None],
        on_dealt: Callable[[Node, Blob], None],
    ) -> None:
        self._events = events
        self._tracker = tracker
        self._agents = agents
        self._blobs = list(blobs)
        self._numbers = count(1 << 62)
        self.blob_of: dict[int, Blob] = {}
        self._options = options
        self._fetch = fetch
        self._to_swarm = to_swarm
        self._on_dealt = on_dealt
        self._fleet = Fleet(LEASE_SECONDS)
        self._table_changes: list[TableChange] = []
        self._table_planned = False
        self._slowness = Slowness()
        self.called_slow: list[str] = []
        self._given_up_by: dict[str, set[str]] = {}
        self._without: dict[str, list[Blob]] = {}
        self.lines = ControlLines(events, tracker)
        self.fills = 0
        self.epochs = 0

    # The table.

    def register(self, names: Sequence[str], zones: Sequence[str], rng: random.Random, told: bool) -> None:
        """Lease these agents, in an order that is drawn as races draw it; `told`: everybody has to hear of it."""
        for name, zone in rng.sample(list(zip(names, zones, strict=True)), len(names)):
            address = Endpoint("10.77.123.123", 7501)
            _, change = self._fleet.register(name, name, zone, address, address, self._events.now)
            if told:
                self._table_changes.append(change)
        if told and not self._table_planned:
            self._table_planned = True
            wait = self._options.table.window(len(self._fleet)) if self.lines.sent["Table"] else 0.0
            self._events.after(wait, self._flush_table)

    def hold(self, names: Sequence[str]) -> None:
        """These agents have every blob from the start, and the tracker knows the blobs."""
        for name in names:
            self._fleet.update_holdings(name, added=[blob.digest for blob in self._blobs])
        for blob in self._blobs:
            blob.whole = blob.whole or bool(names)

    def _flush_table(self) -> None:
        self._table_planned = False
        changes, self._table_changes = self._table_changes, []
        added = tuple(member for change in changes for member in change.added)
        removed = tuple(slot for change in changes for slot in change.removed)
        if added or removed:
            table = Table(False, added, removed)
            self.lines.tell(self._nodes(agent.node for agent in self._fleet.agents()), table, lambda _: None)

    # What agents say.

    def join(self, node: Node, blob: Blob) -> None:
        """`node` asks for `blob`."""
        message = Join(1, _UPSTREAM, _REPOSITORY, str(blob.digest), blob.layout.size_bytes, blob.layout.piece_bytes)
        self.lines.say(node, message, lambda: self._decide(node.name, blob))

    def holds(self, node: Node, blob: Blob, in_relay: bool) -> None:
        """`node` has the whole blob."""
        inventory = Inventory((HeldBlob(str(blob.digest), blob.layout.size_bytes),))
        self.lines.say(node, inventory, lambda: self._fleet.update_holdings(node.name, added=[blob.digest]))
        if in_relay and blob.live is not None:
            self.lines.say(node, Left(blob.number), lambda: self._left(node.name, blob))

    def lacking(self, node: Node, blob: Blob, missing: Sequence[int]) -> None:
        """`node` misses pieces that should have come."""
        if blob.live is None:
            return
        message = Lacking(blob.number, PieceSet(blob.layout.count, missing).to_bytes())
        self.lines.say(node, message, lambda: self._fill_for(node.name, blob, missing))

    def lagging(self, node: Node, peer: str) -> None:
        """`node` sees that its pieces go more slowly to `peer` than to others."""
        self.lines.say(node, Lagging(peer), lambda: self._lags(node.name, peer))

    def gone(self, name: str) -> None:
        """The control connection of an agent broke, or its lease ran out."""
        self._fleet.disconnected(name)
        for blob in self._blobs:
            blob.wishes = [wish for wish in blob.wishes if wish != name]
            generation = blob.live
            if generation is not None and generation.leave(name):
                self._plan_epoch(blob)
            self._end_if_done(blob)

    def _lags(self, witness: str, name: str) -> None:
        if self._slowness.report(witness, name, len(self._fleet), self._events.now):
            self.called_slow.append(name)
            for blob in self._blobs:
                if blob.live is not None and name in blob.live.members and blob.live.stage is Stage.DEALING:
                    self._plan_epoch(blob)

    def _left(self, name: str, blob: Blob) -> None:
        if blob.live is not None:
            blob.live.finished(name)
            self._end_if_done(blob)

    def _fill_for(self, name: str, blob: Blob, missing: Sequence[int]) -> None:
        if blob.live is not None:
            self._order(blob, blob.live.lacking(name, missing))

    # Decisions.

    def _decide(self, name: str, blob: Blob) -> None:
        if blob.undecided is not None:
            blob.undecided.append(name)
            return
        live = blob.live
        situation = Situation(
            being_dealt=live is not None and live.stage is Stage.DEALING,
            dealt_not_ended=live is not None and live.stage is Stage.DEALT,
            holders=len(self._fleet.holders(blob.digest, besides=name)),
            metainfo_known=blob.whole,
            size_bytes=blob.layout.size_bytes,
            private=False,
            in_store=blob.whole,
        )
        match choose(situation):
            case Way.JOIN_RELAY:
                assert live is not None
                self._enter(blob, live, name)
            case Way.SWARM:
                self._to_swarm(self._agents[name], blob)
            case Way.RELAY_FROM_STORE | Way.RELAY_FROM_ORIGIN:
                blob.undecided = [name]
                self._fetch(blob)

    def begin(self, blob: Blob) -> None:
        """The size is known: whoever waited enters. What the tracker holds is dealt as soon as there is a ring."""
        layout = blob.layout
        live = blob.live = VariantGeneration(
            next(self._numbers),
            blob.digest,
            _UPSTREAM,
            _REPOSITORY,
            layout,
            False,
            self._tracker.name,
            self._options.fan,
            spread=Variant.SPREAD_FILLS in self._options.variants,
        )
        self.blob_of[blob.number] = blob
        held = PieceSet(layout.count, range(layout.count) if blob.whole else ())
        self._tracker.open(blob.number, layout, held, live.fan)
        names, blob.undecided = blob.undecided or [], None
        for name in names:
            self._enter(blob, live, name)
        if blob.whole:
            self._watch_deals(blob)

    def arrived(self, blob: Blob, index: int) -> None:
        """A piece came from the origin."""
        self._tracker.deal(blob.number, index)
        if self._tracker.parts[blob.number].held.complete:
            blob.whole = True
            self._watch_deals(blob)

    def _enter(self, blob: Blob, live: VariantGeneration, name: str) -> None:
        live.join(name, PieceSet(blob.layout.count))
        blob.wishes.append(name)
        self._plan_epoch(blob)

    def _plan_epoch(self, blob: Blob) -> None:
        if not blob.epoch_planned and blob.live is not None:
            blob.epoch_planned = True
            members = len(blob.live.members) + len(blob.live.waiting)
            self._events.after(self._options.joins.window(members), self._make_epoch, blob)

    def _make_epoch(self, blob: Blob) -> None:
        blob.epoch_planned = False
        live = blob.live
        if live is None or live.stage is Stage.ENDED:
            return
        in_order = self._fleet.in_order(live.members | live.waiting.keys())
        names, blob.wishes = blob.wishes, []
        old = set(live.members) - set(names)
        if (
            Variant.QUIET_JOINS in self._options.variants
            and not self._tracker.engine.undealt(blob.number)
            and blob.whole
        ):
            old.clear()
        if not in_order:
            live.members.clear()
            live.waiting.clear()
            self._end_if_done(blob)
            return
        part = self._tracker.parts[blob.number]
        if Variant.LATE_LEAVES in self._options.variants and part.dealing is not None:
            live.put_apart(names)
        ring = live.next_epoch(in_order, self._slowness.leaves(in_order, self._events.now))
        self.epochs += 1
        self._flush_table()
        self._tell_epoch(blob, live, ring, names, [name for name in in_order if name in old])
        dealt = self._tracker.start_dealing(blob.number, ring)
        if live.apart.intersection(names):
            self._events.after(_CATCH_UP_SECONDS, self._take_in, blob, live, names, tuple(dealt))
        if live.stage is Stage.DEALT:
            self._tell_dealt(blob, names)
        self._order(blob, live.began(ring.epoch, dealt))

    def _take_in(self, blob: Blob, live: VariantGeneration, names: Sequence[str], dealt: tuple[int, ...]) -> None:
        """Latecomers that have what was dealt before them leave their places beside the ring."""
        if live.stage is not Stage.DEALING:
            return
        late = [Latecomer(name, part.held, dealt) for name in names if (part := self._part(name, live.number))]
        ready = {each.name for each in late if each.caught_up}
        if ready:
            live.apart -= ready
            self._plan_epoch(blob)
        rest = [each.name for each in late if each.name not in ready]
        if rest:
            self._events.after(_CATCH_UP_SECONDS, self._take_in, blob, live, rest, dealt)

    def _part(self, name: str, number: int) -> Part | None:
        return self._agents[name].parts.get(number)

    def frozen(self, witness: Node, name: str) -> None:
        """`witness` gave an agent up and says so; when two have, rings go on without it."""
        self.lines.say(witness, Lagging(name), lambda: self._given_up(witness.name, name))

    def _given_up(self, witness: str, name: str) -> None:
        witnesses = self._given_up_by.setdefault(name, set())
        witnesses.add(witness)
        if len(witnesses) < WITNESSES:
            return
        for blob in self._blobs:
            if blob.live is not None and name in blob.live.members and blob.live.leave(name):
                self._without.setdefault(name, []).append(blob)
                self._plan_epoch(blob)

    def heard_again(self, name: str) -> None:
        """An agent that was given up is back: it joins what it was in."""
        self._given_up_by.pop(name, None)
        for blob in self._without.pop(name, []):
            part = self._part(name, blob.live.number) if blob.live is not None else None
            if blob.live is not None and part is not None and not part.held.complete:
                blob.live.join(name, part.held.copy())
                blob.wishes.append(name)
                self._plan_epoch(blob)

    def _tell_epoch(
        self,
        blob: Blob,
        live: VariantGeneration,
        ring: Ring,
        newcomers: Sequence[str],
        others: Sequence[str],
    ) -> None:
        layout, number = blob.layout, blob.number
        members, leaves = (members_bitmap(self._fleet.slots(nodes)) for nodes in (ring.members, ring.leaves))
        plan = RelayPlan(
            1,
            str(blob.digest),
            layout.size_bytes,
            layout.piece_bytes,
            number,
            live.fan,
            False,
            ring.epoch,
            members,
            self._tracker.name,
            leaves,
        )

        def enter(node: Node) -> None:
            node.open(number, layout, PieceSet(layout.count), live.fan)
            node.add_ring(number, ring)

        self.lines.tell(self._nodes(newcomers), plan, enter)
        epoch = Epoch(number, ring.epoch, members, self._tracker.name, leaves)
        self.lines.tell(self._nodes(others), epoch, lambda node: node.add_ring(number, ring))

    def _order(self, blob: Blob, orders: Sequence[Order]) -> None:
        for order in orders:
            self.fills += 1
            ring, number = order.ring, blob.number
            bitmap = members_bitmap(self._fleet.slots(ring.members))
            epoch = Epoch(number, ring.epoch, bitmap, order.dealer)
            self.lines.tell(self._nodes(ring.members), epoch, partial(_add_ring, number=number, ring=ring))
            if order.dealer == self._tracker.name:
                self._tracker.start_fill(number, ring, order.pieces)
            else:
                pieces = PieceSet(blob.layout.count, order.pieces).to_bytes()
                fill = Fill(number, ring.epoch, bitmap, pieces)
                start = partial(_start_fill, number=number, order=order)
                self.lines.tell(self._nodes([order.dealer]), fill, start)

    # Ends.

    def _watch_deals(self, blob: Blob) -> None:
        """Look for the moment when all is dealt and acknowledged, as the reactor's ticks do."""
        live, engine = blob.live, self._tracker.engine
        if live is None or live.stage is not Stage.DEALING:
            return
        idle = not engine.undealt(blob.number) and not engine.unfinished(blob.number)
        if idle and not live.waiting and live.members:
            live.stage = Stage.DEALT
            self._tell_dealt(blob, sorted(live.members))
            self._end_if_done(blob)
        else:
            self._events.after(TICK_SECONDS, self._watch_deals, blob)

    def _tell_dealt(self, blob: Blob, names: Sequence[str]) -> None:
        dealt = Dealt(blob.number, bytes(32))
        self.lines.tell(self._nodes(names), dealt, lambda node: self._on_dealt(node, blob))

    def _end_if_done(self, blob: Blob) -> None:
        live = blob.live
        if live is not None and blob.whole and (live.deserted or live.all_done):
            live.stage = Stage.ENDED
            blob.live = None
            names, blob.wishes = blob.wishes, []
            number = live.number
            self._tracker.close_generation(number)
            everybody = self._nodes(sorted(live.took_part))
            self.lines.tell(everybody, Ended(number), lambda node: node.close_generation(number))
            for name in names:
                self._decide(name, blob)

    def _nodes(self, names: Iterable[str]) -> list[Node]:
        return [node for name in names if not (node := self._agents[name]).dead]


def _add_ring(node: Node, number: int, ring: Ring) -> None:
    node.add_ring(number, ring)


def _start_fill(node: Node, number: int, order: Order) -> None:
    node.start_fill(number, order.ring, order.pieces)
