"""The relays that this agent takes part in: what the tracker says of them, put to the relay's thread.

Lives on the trio thread. Keeps the tracker's table, since epochs are bitmaps over its slots, and one `Membership` a
generation, which lasts until the tracker ends the generation: also after the blob is here, because others may still
need what we have.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from p2pdist.core.digest import Digest
from p2pdist.core.errors import P2PDistError, ProtocolError
from p2pdist.core.pieces import PieceLayout, PieceSet
from p2pdist.relay.node import RelayNode, Ticket
from p2pdist.relay.notices import BadPiece, Notice, PeerRejected, TransferFailed
from p2pdist.relay.spans import Ring
from p2pdist.relay.switchboard import NodeAddress
from p2pdist.relay.transfer import TransferSpec
from p2pdist.store import PartialBlob
from p2pdist.telemetry.logging import get_logger
from p2pdist.telemetry.metrics import AgentMetrics
from p2pdist.telemetry.metrics import BadPiece as BadPieceReason
from p2pdist.wire.messages import Dealt, Ended, Epoch, Fill, Member, RelayPlan, Table, slots_of

log = get_logger("agent.relays")


@dataclass(slots=True)
class Totals:
    """Payload bytes over all relays that have ended."""

    relayed_bytes: int = 0
    dealt_bytes: int = 0
    sent_bytes: int = 0
    duplicate_bytes: int = 0


@dataclass(slots=True)
class Membership:
    """Our part in one generation; `wake` is called when the tracker or the relay's thread said something of it."""

    generation: int
    digest: Digest
    ticket: Ticket
    layout: PieceLayout
    wake: Callable[[], None]
    dealt: bool = False
    ended: Ended | None = None
    failure: P2PDistError | None = None


class Relays:
    """All memberships of this agent."""

    def __init__(self, node: str, relay: RelayNode, metrics: AgentMetrics, on_addresses: Callable[[], None]) -> None:
        self._node = node
        self._relay = relay
        self._metrics = metrics
        self._on_addresses = on_addresses
        self._members: dict[int, Member] = {}
        self._tracker: tuple[str, NodeAddress] | None = None
        self._memberships: dict[int, Membership] = {}
        self._early: dict[int, list[Epoch | Fill | Dealt]] = {}
        self._past = Totals()

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

    def swarm_hosts(self) -> Iterable[str]:
        """The addresses that swarm peers may come from."""
        return {member.swarm.host for member in self._members.values()}

    @property
    def fleet_size(self) -> int:
        """How many agents hold a lease, as far as we know."""
        return len(self._members)

    # Taking part.

    def enter(self, plan: RelayPlan, partial: PartialBlob, wake: Callable[[], None]) -> Membership:
        """Take part in the relay that the tracker planned; raises `ProtocolError` when it doesn't fit the blob."""
        layout = partial.layout
        if (plan.size_bytes, plan.piece_bytes) != (layout.size_bytes, layout.piece_bytes):
            raise ProtocolError(
                f"the tracker relays {plan.digest} as {plan.size_bytes} bytes in pieces of {plan.piece_bytes}; here it"
                f" has {layout.size_bytes} in pieces of {layout.piece_bytes}"
            )
        membership = self._memberships.get(plan.generation)
        if membership is None:
            spec = TransferSpec(plan.generation, partial.digest, layout, partial, plan.private, plan.fan)
            ticket = self._relay.open(spec)
            membership = Membership(plan.generation, partial.digest, ticket, layout, wake)
            self._memberships[plan.generation] = membership
        self._epoch(Epoch(plan.generation, plan.epoch, plan.members, plan.dealer))
        for message in self._early.pop(plan.generation, ()):
            self.message(message)
        return membership

    def message(self, message: Epoch | Fill | Dealt | Ended) -> None:
        """What the tracker says of a generation; what comes before `enter` waits for it."""
        membership = self._memberships.get(message.generation)
        if isinstance(message, Ended):
            self._early.pop(message.generation, None)
            if membership is not None:
                self._end(membership, message)
            return
        if membership is None:
            self._early.setdefault(message.generation, []).append(message)
            return
        match message:
            case Epoch():
                self._epoch(message)
            case Fill(generation, epoch, members, pieces):
                wanted = PieceSet.from_bytes(membership.layout.count, pieces)
                self._relay.start_fill(generation, self._ring(epoch, members, self._node), wanted)
            case Dealt():
                membership.dealt = True
                membership.wake()

    def notice(self, notice: Notice) -> None:
        """Something happened in the relay's thread."""
        match notice:
            case TransferFailed(generation, error):
                membership = self._memberships.get(generation)
                if membership is not None:
                    membership.failure = error
                    membership.wake()
            case BadPiece(_, node, index, reason):
                self._metrics.bad_pieces.labels(BadPieceReason.HASH).inc()
                log.warning("bad_piece", node=node, piece=index, reason=reason)
            case PeerRejected():
                pass

    def abandon(self, membership: Membership) -> None:
        """Take no part any more, without the tracker's word."""
        self._end(membership, Ended(membership.generation))

    def totals(self) -> Totals:
        """Payload bytes over all relays, ended or not."""
        totals = Totals(
            self._past.relayed_bytes, self._past.dealt_bytes, self._past.sent_bytes, self._past.duplicate_bytes
        )
        for membership in self._memberships.values():
            _add(totals, membership)
        return totals

    @property
    def live(self) -> int:
        """How many relays we are a member of."""
        return len(self._memberships)

    def _end(self, membership: Membership, ended: Ended) -> None:
        if self._memberships.pop(membership.generation, None) is None:
            return
        self._relay.close(membership.generation)
        _add(self._past, membership)
        membership.ended = ended
        membership.wake()

    def _epoch(self, epoch: Epoch) -> None:
        self._relay.add_ring(epoch.generation, self._ring(epoch.epoch, epoch.members, epoch.dealer))

    def _ring(self, epoch: int, bitmap: bytes, dealer: str) -> Ring:
        slots = slots_of(bitmap)
        unknown = [slot for slot in slots if slot not in self._members]
        if unknown:
            raise ProtocolError(f"epoch {epoch} names the slots {unknown[:8]}, which the table doesn't have")
        return Ring(epoch, (self._members[slot].node for slot in slots), dealer)


def _add(totals: Totals, membership: Membership) -> None:
    counts = membership.ticket.counts
    totals.relayed_bytes += counts.relayed_bytes
    totals.dealt_bytes += counts.dealt_bytes
    totals.sent_bytes += counts.sent_bytes
    totals.duplicate_bytes += counts.duplicate_bytes
