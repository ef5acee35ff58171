"""The rules of the relay, for one node. Pure: no sockets, no clock, no bytes.

The same engine runs in an agent, in the tracker that deals, in the tests and in the protocol model. A node is told what
arrived (`pushed`, `offered`, `wanted`, `acked`, `refused`, `credited`, `written`), who is unreachable (`lost`) or back
(`back`), and what it may deal (`deal`); it answers with actions, which the caller takes and carries out.

How a piece travels. A push carries a *tag*, the sender's own number for "this member owes me an acknowledgement". The
receiver serves its span (spans.py): a push, with a tag of its own, to each child. When all its children have
acknowledged, it acknowledges to its parent: so an acknowledgement says that a whole span is served, and what isn't
acknowledged is still the parent's to heal.

How it heals. When a child is lost, each arc that it hasn't acknowledged goes to its heir, the next member of that arc,
and from there on by *offer* instead of push: nobody knows how far the lost child came, and an offer costs a few bytes
where the member has the piece already. Whoever is offered a piece that it lacks wants it, gets the bytes, and offers on
along its span. So every live member gets every piece at least once, and bytes are sent twice only where a piece was on
its way when its sender was lost. An arc whose last member is lost is served: nobody is left in it.

How it is paced. The dealer gives each root a few pieces of credit (dealing.py). A root returns the credit as soon as
half of its children were sent the piece, long before the acknowledgement, and never waits for the slow; measured
(facts.md), waiting for nearly all children drags the fleet down to its slowest member.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Container
from dataclasses import dataclass, field

import msgspec

from p2pdist.core.errors import ProtocolError
from p2pdist.relay.dealing import EVERY_ROOT, Deal, Dealings, Lane
from p2pdist.relay.spans import DEFAULT_FAN, Ring, arcs

DEALS_ON_THE_WIRE = 4
MISSED_PIECES = 4096


class Push(msgspec.Struct, frozen=True, gc=False):
    """Send the bytes of a piece; `offered` marks the answer to a want, which is served on by offers."""

    to: str
    tag: int
    generation: int
    index: int
    epoch: int
    root: int
    span: int
    offered: bool = False


class Offer(msgspec.Struct, frozen=True, gc=False):
    """Tell a member that it is to serve this span, and may have the bytes if it lacks them."""

    to: str
    tag: int
    generation: int
    index: int
    epoch: int
    root: int
    span: int


class Want(msgspec.Struct, frozen=True, gc=False):
    """Ask for the bytes that were offered."""

    to: str
    tag: int


class Ack(msgspec.Struct, frozen=True, gc=False):
    """The whole span behind this tag is served."""

    to: str
    tag: int


class Refuse(msgspec.Struct, frozen=True, gc=False):
    """The span behind this tag isn't served, and won't be by us."""

    to: str
    tag: int


class Credit(msgspec.Struct, frozen=True, gc=False):
    """The root can take another piece."""

    to: str
    tag: int


Action = Push | Offer | Want | Ack | Refuse | Credit


@dataclass(slots=True)
class _Duty:
    """One span that this node serves: for a parent, or as the dealer (no parent)."""

    parent: str | None
    parent_tag: int
    open_arcs: int = 0
    children: int = 0
    written: int = 0
    owes_credit: bool = False
    acknowledged: bool = False


def _nobody() -> _Duty:
    """The duty of an arc for which nobody waits."""
    return _Duty("", 0, acknowledged=True)


@dataclass(slots=True)
class _Pending:
    """One arc that was handed to `node` and isn't acknowledged."""

    node: str
    generation: int
    index: int
    ring: Ring
    root: int
    rank: int
    span: int
    duty: _Duty
    by_offer: bool
    written: bool = False
    wanted: bool = False


@dataclass(slots=True)
class _Generation:
    held: Container[int]
    piece_bytes: int
    fan: int
    rings: dict[int, Ring] = field(default_factory=dict)
    served: set[tuple[int, int, int]] = field(default_factory=set)
    slow: frozenset[str] = frozenset()
    unwilling: set[str] = field(default_factory=set)


