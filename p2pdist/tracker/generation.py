"""One generation of a blob as the tracker steers it: who takes part, over which rings, who still lacks what.

Pure: it decides what is to be said to whom; `relaying` and `epochs` say it.

*Members* stand on a ring: one ring for each zone, so that no piece crosses the link to a zone twice. What one dealer
deals to one zone is a *share* of the pieces. Where holders deal, each has some of them. Where the tracker does, it
deals to its `home` zone, once, and members there deal what they get to the other zones; these it deals to only as long
as nobody is at home.

Joins that come close together share an epoch: they wait in `waiting` until `next_epoch` takes them all in. Whoever
joins after the first piece was dealt gets the earlier ones by *fills*. Those fill its link, so that pieces it should
pass on would come late to others: latecomers are *apart*, beside the ring, as long as they are few.

*Guests* have no ring: all their pieces come by fills. They are those who come when everything has been dealt, or when
holders are so many that each newcomer can have some for itself; nobody else hears of them.

A fill is striped over many dealers, drawn anew each time, so that no uplink carries it alone. Who may deal: who holds
the blob, and whoever came before those who are filled, since a piece that it lacks comes from those before it and never
from those after it. So nobody waits in a circle.

Who gives no sign of life is *left out* of the rings; when it does again it comes back as a newcomer that is offered
everything, since nobody knows what it has by now.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from p2pdist.core.digest import Digest
from p2pdist.core.pieces import PieceLayout, PieceSet
from p2pdist.relay.dealing import EVERY_ROOT, Lane
from p2pdist.relay.spans import DEFAULT_FAN, Ring

MOST_DEALERS = 16
STRIPE_PIECES = 8
TRACKER_FILLS_AFTER = 2
FEWEST_HOLDERS = 2
LATE_SHARE = 0.05
MEMBERS_FOR_ONE_APART = 8


class Stage(Enum):
    """How far a generation has come."""

    DEALING = auto()
    DEALT = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class Order:
    """A fill: the ring's dealer deals `pieces` over it, by offer where somebody may have them."""

    ring: Ring
    pieces: tuple[int, ...]
    by_offer: bool = False
    lane: Lane = EVERY_ROOT

    @property
    def dealer(self) -> str:
        """Who has to deal."""
        return self.ring.dealer


@dataclass(slots=True)
class Share:
    """What one dealer deals to one zone; `pieces` is None for all, as they come. `ring` is the one in force."""

    number: int
    zone: str
    pieces: PieceSet | None
    ring: Ring
    by_offer: bool
    lane: Lane = EVERY_ROOT


