"""One generation of a blob as the tracker steers it: who takes part, which epochs there were, who still lacks what.

Pure: it decides what is to be said to whom; `distribution` says it. Joins that come close together share an epoch: they
wait in `waiting` until `next_epoch` takes them all in. Whoever joins after the first piece was dealt gets the earlier
ones by fills: relays of their own over the cohort that lacks them, dealt by members, striped over several of them so
that no uplink carries it alone.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from p2pdist.core.digest import Digest
from p2pdist.core.pieces import PieceLayout, PieceSet
from p2pdist.relay.spans import DEFAULT_FAN, Ring

FILL_DEALERS = 4
TRACKER_FILLS_AFTER = 3


class Stage(Enum):
    """How far a generation has come."""

    DEALING = auto()
    DEALT = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class Order:
    """A fill: `dealer` deals `pieces` over `ring`."""

    ring: Ring
    pieces: tuple[int, ...]

    @property
    def dealer(self) -> str:
        """Who has to deal."""
        return self.ring.dealer


@dataclass(slots=True)
class Generation:
    """The tracker's view of one fetch of a blob and its distribution."""

    number: int
    digest: Digest
    upstream: str
    repository: str
    layout: PieceLayout
    private: bool
    tracker: str
    fan: int = DEFAULT_FAN
    by_offer: bool = False
    stage: Stage = Stage.DEALING
    members: set[str] = field(default_factory=set)
    took_part: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    waiting: dict[str, PieceSet] = field(default_factory=dict)
    last_epoch: int = 0
    _arrivals: dict[int, dict[str, PieceSet]] = field(default_factory=dict)
    _late: set[str] = field(default_factory=set)
    _asked: dict[str, Counter[int]] = field(default_factory=dict)

    def join(self, node: str, held: PieceSet) -> None:
        """`node` wants the blob; it has the pieces in `held` already."""
        self.waiting[node] = held
        self.done.discard(node)
        self._late.discard(node)

    def leave(self, node: str) -> bool:
        """`node` is gone; True when a ring without it is needed."""
        self.waiting.pop(node, None)
        self.done.discard(node)
        was_member = node in self.members
        self.members.discard(node)
        return was_member and self.stage is Stage.DEALING and bool(self.members)

    def finished(self, node: str) -> None:
        """`node` has what it wanted, or has given up."""
        self.done.add(node)
        self._asked.pop(node, None)

    def next_epoch(self, in_order: Sequence[str], leaves: Sequence[str] = ()) -> Ring:
        """The ring that takes in all who wait; `in_order` are the members and them, by slot, `leaves` the slow ones."""
        self.members = set(in_order)
        self.took_part |= self.members
        arrivals = {node: held for node, held in self.waiting.items() if node in self.members}
        self.waiting.clear()
        ring = self._ring([node for node in in_order if node not in leaves], self.tracker, leaves)
        self._arrivals[ring.epoch] = arrivals
        return ring

    def began(self, epoch: int, dealt: Iterable[int]) -> list[Order]:
        """The fills that the newcomers of `epoch` need, given what was dealt before it."""
        cohorts: dict[tuple[int, ...], list[str]] = {}
        earlier = tuple(dealt)
        for node, held in self._arrivals.pop(epoch, {}).items():
            missing = tuple(index for index in earlier if index not in held)
            if missing and node in self.members:
                cohorts.setdefault(missing, []).append(node)
                self._late.add(node)
        orders: list[Order] = []
        for missing, cohort in cohorts.items():
            orders += self._fill(missing, cohort, self._able() - set(cohort))
        return orders

    def lacking(self, node: str, missing: Sequence[int]) -> list[Order]:
        """The fills for one member that lacks pieces which should have come.

        Who lacks them too can't deal them. Where fills by members didn't help, the tracker deals.
        """
        if node not in self.took_part or not missing:
            return []
        asked = self._asked.setdefault(node, Counter())
        asked.update(missing)
        patient = tuple(index for index in missing if asked[index] < TRACKER_FILLS_AFTER)
        urgent = tuple(index for index in missing if asked[index] >= TRACKER_FILLS_AFTER)
        lack_too = {other for other, lacks in self._asked.items() if lacks.keys() & set(missing)}
        able = ((self.done & self.members) or self._able()) - lack_too
        return self._fill(patient, [node], able) + self._fill(urgent, [node], set())

    @property
    def all_done(self) -> bool:
        """Whether nobody takes part any more who hasn't finished."""
        return self.stage is Stage.DEALT and not self.waiting and self.members <= self.done

    @property
    def deserted(self) -> bool:
        """Whether nobody takes part or is about to."""
        return not self.waiting and not self.members

    def _able(self) -> set[str]:
        """Who can deal fills: members that get every piece, not those who wait for fills themselves.

        Two latecomers that were each other's dealers would wait for each other for ever.
        """
        behind = self._late.union(*self._arrivals.values()) - self.done
        return self.members - behind

    def _fill(self, missing: tuple[int, ...], cohort: list[str], able: set[str]) -> list[Order]:
        """Stripe `missing` over some of `able`; over the tracker when there is none."""
        dealers = sorted(able, key=lambda node: (node not in self.done, node))[:FILL_DEALERS] or [self.tracker]
        orders = []
        for number, dealer in enumerate(dealers):
            pieces = missing[number :: len(dealers)]
            if pieces:
                orders.append(Order(self._ring(cohort, dealer), pieces))
        return orders

    def _ring(self, members: Sequence[str], dealer: str, leaves: Sequence[str] = ()) -> Ring:
        self.last_epoch += 1
        return Ring(self.last_epoch, members, dealer, leaves)