class Engine:
    """The relay's rules for the node `me`; see the module's essay."""

    def __init__(self, me: str, rng: random.Random | None = None) -> None:
        self.me = me
        self._rng = rng or random.Random()
        self._generations: dict[int, _Generation] = {}
        self._pending: dict[int, _Pending] = {}
        self._tags_of: defaultdict[str, set[int]] = defaultdict(set)
        self._down: set[str] = set()
        self._missed: defaultdict[str, dict[tuple[int, int], tuple[Ring, int]]] = defaultdict(dict)
        self._actions: list[Action] = []
        self._next_tag = 1
        self._tags_in: defaultdict[int, set[int]] = defaultdict(set)
        self._wire: dict[int, int] = {}
        self._dealings = Dealings(self._rng, self._can_be_root)
        self.takeovers = 0
        self.on_takeover: Callable[[str, int, int], None] | None = None
        """Told the member that was lost, the generation and the piece of every span that goes to an heir."""

    # What the owner of the connections tells.

    def open(self, generation: int, held: Container[int], piece_bytes: int, fan: int = DEFAULT_FAN) -> None:
        """Take part in a generation; `held` says which pieces this node has, now and later."""
        if generation not in self._generations:
            self._generations[generation] = _Generation(held, piece_bytes, fan)

    def close(self, generation: int) -> None:
        """Forget a generation; parents that wait for a span of it are told that we don't serve it."""
        if self._generations.pop(generation, None) is None:
            return
        self._actions = [
            action
            for action in self._actions
            if not (isinstance(action, Push | Offer) and action.generation == generation)
        ]
        for missed in self._missed.values():
            for key in [key for key in missed if key[0] == generation]:
                del missed[key]
        self._dealings.close(generation)
        for tag in sorted(self._tags_in.get(generation, ())):
            duty = self._pending[tag].duty
            self._drop(tag)
            if duty.parent and not duty.acknowledged:
                duty.acknowledged = True
                self._actions.append(Refuse(duty.parent, duty.parent_tag))
        self._tags_in.pop(generation, None)
        self._deal_on()

    def add_ring(self, generation: int, ring: Ring) -> None:
        """Learn the members of an epoch.

        Members that have become leaves lose the spans that they were given: their heirs offer them on, so that nobody
        waits for a slow uplink, nor for an acknowledgement over a slow downlink.
        """
        state = self._generations[generation]
        if ring.epoch in state.rings:
            return
        state.rings[ring.epoch] = ring
        state.unwilling.difference_update(ring.members)
        if ring.leaves:
            state.slow = frozenset(ring.leaves)
        elif not state.slow.issuperset(ring.members):
            # A ring of slow members alone is a fill, and says nothing of them.
            state.slow -= set(ring.members)
        for leaf in ring.leaves:
            for tag in sorted(self._tags_of.get(leaf, ())):
                pending = self._pending[tag]
                if pending.generation == generation and (pending.span or pending.duty.parent is not None):
                    self._relieve(tag, pending)

    def knows(self, generation: int, epoch: int) -> bool:
        """Whether pieces of this epoch can be judged yet."""
        state = self._generations.get(generation)
        return state is not None and epoch in state.rings

    def has_member(self, generation: int, node: str) -> bool:
        """Whether a node is, or was, a member of this generation."""
        state = self._generations.get(generation)
        return state is not None and any(node in ring for ring in state.rings.values())

    def dealer(self, generation: int, epoch: int) -> str:
        """Who deals over the ring of an epoch that is known."""
        return self._generations[generation].rings[epoch].dealer

    def admit(self, sender: str, generation: int, index: int, epoch: int, root: int, span: int, offered: bool) -> None:
        """Raise `ProtocolError` when `sender` had no business to send this piece with this span to us."""
        state = self._generations[generation]
        ring = state.rings[epoch]
        members = len(ring.members)
        if self.me not in ring or not 0 <= root < members or not 0 <= span < members:
            raise ProtocolError(f"a span of {span} from root {root} isn't on the ring of epoch {epoch}")
        if offered:
            if sender not in ring and sender != ring.dealer:
                raise ProtocolError(f"{sender} offers piece {index} but isn't a member of epoch {epoch}")
            return
        place = ring.place(self.me, root, state.fan)
        parent = ring.dealer if place.parent_offset is None else ring.at(root + place.parent_offset)
        if span > place.span or sender != parent:
            raise ProtocolError(
                f"{sender} sent piece {index} of epoch {epoch}, root {root}, with span {span};"
                f" our place has span {place.span} and parent {parent}"
            )

    def pushed(self, sender: str, push: Push) -> None:
        """A piece arrived (verified and written, or held before): serve its span and acknowledge in time."""
        state = self._generations[push.generation]
        key = (push.index, push.epoch, push.root)
        if not push.offered:
            if key in state.served:
                self._actions.append(Ack(sender, push.tag))
                return
            state.served.add(key)
        duty = _Duty(sender, push.tag)
        ring = state.rings[push.epoch]
        duty.owes_credit = sender == ring.dealer
        self._serve(duty, push, ring, state.fan, by_offer=push.offered or self.me in state.slow)

    def root(self, generation: int, epoch: int, index: int, by_offer: bool) -> None:
        """Be the root of a piece that nobody dealt: it is here from elsewhere. Only who stands on the ring can be."""
        state = self._generations[generation]
        ring = state.rings.get(epoch)
        if ring is None or self.me not in ring or ring.is_leaf(self.me):
            return
        rank = ring.rank(self.me)
        state.served.add((index, epoch, rank))
        mine = Push(self.me, 0, generation, index, epoch, rank, len(ring) - 1)
        self._serve(_nobody(), mine, ring, state.fan, by_offer)

    def offered(self, sender: str, offer: Offer) -> None:
        """A span is handed to us; want the bytes, or serve it with what we hold."""
        state = self._generations[offer.generation]
        if offer.index not in state.held:
            self._actions.append(Want(sender, offer.tag))
            return
        ring = state.rings[offer.epoch]
        duty = _Duty(sender, offer.tag)
        duty.owes_credit = sender == ring.dealer
        self._serve(duty, offer, ring, state.fan, by_offer=True)

    def wanted(self, sender: str, tag: int) -> None:
        """A member that we offered a piece to lacks it."""
        pending = self._of(sender, tag)
        if pending is not None and not pending.wanted:
            pending.wanted = True
            self._actions.append(self._push(tag, pending, offered=True))

    def acked(self, sender: str, tag: int) -> None:
        """A member has served its whole span."""
        pending = self._of(sender, tag)
        if pending is not None:
            self._drop(tag)
            self._arc_done(pending)

    def refused(self, sender: str, tag: int) -> None:
        """A member can't serve this span: its heir does. It is handed nothing more until a new ring has it."""
        pending = self._of(sender, tag)
        if pending is not None:
            state = self._generations.get(pending.generation)
            if state is not None:
                state.unwilling.add(sender)
            self._drop(tag)
            self._to_heir(pending)

    def credited(self, sender: str, tag: int) -> None:
        """A root can take another piece."""
        pending = self._of(sender, tag)
        if pending is not None:
            self._return_credit(pending)

    def written(self, tag: int) -> None:
        """The bytes of a push have left for the network."""
        pending = self._pending.get(tag)
        if pending is None or pending.written:
            return
        duty = pending.duty
        if duty.parent is None:
            self._leave_the_wire(tag, pending)
            self._deal_on()
            return
        pending.written = True
        duty.written += 1
        self._maybe_credit(duty)

    def lost(self, node: str) -> None:
        """`node` is unreachable or frozen: its arcs go to their heirs, and it gets nothing until it is back."""
        self._down.add(node)
        for tag in sorted(self._tags_of.pop(node, ())):
            pending = self._pending.pop(tag)
            self._tags_in[pending.generation].discard(tag)
            self._note_missed(node, pending, pending.ring)
            self._settle_deal(tag, pending)
            self._to_heir(pending)
        self._deal_on()

    def reset(self, node: str) -> None:
        """A connection to `node` broke and another stands: what was on its way may be lost, so all is offered again."""
        for tag in sorted(self._tags_of.get(node, ())):
            pending = self._pending[tag]
            self._leave_the_wire(tag, pending)
            pending.by_offer, pending.wanted = True, False
            self._actions.append(self._offer(tag, pending))
        self._deal_on()

    def tick(self) -> None:
        """Some time has passed: deals that don't get away leave their place on the wire to others."""
        for tag, ticks in list(self._wire.items()):
            if ticks:
                self._leave_the_wire(tag, self._pending[tag])
            else:
                self._wire[tag] = 1
        self._deal_on()

    def back(self, node: str) -> None:
        """`node` can be reached again: what it missed is offered to it, without the spans, which others have."""
        if node not in self._down:
            return
        self._down.discard(node)
        for (generation, index), (ring, root) in self._missed.pop(node, {}).items():
            state = self._generations.get(generation)
            if state is not None and index in state.held:
                self._put(_Pending(node, generation, index, ring, root, 0, 0, _nobody(), True))
        self._deal_on()

    def owed_by(self, node: str) -> bool:
        """Whether `node` owes us an acknowledgement."""
        return bool(self._tags_of.get(node))

    def soften(self, tag: int) -> Offer | None:
        """The offer that replaces a push which hasn't begun, after a freeze of ours: others may have taken it over."""
        pending = self._pending.get(tag)
        if pending is None:
            return None
        pending.by_offer, pending.wanted = True, False
        self._leave_the_wire(tag, pending)
        return self._offer(tag, pending)

    # What a dealer does besides.

    def start_dealing(self, generation: int, ring: Ring, lane: Lane = EVERY_ROOT) -> None:
        """Be ready to deal over `ring`, of which this node is the dealer."""
        self.add_ring(generation, ring)
        self._dealings.start(generation, ring, self._generations[generation].piece_bytes, lane)

    def replace_dealing(self, generation: int, old_epoch: int, ring: Ring, lane: Lane = EVERY_ROOT) -> None:
        """As `start_dealing`, taking over what waits for the ring of `old_epoch`."""
        self._dealings.replace(generation, old_epoch, ring, self._generations[generation].piece_bytes, lane)
        # After that: spans that it takes from slow members come back as deals over the new ring, not over the old one.
        self.add_ring(generation, ring)
        self._deal_on()

    def stop_dealing(self, generation: int, epoch: int) -> None:
        """Deal nothing more over this ring: nobody is left on it."""
        self._dealings.stop(generation, epoch)

    def deal(self, generation: int, epoch: int, index: int, by_offer: bool = False) -> None:
        """A piece may be dealt over the ring of `epoch`; `by_offer` where some members have it already."""
        ring = self._dealings.ring(generation, epoch)
        if ring is not None and any(node != self.me for node in ring.members):
            self._dealings.queue(generation, epoch, index, by_offer)
            self._deal_on()

    def waiting(self, generation: int, epoch: int) -> list[int]:
        """The pieces that wait for a root of this epoch."""
        return self._dealings.waiting(generation, epoch)

    def undealt(self, generation: int) -> int:
        """How many pieces wait for a root with credit."""
        return self._dealings.undealt(generation)

    def unfinished(self, generation: int) -> int:
        """How many arcs of this generation aren't acknowledged to us."""
        return len(self._tags_in.get(generation, ()))

    def take_actions(self) -> list[Action]:
        """What is to be done now, in order; empties the list."""
        actions, self._actions = self._actions, []
        return actions

    # Inside.

    def _of(self, sender: str, tag: int) -> _Pending | None:
        pending = self._pending.get(tag)
        return pending if pending is not None and pending.node == sender else None

    def _serve(self, duty: _Duty, what: Push | Offer, ring: Ring, fan: int, by_offer: bool) -> None:
        if not ring.is_leaf(self.me):
            rank = ring.rank(self.me)
            if what.span:
                ordered = list(arcs(what.span, fan))
                duty.open_arcs = duty.children = len(ordered)
                self._rng.shuffle(ordered)
                for offset, span in ordered:
                    self._hand(duty, what, ring, rank + offset, span, by_offer)
            if ring.leaves:
                self._serve_leaves(what, ring, by_offer)
        self._maybe_credit(duty)
        self._maybe_ack(duty)

    def _serve_leaves(self, what: Push | Offer, ring: Ring, by_offer: bool) -> None:
        """Send a piece to the leaves that are ours for its root; nobody is told when they have it."""
        for leaf in ring.leaves_of(self.me, what.root):
            if leaf not in self._down:
                self._put(_Pending(leaf, what.generation, what.index, ring, what.root, 0, 0, _nobody(), by_offer))

    def _relieve(self, tag: int, pending: _Pending) -> None:
        """Take the span from a child that is slow, but not the piece itself, and wait for it no more."""
        self._settle_deal(tag, pending)
        duty, pending.duty = pending.duty, _nobody()
        span, pending.span = pending.span, 0
        self._hand(duty, pending, pending.ring, pending.rank + 1, span - 1, by_offer=True)

    def _hand(
        self, duty: _Duty, what: Push | Offer | _Pending, ring: Ring, rank: int, span: int, by_offer: bool
    ) -> None:
        """Give an arc to its first member that isn't down; an arc without one is served.

        A member that has become slow since gets the piece, but not the arc. What a dealer finds nobody for is dealt
        again, by offer, when somebody is back.
        """
        state = self._generations.get(what.generation)
        slow = state.slow if state is not None else frozenset[str]()
        unwilling = state.unwilling if state is not None else set[str]()
        while span >= 0:
            node = ring.at(rank)
            if node not in self._down and node not in unwilling and node != self.me:
                pending = _Pending(node, what.generation, what.index, ring, what.root, rank, span, duty, by_offer)
                if node not in slow or duty.parent is None:
                    self._put(pending)
                    return
                pending.span, pending.duty = 0, _nobody()
                self._put(pending)
            elif node in self._down:
                self._note_missed(node, what, ring)
            rank, span, by_offer = rank + 1, span - 1, True
        duty.open_arcs -= 1
        self._maybe_ack(duty)
        if duty.parent is None and state is not None:
            self._dealings.queue(what.generation, ring.epoch, what.index, by_offer=True)

    def _note_missed(self, node: str, what: Push | Offer | _Pending, ring: Ring) -> None:
        """Remember what to offer when `node` is back; what is beyond the bound it has to ask the tracker for."""
        missed = self._missed[node]
        if len(missed) < MISSED_PIECES:
            missed[what.generation, what.index] = (ring, what.root)

    def _put(self, pending: _Pending) -> None:
        """Note that an arc is handed out, and send its piece or offer."""
        tag = self._new_tag()
        self._pending[tag] = pending
        self._tags_of[pending.node].add(tag)
        self._tags_in[pending.generation].add(tag)
        if pending.duty.parent is None and not pending.by_offer:
            self._wire[tag] = 0
        self._actions.append(self._offer(tag, pending) if pending.by_offer else self._push(tag, pending, False))

    def _to_heir(self, pending: _Pending) -> None:
        self.takeovers += 1
        if self.on_takeover is not None:
            self.on_takeover(pending.node, pending.generation, pending.index)
        self._hand(pending.duty, pending, pending.ring, pending.rank + 1, pending.span - 1, by_offer=True)

    def _push(self, tag: int, pending: _Pending, offered: bool) -> Push:
        return Push(
            pending.node,
            tag,
            pending.generation,
            pending.index,
            pending.ring.epoch,
            pending.root,
            pending.span,
            offered,
        )

    def _offer(self, tag: int, pending: _Pending) -> Offer:
        return Offer(
            pending.node, tag, pending.generation, pending.index, pending.ring.epoch, pending.root, pending.span
        )

    def _new_tag(self) -> int:
        while self._next_tag in self._pending:
            self._next_tag = self._next_tag % 0xFFFFFFFF + 1
        tag = self._next_tag
        self._next_tag = tag % 0xFFFFFFFF + 1
        return tag

    def _drop(self, tag: int) -> None:
        pending = self._pending.pop(tag)
        self._tags_of[pending.node].discard(tag)
        self._tags_in[pending.generation].discard(tag)
        self._settle_deal(tag, pending)

    def _settle_deal(self, tag: int, pending: _Pending) -> None:
        """Give back what an ended deal holds: its place on the wire and its root's credit."""
        self._leave_the_wire(tag, pending)
        if pending.duty.parent is None:
            self._return_credit(pending)

    def _leave_the_wire(self, tag: int, pending: _Pending) -> None:
        if self._wire.pop(tag, None) is not None:
            pending.written = True

    def _arc_done(self, pending: _Pending) -> None:
        pending.duty.open_arcs -= 1
        if pending.duty.parent is not None and not pending.written:
            pending.duty.written += 1
            self._maybe_credit(pending.duty)
        self._maybe_ack(pending.duty)

    def _maybe_ack(self, duty: _Duty) -> None:
        if duty.open_arcs == 0 and duty.parent is not None and not duty.acknowledged:
            duty.acknowledged = True
            self._actions.append(Ack(duty.parent, duty.parent_tag))

    def _maybe_credit(self, duty: _Duty) -> None:
        if duty.parent is not None and duty.owes_credit and 2 * duty.written >= duty.children:
            duty.owes_credit = False
            self._actions.append(Credit(duty.parent, duty.parent_tag))

    def _return_credit(self, pending: _Pending) -> None:
        """Give the root of a deal its credit back, once."""
        if not pending.duty.owes_credit:
            return
        pending.duty.owes_credit = False
        root = pending.ring.at(pending.root)
        if self._dealings.return_credit(pending.generation, pending.ring.epoch, root):
            self._deal_on()

    def _can_be_root(self, generation: int, node: str) -> bool:
        state = self._generations.get(generation)
        return state is not None and node != self.me and node not in self._down and node not in state.unwilling

    def _deal_on(self) -> None:
        """Deal what can be dealt."""
        while len(self._wire) < DEALS_ON_THE_WIRE:
            deal = self._dealings.next()
            if deal is None:
                return
            self._deal_one(deal)

    def _deal_one(self, deal: Deal) -> None:
        rank, span = deal.ring.rank(deal.root), len(deal.ring) - 1
        seed = Push("", 0, deal.generation, deal.index, deal.ring.epoch, rank, span)
        self._hand(_Duty(None, 0, open_arcs=1, owes_credit=True), seed, deal.ring, rank, span, deal.by_offer)