@dataclass(slots=True)
class Generation:
    """The tracker's view of one distribution of a blob.

    `holders` are agents that had the blob before and deal it; where it is never `by_holders`, the tracker does.
    """

    number: int
    digest: Digest
    upstream: str
    repository: str
    layout: PieceLayout
    private: bool
    tracker: str
    fan: int = DEFAULT_FAN
    by_offer: bool = False
    home: str = ""
    holders: set[str] = field(default_factory=set)
    by_holders: bool = False
    stage: Stage = Stage.DEALING
    members: set[str] = field(default_factory=set)
    guests: set[str] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)
    apart: set[str] = field(default_factory=set)
    took_part: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    waiting: dict[str, PieceSet] = field(default_factory=dict)
    shares: dict[int, Share] = field(default_factory=dict)
    last_epoch: int = 0
    rng: random.Random = field(default_factory=random.Random)
    _order: tuple[str, ...] = ()
    _beside_of: dict[str, set[str]] = field(default_factory=dict)
    _handed: dict[int, tuple[str, dict[str, PieceSet]]] = field(default_factory=dict)
    _last_share: int = 0
    _round: int = 0
    _back: set[str] = field(default_factory=set)
    _came: dict[str, int] = field(default_factory=dict)
    _zones: dict[str, str] = field(default_factory=dict)
    _arrivals: dict[int, tuple[str, dict[str, PieceSet]]] = field(default_factory=dict)
    _asked: dict[str, Counter[int]] = field(default_factory=dict)
    _orders: defaultdict[str, list[Order]] = field(default_factory=lambda: defaultdict(list))

    # Who comes and goes.

    def join(self, node: str, held: PieceSet, zone: str = "") -> None:
        """`node` wants the blob; it has the pieces in `held` already."""
        self.waiting[node] = held
        self._zones[node] = zone
        self.done.discard(node)
        self.left_out.discard(node)
        self._back.discard(node)

    def add_holder(self, node: str, zone: str = "") -> None:
        """`node` has the blob and deals it."""
        self.by_holders = True
        self.holders.add(node)
        self._zones[node] = zone

    def leave(self, node: str) -> bool:
        """`node` is gone; True when rings without it are needed."""
        self.waiting.pop(node, None)
        self.done.discard(node)
        self.guests.discard(node)
        self.left_out.discard(node)
        self.apart.discard(node)
        self._asked.pop(node, None)
        was_member = node in self.members
        self.members.discard(node)
        return was_member and self.stage is Stage.DEALING and bool(self.members)

    def finished(self, node: str) -> None:
        """`node` has what it wanted, or has given up."""
        self.done.add(node)
        self._asked.pop(node, None)

    def leave_out(self, node: str) -> bool:
        """`node` gives no sign of life; True when it took part and isn't done, so that rings without it are needed."""
        if node not in self.members | self.guests or node in self.done:
            return False
        self.members.discard(node)
        self.guests.discard(node)
        self.left_out.add(node)
        return True

    def take_back(self, node: str) -> bool:
        """`node` gave a sign of life; True when it was left out, so that it waits to be taken in again."""
        if node not in self.left_out:
            return False
        self.left_out.discard(node)
        self._back.add(node)
        # Nobody waits for it any more, so it comes anew: those who stayed can fill it.
        self._came.pop(node, None)
        self.waiting[node] = PieceSet(self.layout.count)
        return True

    @property
    def newcomers_are_guests(self) -> bool:
        """Whether those who wait should get everything by fills."""
        if self.stage is Stage.DEALT:
            return True
        wanting = len(self.waiting) + len((self.members | self.guests) - self.done)
        return len(self._whole()) >= max(FEWEST_HOLDERS, wanting)

    def is_dealt_by(self, node: str, epoch: int) -> bool:
        """Whether `node` is the dealer of this epoch, and hasn't begun it yet; there may be newer ones."""
        return epoch in self._arrivals and self._arrivals[epoch][0] == node

    def is_being_filled(self, node: str) -> bool:
        """Whether `node` came when pieces had been dealt already, and may still be short of them."""
        return self._came.get(node, 0) > 1 and node not in self.done

    @property
    def all_done(self) -> bool:
        """Whether nobody takes part any more who hasn't finished."""
        return (
            self.stage is Stage.DEALT and not self.waiting and self.members | self.guests | self.left_out <= self.done
        )

    @property
    def deserted(self) -> bool:
        """Whether nobody takes part or is about to."""
        return not (self.waiting or self.members or self.guests or self.left_out)

    # Rings.

    def next_epoch(
        self,
        in_order: Sequence[str],
        leaves: Mapping[str, Sequence[str]] | None = None,
        dealt_share: float = 0.0,
    ) -> list[Share]:
        """Take in all who wait; the shares that have a new ring, one without members when nobody of its zone is left.

        `in_order` are the members and those who wait, by slot; `leaves` the slow ones of each zone; `dealt_share` is
        how much of the blob has been dealt, about.
        """
        self._arrived(self.waiting)
        newcomers = {node: held for node, held in self.waiting.items() if node in in_order}
        self.waiting.clear()
        if dealt_share >= LATE_SHARE and MEMBERS_FOR_ONE_APART * len(self.apart | newcomers.keys()) <= len(in_order):
            self.apart |= newcomers.keys()
        self._order = tuple(in_order)
        self.members = set(in_order)
        self.guests -= self.members
        self.took_part |= self.members
        by_zone: defaultdict[str, list[str]] = defaultdict(list)
        for node in in_order:
            by_zone[self._zones.get(node, "")].append(node)
        changed = self._hand_over(by_zone)
        for zone, nodes in by_zone.items():
            self._beside_of[zone] = self._beside(nodes, set(leaves.get(zone, ()) if leaves else ()))
            arrivals = {node: newcomers[node] for node in nodes if node in newcomers}
            handed = [epoch for epoch, (to, _) in self._handed.items() if to == zone]
            if handed:
                self._handed[handed[0]][1].update(arrivals)
            else:
                changed += self._next_rings(zone, arrivals)
        for number, share in list(self.shares.items()):
            if share.zone not in by_zone:
                del self.shares[number]
                share.ring = self._ring((), share.ring.dealer)
                changed.append(share)
        return changed

    def _hand_over(self, zones: Iterable[str]) -> list[Share]:
        """Shares of the tracker's that end because somebody has come to its home, whose members deal from now on.

        Where nothing is left to say, `handed_over` goes on when the tracker has said what it had dealt.
        """
        if self.by_holders or self.home not in zones:
            return []
        ended = [
            share
            for share in self.shares.values()
            if share.zone != self.home and share.ring.dealer == self.tracker and share.pieces is None
        ]
        for share in ended:
            del self.shares[share.number]
            share.ring = self._ring((), self.tracker)
            self._handed[share.ring.epoch] = (share.zone, {})
        return ended

    def handed_over(self, epoch: int, dealt: Iterable[int]) -> tuple[list[Share], list[Order]]:
        """The tracker has ended a share, of which it had `dealt` these: who deals the rest, and what newcomers lack."""
        handed = self._handed.pop(epoch, None)
        if handed is None:
            return [], []
        zone, arrivals = handed
        if not self._in_zone(self.members, zone):
            return [], []
        done = set(dealt)
        left = [index for index in range(self.layout.count) if index not in done]
        shares = self._share_each(zone, self._stripes(self._at_home(), left))
        for share in shares:
            share.ring = self._zone_ring(zone, share.ring.dealer)
        return shares, self._fill_each(arrivals, done)

    def _next_rings(self, zone: str, arrivals: dict[str, PieceSet]) -> list[Share]:
        shares = [share for share in self.shares.values() if share.zone == zone]
        ring = self._zone_ring(zone, "")
        members, leaves = ring.members, ring.leaves
        if not shares:
            shares = self._share_each(zone, self._dealt_by(zone))
        elif not arrivals and (shares[0].ring.members, shares[0].ring.leaves) == (members, leaves):
            return []
        for share in shares:
            share.ring = self._zone_ring(zone, share.ring.dealer)
            self._arrivals[share.ring.epoch] = (share.ring.dealer, arrivals)
        return shares

    def _dealt_by(self, zone: str) -> list[tuple[str, PieceSet | None]]:
        """Who deals to a zone, and what: the tracker everything, or some holders or members their stripes."""
        if self.by_holders:
            return self._stripes(self._near(self._whole(), zone), range(self.layout.count))
        if zone == self.home or not self._at_home():
            return [(self.tracker, None)]
        return self._stripes(self._at_home(), range(self.layout.count))

    def _stripes(self, able: set[str], pieces: Sequence[int]) -> list[tuple[str, PieceSet | None]]:
        dealers = self._draw(able, len(pieces)) or [self.tracker]
        return [
            (dealer, PieceSet(self.layout.count, pieces[number :: len(dealers)]))
            for number, dealer in enumerate(dealers)
        ]

    def _share_each(self, zone: str, dealt_by: Sequence[tuple[str, PieceSet | None]]) -> list[Share]:
        return [
            self._share(zone, dealer, pieces, lane=self._lane(zone, dealer, number, len(dealt_by)))
            for number, (dealer, pieces) in enumerate(dealt_by)
        ]

    def _lane(self, zone: str, dealer: str, number: int, dealers: int) -> Lane:
        """Roots of its own for a dealer from another zone, so that few flows share the link between the two.

        Within a zone all deal to all: lanes that hold more or fewer members would make roots of unequal load.
        """
        return EVERY_ROOT if self._zones.get(dealer, "") == zone else Lane(number, dealers)

    def _share(
        self, zone: str, dealer: str, pieces: PieceSet | None, by_offer: bool = False, lane: Lane = EVERY_ROOT
    ) -> Share:
        self._last_share += 1
        share = Share(self._last_share, zone, pieces, self._ring((), dealer), by_offer or self.by_offer, lane)
        self.shares[share.number] = share
        return share

    # Fills.

    def began(self, epoch: int, dealt: Iterable[int]) -> list[Order]:
        """The fills that the newcomers of `epoch` need, given what was dealt before it."""
        _, arrivals = self._arrivals.pop(epoch, ("", {}))
        return self._fill_each(arrivals, set(dealt)) if arrivals else []

    def invite(self) -> list[Order]:
        """Take in all who wait as guests: the fills that bring them everything."""
        waiting, self.waiting = self.waiting, {}
        self._arrived(waiting)
        self.guests |= waiting.keys() - self.members
        self.took_part |= waiting.keys()
        return self._fill_each(waiting, set(range(self.layout.count)))

    def lacking(self, node: str, missing: Sequence[int]) -> list[Order]:
        """The fills for one member that lacks pieces which should have come.

        Who lacks them too can't deal them. Where fills by members didn't help, the tracker deals, or holders do.
        """
        if node not in self.took_part or not missing:
            return []
        asked = self._asked.setdefault(node, Counter())
        asked.update(missing)
        patient = tuple(index for index in missing if asked[index] < TRACKER_FILLS_AFTER)
        urgent = tuple(index for index in missing if asked[index] >= TRACKER_FILLS_AFTER)
        wanted = set(missing)
        lack_too = {other for other, lacks in self._asked.items() if lacks.keys() & wanted}
        able = (self._whole() or self._able([node])) - lack_too
        return self._fill(patient, [node], able) + self._fill(urgent, [node], set(self.holders))

    def dealers_of(self, node: str, pieces: Sequence[int]) -> set[str]:
        """From whom `node` should have got these pieces first, or at the latest."""
        wanted = set(pieces)
        shares = {
            share.ring.dealer
            for share in self.shares.values()
            if node in share.ring and (share.pieces is None or any(index in share.pieces for index in wanted))
        }
        fills = {
            dealer
            for dealer, orders in self._orders.items()
            if any(node in order.ring and not wanted.isdisjoint(order.pieces) for order in orders)
        }
        return (shares | fills) - {self.tracker}

    def dealer_gone(self, node: str) -> tuple[list[Share], list[Order]]:
        """Nothing more comes from `node`: the shares that somebody else deals, the fills that are dealt anew.

        Pieces that it has dealt are offered only. A share that nobody can deal ends; its pieces will be lacked.
        """
        self.holders.discard(node)
        shares = []
        for share in [share for share in self.shares.values() if share.ring.dealer == node]:
            del self.shares[share.number]
            able = self._near(self._whole() - {node}, share.zone)
            if not able and not self.by_holders:
                able = self._at_home() - {node} or {self.tracker}
            if able:
                heir = self._share(share.zone, self.rng.choice(sorted(able)), share.pieces, by_offer=True)
                heir.ring = self._ring(share.ring.members, heir.ring.dealer, share.ring.leaves)
                shares.append(heir)
        orders: list[Order] = []
        for order in self._orders.pop(node, []):
            cohort = [
                each for each in order.ring.members if each in self.members | self.guests and each not in self.done
            ]
            if cohort:
                orders += self._fill(order.pieces, cohort, self._able(cohort) - {node}, by_offer=True)
        return shares, orders

    def _fill_each(self, newcomers: Mapping[str, PieceSet], wanted: set[int]) -> list[Order]:
        """Fill newcomers with what they lack of `wanted`: those of one zone that lack the same are one cohort."""
        cohorts: defaultdict[tuple[str, bool, tuple[int, ...]], list[str]] = defaultdict(list)
        for node, held in newcomers.items():
            missing = tuple(index for index in sorted(wanted) if index not in held)
            if missing and (node in self.members or node in self.guests):
                cohorts[self._zones.get(node, ""), node in self._back, missing].append(node)
        self._back -= newcomers.keys()
        orders: list[Order] = []
        for (_, is_back, missing), cohort in cohorts.items():
            orders += self._fill(missing, cohort, self._able(cohort), by_offer=is_back)
        return orders

    def _arrived(self, nodes: Iterable[str]) -> None:
        self._round += 1
        for node in nodes:
            # Who comes again keeps its first place: others may wait for it since then.
            self._came.setdefault(node, self._round)

    def _whole(self) -> set[str]:
        """Who holds the blob."""
        return self.holders | (self.done & (self.members | self.guests))

    def _able(self, cohort: Sequence[str]) -> set[str]:
        """Who can deal to a cohort: holders, and whoever came before all of it."""
        first = min(self._came.get(node, 0) for node in cohort)
        earlier = {node for node in self.members | self.guests if self._came.get(node, 0) < first}
        return self._whole() | earlier

    def _at_home(self) -> set[str]:
        """The members that the tracker deals to, but for those who came late."""
        return self._in_zone(self.members - self.apart, self.home)

    def _zone_ring(self, zone: str, dealer: str) -> Ring:
        here = self._in_zone(self.members, zone)
        nodes = [node for node in self._order if node in here]
        beside = self._beside_of.get(zone, set())
        return self._ring(
            [node for node in nodes if node not in beside], dealer, [node for node in nodes if node in beside]
        )

    def _beside(self, nodes: Sequence[str], slow: set[str]) -> set[str]:
        """Who stands beside the ring of a zone; nobody when that would be all."""
        beside = {node for node in nodes if node in slow or node in self.apart}
        return beside if len(beside) < len(nodes) else set()

    def _near(self, nodes: set[str], zone: str) -> set[str]:
        """Those of `nodes` that are in the zone; all when none is."""
        return self._in_zone(nodes, zone) or nodes

    def _in_zone(self, nodes: set[str], zone: str) -> set[str]:
        return {node for node in nodes if self._zones.get(node, "") == zone}

    def _draw(self, able: set[str], pieces: int) -> list[str]:
        """Some dealers for so many pieces; those who hold the blob where there are enough of them."""
        whole = self._whole() & able
        pool = sorted(whole if len(whole) >= MOST_DEALERS else able)
        return self.rng.sample(pool, min(MOST_DEALERS, len(pool), -(-pieces // STRIPE_PIECES)))

    def _fill(
        self, missing: tuple[int, ...], cohort: Sequence[str], able: set[str], by_offer: bool = False
    ) -> list[Order]:
        """Stripe `missing` over some of `able`; over the tracker when there is none.

        Where the zone has holders enough, everybody of the cohort has a ring, and dealers, of its own: then its uplink
        doesn't matter. Else they are one ring, which a piece enters once.
        """
        if not missing:
            return []
        zone = self._zones.get(cohort[0], "")
        able = able - set(cohort)
        near = self._near(able, zone)
        near_whole = self._in_zone(near & self._whole(), zone)
        alone = len(near_whole) >= max(FEWEST_HOLDERS, len(cohort))
        orders = []
        for ring in [[node] for node in cohort] if alone else [cohort]:
            dealers = self._draw(near, len(missing)) or [self.tracker]
            for number, dealer in enumerate(dealers):
                order = Order(
                    self._ring(ring, dealer), missing[number :: len(dealers)], by_offer, Lane(number, len(dealers))
                )
                self._orders[dealer].append(order)
                orders.append(order)
        return orders

    def _ring(self, members: Sequence[str], dealer: str, leaves: Sequence[str] = ()) -> Ring:
        self.last_epoch += 1
        return Ring(self.last_epoch, members, dealer, leaves)
