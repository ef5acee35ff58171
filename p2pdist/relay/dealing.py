"""Which root is dealt the next piece. Pure: no sockets, no clock; the dealer's half of the engine.

A *dealing* is what this node deals of one generation over one ring. Each root has credit for a few pieces; the next
piece goes to the root with most credit, then to the one that was dealt least, then to any. Dealings that have pieces
waiting take turns, one piece each, so that a large blob doesn't hold up a small one. When the ring of a dealing is
replaced (somebody came or left), what waits, the credit that is out and the counts move on to the new one.

Where several dealers deal over one ring, each has a *lane*: roots of its own, so that a member has one of them to get
from instead of all, and few flows share a thin link. When none of its roots can be reached, it deals to the others.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from p2pdist.relay.spans import Ring

CREDIT_PIECES = 2
CREDIT_FLOOR_BYTES = 1 << 20


class Lane(NamedTuple):
    """The roots of one of `lanes` dealers that deal over one ring."""

    number: int = 0
    lanes: int = 1

    def roots(self, ring: Ring) -> tuple[str, ...]:
        """Its members of the ring: every `lanes`-th, or one where there are fewer members than dealers."""
        if not len(ring):
            return ()
        first = self.number % len(ring)
        return ring.members[first :: self.lanes] if self.lanes <= len(ring) else ring.members[first : first + 1]


EVERY_ROOT = Lane()


@dataclass(frozen=True, slots=True)
class Deal:
    """Give this piece to this root."""

    generation: int
    ring: Ring
    root: str
    index: int
    by_offer: bool


@dataclass(slots=True)
class _Dealing:
    """One ring that is dealt over. `queue` orders the roots; entries that don't match `credit` any more are stale."""

    generation: int
    ring: Ring
    credit: dict[str, int]
    given: dict[str, int]
    queue: list[tuple[int, int, float, str]] = field(default_factory=list)
    ready: deque[tuple[int, bool]] = field(default_factory=deque)


