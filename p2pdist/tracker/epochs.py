"""Rings and fills of the generations under way: planned in batches, told to the agents, put to the dealers."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import trio

from p2pdist.core.metainfo import Metainfo
from p2pdist.core.pieces import PieceSet
from p2pdist.relay.node import RelayNode
from p2pdist.relay.spans import Ring
from p2pdist.relay.transfer import Counts
from p2pdist.telemetry.metrics import JoinAnswer, TrackerMetrics
from p2pdist.tracker.fleet import Fleet
from p2pdist.tracker.generation import Generation, Order, Share, Stage
from p2pdist.tracker.slowness import Slowness
from p2pdist.tracker.wishes import Say, Wish
from p2pdist.wire.messages import Deal, Dealt, Epoch, Fill, RelayPlan, RingInfo, Supply, members_bitmap

JOIN_WINDOW_SECONDS = 0.005
JOIN_WINDOW_SECONDS_A_MEMBER = 0.00025
VERDICT_WINDOW_SECONDS = 0.25


@dataclass(slots=True, eq=False)
class Live:
    """A generation and what belongs to it on this tracker.

    `wishes` wait for an epoch. `fetch` is what fills its file, if that goes on; `moved` is when how many bytes had been
    sent last. Where holders deal, `supply` is what each of them must be told first, and `dealing` are those who haven't
    said yet that they are done.
    """

    generation: Generation
    counts: Counts
    fetch: trio.CancelScope | None = None
    wishes: list[Wish] = field(default_factory=list)
    epoch_planned: bool = False
    metainfo: Metainfo | None = None
    supply: Supply | None = None
    supplied: set[str] = field(default_factory=set)
    dealing: set[str] = field(default_factory=set)
    counted_bytes: int = 0
    moved: tuple[int, float] = (0, 0.0)
    released: trio.Event = field(default_factory=trio.Event)

    def note_move(self) -> None:
        """Start counting anew how long nothing was sent."""
        self.moved = (self.counts.sent_bytes, trio.current_time())


@dataclass(frozen=True, slots=True)
class Steering:
    """What it takes to steer relays. `flush_table` has what changed in the table go before what names slots.

    `zone_of` is the zone that a label of an agent's means for deals, `home` the tracker's own, "" when it isn't known.
    """

    tracker: str
    fleet: Fleet
    relay: RelayNode
    metrics: TrackerMetrics
    nursery: trio.Nursery
    say: Say
    flush_table: Callable[[], None]
    zone_of: Callable[[str], str]
    home: str


class Epochs:
    """Makes epochs and fills. `on_made` is told after an epoch, `on_hopeless` when nobody can deal what is lacked."""

    def __init__(
        self, steering: Steering, on_made: Callable[[Live], None], on_hopeless: Callable[[Live], None]
    ) -> None:
        self._with = steering
        self._on_made = on_made
        self._on_hopeless = on_hopeless
        self.slowness = Slowness()

    def plan(self, live: Live, least_seconds: float = 0.0) -> None:
        """Make an epoch soon. Joins that come together share it, for longer the more members must hear of it."""
        if not live.epoch_planned:
            live.epoch_planned = True
            generation = live.generation
            members = 0 if generation.newcomers_are_guests else len(generation.members)
            window = max(least_seconds, JOIN_WINDOW_SECONDS, JOIN_WINDOW_SECONDS_A_MEMBER * members)
            self._with.nursery.start_soon(self._make_soon, live, window)

    async def _make_soon(self, live: Live, seconds: float) -> None:
        """The wait is the batch, not a synchronisation."""
        await trio.sleep(seconds)
        live.epoch_planned = False
        if live.generation.stage is not Stage.ENDED:
            self._make(live)

    def _make(self, live: Live) -> None:
        generation, fleet = live.generation, self._with.fleet
        for node in set(generation.waiting) - set(fleet.in_order(generation.waiting)):
            generation.leave(node)
        wishes, live.wishes = live.wishes, []
        live.note_move()
        # Whatever names a slot comes after the table that has it.
        self._with.flush_table()
        if generation.newcomers_are_guests:
            for wish in wishes:
                self._answer(live, wish, ())
            self.order(live, generation.invite())
            if generation.stage is Stage.DEALING:
                self._make_rings(live, [])
        else:
            self._make_rings(live, wishes)
        self._on_made(live)

    def _make_rings(self, live: Live, wishes: Iterable[Wish]) -> None:
        """New rings for members and those who wait, where there is a change."""
        generation, fleet, now = live.generation, self._with.fleet, trio.current_time()
        in_order = fleet.in_order(generation.members | generation.waiting.keys())
        zones: defaultdict[str, list[str]] = defaultdict(list)
        for node in in_order:
            zones[self.zone(node)].append(node)
        leaves = {zone: self.slowness.leaves(nodes, now) for zone, nodes in zones.items()}
        dealt_share = live.counts.sent_bytes / max(1, generation.layout.size_bytes)
        shares = generation.next_epoch(in_order, leaves, dealt_share)
        rings: defaultdict[str, list[RingInfo]] = defaultdict(list)
        for share in shares:
            if len(share.ring):
                rings[share.zone].append(self._info(share.ring))
        for wish in wishes:
            self._answer(live, wish, tuple(rings[self.zone(wish.node)]))
        answered = {wish.node for wish in wishes}
        for zone, infos in rings.items():
            epoch = Epoch(generation.number, tuple(infos))
            for node in zones[zone]:
                if node not in answered:
                    self._with.say(node, epoch)
        for share in shares:
            self.deal(live, share)

    def home(self) -> str:
        """Where the tracker deals to first: its own zone, or that of most agents."""
        if self._with.home:
            return self._with.home
        zones = Counter(self._with.zone_of(agent.member.zone) for agent in self._with.fleet.agents())
        return zones.most_common(1)[0][0] if zones else ""

    def zone(self, node: str) -> str:
        """The zone of an agent as far as deals go."""
        agent = self._with.fleet.get(node)
        return self._with.zone_of(agent.member.zone) if agent is not None else ""

    def _answer(self, live: Live, wish: Wish, rings: tuple[RingInfo, ...]) -> None:
        generation = live.generation
        self._with.metrics.joins.labels(JoinAnswer.RELAY).inc()
        plan = RelayPlan(
            wish.join.id,
            str(generation.digest),
            generation.layout.size_bytes,
            generation.layout.piece_bytes,
            generation.number,
            generation.fan,
            generation.private,
            rings,
            generation.upstream,
            generation.repository,
        )
        self._with.say(wish.node, plan)
        if live.metainfo is not None and (generation.stage is Stage.DEALT or live.supply is not None):
            self._with.say(wish.node, Dealt(generation.number))

    def deal(self, live: Live, share: Share) -> None:
        """Put a share to its dealer."""
        number, count, ring = live.generation.number, live.generation.layout.count, share.ring
        if live.supply is not None and ring.dealer == self._with.tracker:
            self._on_hopeless(live)
            return
        live.dealing.add(ring.dealer)
        if ring.dealer == self._with.tracker:
            self._with.relay.start_dealing(number, share.number, ring, share.pieces, share.by_offer, share.lane)
            self._with.relay.watch(number)
            return
        self._supply(live, ring.dealer)
        pieces = share.pieces if share.pieces is not None else PieceSet(count, range(count))
        self._with.say(
            ring.dealer, Deal(number, share.number, self._info(ring), pieces.to_bytes(), share.by_offer, *share.lane)
        )

    def began(self, live: Live, epoch: int, dealt: Iterable[int]) -> None:
        """A dealer deals over a ring, or has ended a share that others go on with."""
        done = tuple(dealt)
        shares, orders = live.generation.handed_over(epoch, done)
        self._introduce(live, shares)
        self.order(live, orders + live.generation.began(epoch, done))

    def replace_dealer(self, live: Live, node: str) -> None:
        """Nothing more comes from this dealer: others deal its shares and its fills."""
        live.dealing.discard(node)
        shares, orders = live.generation.dealer_gone(node)
        self._introduce(live, shares)
        self.order(live, orders)

    def _introduce(self, live: Live, shares: Iterable[Share]) -> None:
        """Tell the members of shares who deals, and the dealers what."""
        for share in shares:
            epoch = Epoch(live.generation.number, (self._info(share.ring),))
            for member in (*share.ring.members, *share.ring.leaves):
                self._with.say(member, epoch)
            self.deal(live, share)

    def order(self, live: Live, orders: list[Order]) -> None:
        """Have fills dealt: tell the cohort who deals, and the dealer what."""
        number, count = live.generation.number, live.generation.layout.count
        if live.supply is not None and any(order.dealer == self._with.tracker for order in orders):
            self._on_hopeless(live)
            return
        told: defaultdict[str, list[RingInfo]] = defaultdict(list)
        infos = [self._info(order.ring) for order in orders]
        for order, info in zip(orders, infos, strict=True):
            for node in order.ring.members:
                told[node].append(info)
        for node, rings in told.items():
            self._with.say(node, Epoch(number, tuple(rings)))
        for order, info in zip(orders, infos, strict=True):
            if order.dealer == self._with.tracker:
                self._with.relay.start_fill(number, order.ring, order.pieces, order.by_offer, order.lane)
            else:
                self._supply(live, order.dealer)
                pieces = PieceSet(count, order.pieces).to_bytes()
                self._with.say(order.dealer, Fill(number, info, pieces, order.by_offer, *order.lane))

    def _supply(self, live: Live, node: str) -> None:
        """Tell a holder, once, that it has a part in this; who took part anyhow knows."""
        if live.supply is not None and node not in live.supplied and node not in live.generation.took_part:
            live.supplied.add(node)
            self._with.say(node, live.supply)

    def _info(self, ring: Ring) -> RingInfo:
        members, leaves = (members_bitmap(self._with.fleet.slots(nodes)) for nodes in (ring.members, ring.leaves))
        return RingInfo(ring.epoch, members, ring.dealer, leaves)
