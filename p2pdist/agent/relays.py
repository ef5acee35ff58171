"""The relays that this agent takes part in: what the tracker says of them, put to the relay's thread.

Lives on the trio thread. Keeps the tracker's table, since epochs are bitmaps over its slots, and one `Membership` a
generation, which lasts until the tracker ends the generation: also after the blob is here, because others may still
need what we have. A bitmap means the table as it is when it arrives (a slot that is free is given to the next who
comes), so it becomes a ring at once, even while there is no file yet to take part with.
"""

import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from p2pdist.core.digest import Digest
from p2pdist.core.errors import P2PDistError, ProtocolError, Unavailable
from p2pdist.core.pieces import PieceLayout, PieceSet
from p2pdist.relay.dealing import Lane
from p2pdist.relay.node import RelayNode, Ticket
from p2pdist.relay.notices import BadPiece, EpochBegan, Notice, PeerLags, PeerSilent, StoodStill, TransferFailed
from p2pdist.relay.notices import DealsDone as DealsAcknowledged
from p2pdist.relay.spans import Ring
from p2pdist.relay.switchboard import NodeAddress
from p2pdist.relay.transfer import PieceFile, TransferSpec
from p2pdist.store import PartialBlob
from p2pdist.swarm import Endpoint
from p2pdist.telemetry.events import EventLog
from p2pdist.telemetry.logging import get_logger
from p2pdist.telemetry.metrics import AgentMetrics
from p2pdist.telemetry.metrics import BadPiece as BadPieceReason
from p2pdist.wire.messages import (
    Beat,
    Began,
    Deal,
    DealsDone,
    Dealt,
    Ended,
    Epoch,
    Fill,
    Lacking,
    Lagging,
    Left,
    Member,
    Message,
    RelayPlan,
    RingInfo,
    Silent,
    Supply,
    Table,
    slots_of,
)

_KEPT_STEPS = 256
_KEPT_NAMES = 1024
_REASON_CHARACTERS = 1000
log = get_logger("agent.relays")


@dataclass(slots=True)
class Totals:
    """Payload bytes over all relays, ended or not."""

    relayed_bytes: int = 0
    dealt_bytes: int = 0
    sent_bytes: int = 0
    duplicate_bytes: int = 0


@dataclass(slots=True, eq=False)
class Membership:
    """Our part in one generation; `wake` is called when the tracker or the relay's thread said something of it.

    `ring` is the widest that we were told of, of those the newest: what all members know, while a fill's ring is known
    to a few.
    """

    generation: int
    digest: Digest
    ticket: Ticket
    layout: PieceLayout
    wake: Callable[[], None]
    dealt: bool = False
    ended: Ended | None = None
    failure: P2PDistError | None = None
    ring: Ring | None = None


@dataclass(slots=True)
class _Planned:
    """A generation that we were told to take part in and haven't entered yet, and what was said of it since.

    Of more than `_KEPT_STEPS` the oldest go: a member that lacks an epoch asks for the pieces that it misses.
    """

    layout: PieceLayout
    steps: deque[Callable[[], None]] = field(default_factory=lambda: deque(maxlen=_KEPT_STEPS))
    dealt: bool = False
    ended: Ended | None = None
    ring: Ring | None = None