class Dealings:
    """All that this node deals; `able` says whether a node can be dealt a piece of a generation at the moment."""

    def __init__(self, rng: random.Random, able: Callable[[int, str], bool]) -> None:
        self._rng = rng
        self._able = able
        self._dealings: dict[tuple[int, int], _Dealing] = {}
        self._successors: dict[tuple[int, int], int] = {}
        self._turns: deque[_Dealing] = deque()

    def start(self, generation: int, ring: Ring, piece_bytes: int, lane: Lane = EVERY_ROOT) -> None:
        """Be ready to deal over `ring`."""
        roots = lane.roots(ring)
        floor = -(-CREDIT_FLOOR_BYTES // (piece_bytes * max(1, len(roots) * lane.lanes)))
        credit = dict.fromkeys(roots, max(CREDIT_PIECES, floor))
        dealing = _Dealing(generation, ring, credit, dict.fromkeys(roots, 0))
        self._dealings[generation, ring.epoch] = dealing
        for node in roots:
            self._enqueue(dealing, node)

    def replace(self, generation: int, old_epoch: int, ring: Ring, piece_bytes: int, lane: Lane = EVERY_ROOT) -> None:
        """As `start`, taking over what waits, the credit that is out and the counts of `old_epoch`.

        A member that is new starts at the count of the member that was dealt least, so that it isn't dealt everything.
        """
        old = self._dealings.pop((generation, old_epoch), None)
        self.start(generation, ring, piece_bytes, lane)
        if old is None:
            return
        self._successors[generation, old_epoch] = ring.epoch
        dealing = self._dealings[generation, ring.epoch]
        least = min((old.given[node] for node in dealing.given if node in old.given), default=0)
        dealing.queue.clear()
        for node in dealing.given:
            dealing.given[node] = old.given.get(node, least)
            dealing.credit[node] = old.credit.get(node, dealing.credit[node])
            self._enqueue(dealing, node)
        for index, by_offer in old.ready:
            self._put(dealing, index, by_offer)
        old.ready.clear()

    def stop(self, generation: int, epoch: int) -> None:
        """Deal nothing more over this ring, nor over those that replaced it."""
        dealing = self._current(generation, epoch)
        if dealing is not None:
            dealing.ready.clear()
            del self._dealings[generation, dealing.ring.epoch]

    def close(self, generation: int) -> None:
        """Forget a generation."""
        for key in [key for key in self._dealings if key[0] == generation]:
            self._dealings.pop(key).ready.clear()
        for key in [key for key in self._successors if key[0] == generation]:
            del self._successors[key]

    def ring(self, generation: int, epoch: int) -> Ring | None:
        """The ring of a dealing that was started."""
        dealing = self._dealings.get((generation, epoch))
        return dealing.ring if dealing is not None else None

    def queue(self, generation: int, epoch: int, index: int, by_offer: bool) -> None:
        """Have a piece dealt over the ring of `epoch`, or over what replaced it; nothing when it was stopped."""
        dealing = self._current(generation, epoch)
        if dealing is not None:
            self._put(dealing, index, by_offer)

    def waiting(self, generation: int, epoch: int) -> list[int]:
        """The pieces that wait for a root of this epoch."""
        dealing = self._dealings.get((generation, epoch))
        return [index for index, _ in dealing.ready] if dealing is not None else []

    def undealt(self, generation: int) -> int:
        """How many pieces of a generation wait for a root."""
        return sum(len(each.ready) for (number, _), each in self._dealings.items() if number == generation)

    def next(self) -> Deal | None:
        """The next deal, of which note is taken; None while nothing waits, or no root has credit."""
        without_root = 0
        while without_root < len(self._turns):
            dealing = self._turns.popleft()
            if not dealing.ready:
                continue
            root = self._next_root(dealing)
            if root is None:
                self._turns.append(dealing)
                without_root += 1
                continue
            index, by_offer = dealing.ready.popleft()
            if dealing.ready:
                self._turns.append(dealing)
            dealing.credit[root] -= 1
            dealing.given[root] += 1
            self._enqueue(dealing, root)
            return Deal(dealing.generation, dealing.ring, root, index, by_offer)
        return None

    def return_credit(self, generation: int, epoch: int, root: str) -> bool:
        """A root can take another piece; whether that means anything any more."""
        dealing = self._current(generation, epoch)
        if dealing is None or root not in dealing.credit:
            return False
        dealing.credit[root] += 1
        self._enqueue(dealing, root)
        return True

    def _put(self, dealing: _Dealing, index: int, by_offer: bool) -> None:
        if not dealing.ready:
            self._turns.append(dealing)
        dealing.ready.append((index, by_offer))

    def _enqueue(self, dealing: _Dealing, node: str) -> None:
        """Give a root its place in the order; an earlier entry of its is stale from now on."""
        credit = dealing.credit[node]
        if credit > 0:
            heapq.heappush(dealing.queue, (-credit, dealing.given[node], self._rng.random(), node))

    def _next_root(self, dealing: _Dealing) -> str | None:
        unable, found = [], None
        while dealing.queue and found is None:
            entry = heapq.heappop(dealing.queue)
            credit, given, _, node = entry
            if dealing.credit[node] != -credit or dealing.given[node] != given:
                continue
            if self._able(dealing.generation, node):
                found = node
            else:
                unable.append(entry)
        for entry in unable:
            heapq.heappush(dealing.queue, entry)
        return found or self._stand_in(dealing)

    def _stand_in(self, dealing: _Dealing) -> str | None:
        """Another member, when all roots of the lane are out of reach."""
        generation = dealing.generation
        if len(dealing.credit) == len(dealing.ring) or any(self._able(generation, node) for node in dealing.credit):
            return None
        for node in dealing.ring.members:
            if node not in dealing.credit and self._able(generation, node):
                dealing.credit[node], dealing.given[node] = CREDIT_PIECES, 0
                return node
        return None

    def _current(self, generation: int, epoch: int) -> _Dealing | None:
        """What took over the dealing of `epoch`: itself, or the dealing that replaced it."""
        while (generation, epoch) in self._successors:
            epoch = self._successors[generation, epoch]
        return self._dealings.get((generation, epoch))
