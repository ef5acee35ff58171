"""Epochs and fills of the generations under way: planned in batches, told to the agents, put to the relay."""

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from p2pdist.core.metainfo import Metainfo
from p2pdist.core.pieces import PieceSet
from p2pdist.relay.node import RelayNode
from p2pdist.relay.transfer import Counts
from p2pdist.telemetry.metrics import JoinAnswer, TrackerMetrics
from p2pdist.tracker.fleet import Fleet
from p2pdist.tracker.generation import Generation, Order, Stage
from p2pdist.tracker.slowness import Slowness
from p2pdist.tracker.wishes import Say, Wish
from p2pdist.wire.messages import Dealt, Epoch, Fill, RelayPlan, members_bitmap

JOIN_WINDOW_SECONDS = 0.005


@dataclass(slots=True, eq=False)
class Live:
    """A generation and what belongs to it on this tracker.

    `wishes` wait for an epoch, `late` ones until the blob is whole here, to be answered anew. `fetch` is what fills its
    file, if that goes on; `moved` is when how many bytes had been sent last.
    """

    generation: Generation
    counts: Counts
    fetch: trio.CancelScope | None
    wishes: list[Wish] = field(default_factory=list)
    late: list[Wish] = field(default_factory=list)
    epoch_planned: bool = False
    metainfo: Metainfo | None = None
    counted_bytes: int = 0
    moved: tuple[int, float] = (0, 0.0)
    released: trio.Event = field(default_factory=trio.Event)

    def note_move(self) -> None:
        """Start counting anew how long nothing was sent."""
        self.moved = (self.counts.sent_bytes, trio.current_time())


class Epochs:
    """Makes epochs and fills. `on_deserted` is told of a generation that nobody takes part in any more."""

    def __init__(
        self,
        tracker: str,
        fleet: Fleet,
        relay: RelayNode,
        metrics: TrackerMetrics,
        nursery: trio.Nursery,
        say: Say,
        flush_table: Callable[[], None],
        on_deserted: Callable[[Live], None],
    ) -> None:
        self._tracker = tracker
        self._fleet = fleet
        self._relay = relay
        self._metrics = metrics
        self._nursery = nursery
        self._say = say
        self._flush_table = flush_table
        self._on_deserted = on_deserted
        self.slowness = Slowness()

    def plan(self, live: Live) -> None:
        """Make an epoch soon; joins that come together share it."""
        if not live.epoch_planned:
            live.epoch_planned = True
            self._nursery.start_soon(self._make_soon, live)

    async def _make_soon(self, live: Live) -> None:
        """The wait is the batch, not a synchronisation."""
        await trio.sleep(JOIN_WINDOW_SECONDS)
        live.epoch_planned = False
        if live.generation.stage is not Stage.ENDED:
            self._make(live)

    def _make(self, live: Live) -> None:
        generation = live.generation
        in_order = self._fleet.in_order(generation.members | generation.waiting.keys())
        wishes, live.wishes = live.wishes, []
        old = set(generation.members)
        if not in_order:
            generation.members.clear()
            generation.waiting.clear()
            self._on_deserted(live)
            return
        ring = generation.next_epoch(in_order, self.slowness.leaves(in_order, trio.current_time()))
        # Whatever names a slot comes after the table that has it.
        self._flush_table()
        members, leaves = (members_bitmap(self._fleet.slots(nodes)) for nodes in (ring.members, ring.leaves))
        for wish in wishes:
            self._metrics.joins.labels(JoinAnswer.RELAY).inc()
            self._say(wish.node, self._plan_of(generation, wish.join.id, ring.epoch, members, leaves))
        for node in old & set(in_order) - {wish.node for wish in wishes}:
            self._say(node, Epoch(generation.number, ring.epoch, members, self._tracker, leaves))
        live.note_move()
        self._relay.start_dealing(generation.number, ring)
        if live.metainfo is not None:
            self._relay.watch(generation.number)
            if generation.stage is Stage.DEALT:
                for wish in wishes:
                    self._say(wish.node, Dealt(generation.number, live.metainfo.info_hash))

    def _plan_of(self, generation: Generation, id_: int, epoch: int, members: bytes, leaves: bytes) -> RelayPlan:
        return RelayPlan(
            id_,
            str(generation.digest),
            generation.layout.size_bytes,
            generation.layout.piece_bytes,
            generation.number,
            generation.fan,
            generation.private,
            epoch,
            members,
            self._tracker,
            leaves,
        )

    def order(self, live: Live, orders: list[Order]) -> None:
        """Have fills dealt: tell the cohort who deals, and the dealer what."""
        number, count = live.generation.number, live.generation.layout.count
        for order in orders:
            bitmap = members_bitmap(self._fleet.slots(order.ring.members))
            for node in order.ring.members:
                self._say(node, Epoch(number, order.ring.epoch, bitmap, order.dealer))
            if order.dealer == self._tracker:
                self._relay.start_fill(number, order.ring, order.pieces)
            else:
                pieces = PieceSet(count, order.pieces).to_bytes()
                self._say(order.dealer, Fill(number, order.ring.epoch, bitmap, pieces))