class Relays:
    """All memberships of this agent; `say` queues a message for the tracker."""

    def __init__(
        self,
        node: str,
        relay: RelayNode,
        metrics: AgentMetrics,
        say: Callable[[Message], None],
        on_addresses: Callable[[], None],
        events: EventLog | None = None,
    ) -> None:
        self._node = node
        self._relay = relay
        self._metrics = metrics
        self._say = say
        self._on_addresses = on_addresses
        self._events = events
        self._members: dict[int, Member] = {}
        self._names: OrderedDict[str, str] = OrderedDict()
        self._tracker: tuple[str, NodeAddress] | None = None
        self._memberships: dict[int, Membership] = {}
        self._planned: dict[int, _Planned] = {}
        self._past = Totals()

    def addresses(self, most: int) -> list[str]:
        """Where some of the other agents take data connections, HOST:PORT."""
        others = [member.relay for member in self._members.values() if member.node != self._node]
        chosen = random.sample(others, min(most, len(others)))
        return [f"[{each.host}]:{each.port}" if ":" in each.host else f"{each.host}:{each.port}" for each in chosen]

    # The table.

    def set_tracker(self, tracker: str, address: NodeAddress) -> None:
        """Who deals, and where it takes data connections."""
        self._tracker = (tracker, address)

    def table(self, table: Table) -> None:
        """The tracker's table, or a change of it."""
        if table.whole:
            self._members.clear()
        for slot in table.removed:
            self._members.pop(slot, None)
        for member in table.added:
            self._members[member.slot] = member
            self._learn_name(member)
        nodes = {
            member.node: NodeAddress(member.relay.host, member.relay.port)
            for member in self._members.values()
            if member.node != self._node
        }
        keep = set[str]()
        if self._tracker is not None:
            node, address = self._tracker
            nodes[node] = address
            keep.add(node)
        self._relay.set_nodes(nodes, keep)
        self._on_addresses()

    @property
    def node(self) -> str:
        """Our own id."""
        return self._node

    @property
    def fleet_size(self) -> int:
        """How many agents the table has."""
        return len(self._members)

    @property
    def peers(self) -> int:
        """How many nodes are connected."""
        return self._relay.peers

    @property
    def tracker(self) -> str:
        """The tracker's id; empty before it was met."""
        return self._tracker[0] if self._tracker is not None else ""

    def name_of(self, node: str) -> str:
        """What a node is, or was, called; empty for one that was never in the table."""
        return self._names.get(node, "")

    def node_at(self, peer: Endpoint) -> str:
        """The member whose swarm is there, or on that host, if it is the only one; empty when that can't be said."""
        there = [member for member in self._members.values() if member.swarm.host == peer.address]
        found = [member for member in there if member.swarm.port == peer.port] or there
        return found[0].node if len(found) == 1 else ""

    def swarm_hosts(self) -> Iterable[str]:
        """The addresses that swarm peers may come from."""
        return {member.swarm.host for member in self._members.values()}

    def _learn_name(self, member: Member) -> None:
        """Keep it for a while after the member has left: accounts of pulls name it."""
        self._names[member.node] = member.name
        self._names.move_to_end(member.node)
        while len(self._names) > len(self._members) + _KEPT_NAMES:
            self._names.popitem(last=False)
        if self._events is not None:
            self._events.name_peer(member.node, member.name)

    # Taking part.

    def plan(self, plan: RelayPlan) -> None:
        """The tracker wants us in a relay, which somebody will `enter` or `decline`; raises `P2PDistError` for a plan
        that means nothing.
        """
        rings = [self._ring(info) for info in plan.rings]
        self._plan(plan.generation, plan.size_bytes, plan.piece_bytes)
        for ring in rings:
            self._learn(plan.generation, ring)

    def plan_supply(self, supply: Supply) -> None:
        """The tracker wants us to deal what we hold; somebody will `supply` or `decline`."""
        self._plan(supply.generation, supply.size_bytes, supply.piece_bytes)

    def _plan(self, generation: int, size_bytes: int, piece_bytes: int) -> None:
        if generation not in self._memberships:
            self._planned.setdefault(generation, _Planned(PieceLayout(size_bytes, piece_bytes)))

    def enter(self, plan: RelayPlan, partial: PartialBlob, wake: Callable[[], None]) -> Membership:
        """Take part in a relay that was planned; again does nothing.

        Raises `ProtocolError` when it doesn't fit the blob, `Unavailable` when no descriptor is left.
        """
        layout = partial.layout
        if (plan.size_bytes, plan.piece_bytes) != (layout.size_bytes, layout.piece_bytes):
            raise ProtocolError(
                f"the tracker relays {plan.digest} as {plan.size_bytes} bytes in pieces of {plan.piece_bytes}; here it"
                f" has {layout.size_bytes} in pieces of {layout.piece_bytes}"
            )
        return self._take_part(plan, partial.digest, partial, wake)

    def supply(
        self, supply: Supply, file: PieceFile, proofs: list[tuple[int, bytes, bytes]], wake: Callable[[], None]
    ) -> Membership:
        """Take part with a blob that is here, to deal it; again does nothing. `proofs` are those of all its pieces.

        Raises `Unavailable` when no descriptor is left.
        """
        membership = self._memberships.get(supply.generation)
        if membership is None:
            membership = self._take_part(supply, Digest.parse(supply.digest), file, wake, proofs)
        return membership

    def _take_part(
        self,
        plan: RelayPlan | Supply,
        digest: Digest,
        file: PieceFile,
        wake: Callable[[], None],
        proofs: list[tuple[int, bytes, bytes]] | None = None,
    ) -> Membership:
        generation, layout = plan.generation, file.layout
        membership = self._memberships.get(generation)
        if membership is not None:
            membership.wake = wake
            return membership
        try:
            ticket = self._relay.open(TransferSpec(generation, digest, layout, file, plan.private, plan.fan))
        except OSError as error:
            raise Unavailable(f"can't relay {digest}: {error.strerror}; raise LimitNOFILE") from error
        membership = self._memberships[generation] = Membership(generation, digest, ticket, layout, wake)
        if proofs:
            self._relay.deal(generation, proofs)
        planned = self._planned.pop(generation, None)
        if planned is not None:
            for step in planned.steps:
                step()
            membership.dealt, membership.ring = planned.dealt, planned.ring
            if planned.ended is not None:
                self._end(membership, planned.ended)
        return membership

    def decline(self, generation: int, reason: str) -> None:
        """Don't take part in what was planned, and tell the tracker."""
        self._planned.pop(generation, None)
        if generation not in self._memberships:
            self._say(Left(generation, reason[:_REASON_CHARACTERS]))

    def abandon(self, membership: Membership, reason: str) -> None:
        """Take no part any more, and tell the tracker."""
        if membership.generation in self._memberships:
            self._say(Left(membership.generation, reason[:_REASON_CHARACTERS]))
            self._end(membership, Ended(membership.generation))

    def set_alone(self, alone: bool) -> None:
        """Whether the tracker is gone, so that members of a relay take what one of them vouches for."""
        self._relay.set_alone(alone)

    def inject(
        self, membership: Membership, epoch: int, pieces: list[tuple[int, bytes, bytes]], by_offer: bool
    ) -> None:
        """Pass on pieces (index, hash, encoded vouch of ours) that came from elsewhere; from any thread.

        `by_offer` where others may have them already.
        """
        self._relay.inject(membership.generation, epoch, pieces, by_offer)

    def distrust(self, nodes: Iterable[str]) -> None:
        """Take nothing more that these agents vouch for."""
        self._relay.distrust(nodes)

    def reconnected(self) -> None:
        """Ask after every generation: a tracker that restarted knows none of them and says so, and nobody else ever
        would end them.
        """
        for membership in list(self._memberships.values()):
            nothing = PieceSet(membership.layout.count).to_bytes()
            self._say(Lacking(membership.generation, nothing))

    def message(self, message: Epoch | Fill | Deal | Dealt | Ended) -> None:
        """What the tracker says of a generation; nothing happens for one that we have no part in.

        Raises `P2PDistError` for a message that means nothing.
        """
        generation = message.generation
        part = self._memberships.get(generation) or self._planned.get(generation)
        if part is None:
            return
        match message:
            case Epoch(_, rings):
                for ring in [self._ring(info) for info in rings]:
                    self._learn(generation, ring)
            case Fill(_, info, pieces, by_offer, lane, lanes):
                wanted = [*PieceSet.from_bytes(part.layout.count, pieces)]
                fill = self._ring(info)
                self._step(
                    generation, lambda: self._relay.start_fill(generation, fill, wanted, by_offer, Lane(lane, lanes))
                )
            case Deal(_, share, info, pieces, by_offer, lane, lanes):
                dealt = [*PieceSet.from_bytes(part.layout.count, pieces)]
                deal = self._ring(info)
                self._step(generation, lambda: self._deal(generation, share, deal, dealt, by_offer, Lane(lane, lanes)))
            case Dealt():
                part.dealt = True
            case Ended():
                if isinstance(part, Membership):
                    self._end(part, message)
                else:
                    part.ended = message
        if isinstance(part, Membership):
            part.wake()

    def notice(self, notice: Notice) -> None:
        """Something happened in the relay's thread."""
        match notice:
            case TransferFailed(generation, error):
                membership = self._memberships.get(generation)
                if membership is not None:
                    membership.failure = error
                    self.abandon(membership, str(error))
            case PeerLags(node):
                self._say(Lagging(node))
            case PeerSilent(node):
                self._say(Silent(node))
            case StoodStill():
                # Whoever was left out for its silence is taken in again at the first word.
                self._say(Beat())
            case EpochBegan(generation, epoch, dealt):
                if generation in self._memberships:
                    count = self._memberships[generation].layout.count
                    self._say(Began(generation, epoch, PieceSet(count, dealt).to_bytes()))
            case DealsAcknowledged(generation):
                self._say(DealsDone(generation))
            case BadPiece(_, node, index, reason):
                self._metrics.bad_pieces.labels(BadPieceReason.HASH).inc()
                log.warning("bad_piece", node=node, piece=index, reason=reason)

    # Figures.

    def totals(self) -> Totals:
        """Payload bytes over all relays, ended or not."""
        past = self._past
        totals = Totals(past.relayed_bytes, past.dealt_bytes, past.sent_bytes, past.duplicate_bytes)
        for membership in self._memberships.values():
            _add(totals, membership)
        return totals

    @property
    def live(self) -> int:
        """How many relays we are a member of."""
        return len(self._memberships)

    # Inside.

    def _step(self, generation: int, step: Callable[[], None]) -> None:
        """Do it, or keep it for the moment when we enter."""
        planned = self._planned.get(generation)
        if planned is None:
            step()
        else:
            planned.steps.append(step)

    def _learn(self, generation: int, ring: Ring) -> None:
        part = self._memberships.get(generation) or self._planned.get(generation)
        if part is not None and (part.ring is None or (len(ring), ring.epoch) > (len(part.ring), part.ring.epoch)):
            part.ring = ring
        self._step(generation, lambda: self._relay.add_ring(generation, ring))

    def _deal(self, generation: int, share: int, ring: Ring, pieces: list[int], by_offer: bool, lane: Lane) -> None:
        self._relay.start_dealing(generation, share, ring, pieces, by_offer, lane)
        self._relay.watch(generation)

    def _end(self, membership: Membership, ended: Ended) -> None:
        if self._memberships.pop(membership.generation, None) is None:
            return
        self._relay.close(membership.generation)
        _add(self._past, membership)
        membership.ended = ended
        membership.wake()

    def _ring(self, info: RingInfo) -> Ring:
        return Ring(
            info.epoch, self._nodes(info.epoch, info.members), info.dealer, self._nodes(info.epoch, info.leaves)
        )

    def _nodes(self, epoch: int, bitmap: bytes) -> list[str]:
        slots = slots_of(bitmap)
        unknown = [slot for slot in slots if slot not in self._members]
        if unknown:
            raise ProtocolError(f"epoch {epoch} names the slots {unknown[:8]}, which the table doesn't have")
        return [self._members[slot].node for slot in slots]


def _add(totals: Totals, membership: Membership) -> None:
    counts = membership.ticket.counts
    totals.relayed_bytes += counts.relayed_bytes
    totals.dealt_bytes += counts.dealt_bytes
    totals.sent_bytes += counts.sent_bytes
    totals.duplicate_bytes += counts.duplicate_bytes
