"""A generation with dealers that do as they are told, at their own pace: in the end everybody has every piece.

Each dealer takes the tracker's orders one after the other, and its answers come back as late as may be; but nobody has
to ask for what it lacks.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pdist.core.pieces import PieceSet
from p2pdist.relay.spans import Ring
from p2pdist.tracker.generation import Generation, Order, Share
from tests.unit.tracker.generations import PIECES, TRACKER, generation

EVERYTHING = frozenset(range(PIECES))


class Dealing:
    """What one node deals over one ring; the ring of a share is replaced, that of a fill stays."""

    def __init__(self, ring: Ring, pieces: Iterable[int]) -> None:
        self.ring = ring
        self.waiting = set(pieces)


class Fleet:
    """The tracker's orders on their way, who has dealt what, and who has which piece."""

    def __init__(self, one: Generation, zones: dict[str, str]) -> None:
        self.one = one
        self.zones = zones
        self.has: defaultdict[str, set[int]] = defaultdict(set)
        self.shares: dict[tuple[str, int], Dealing] = {}
        self.fills: defaultdict[str, list[Dealing]] = defaultdict(list)
        self.orders: defaultdict[str, deque[Callable[[], None]]] = defaultdict(deque)
        self.answers: defaultdict[str, deque[tuple[int, frozenset[int]]]] = defaultdict(deque)
        for holder in one.holders:
            self.has[holder] = set(EVERYTHING)

    # What the tracker says, as `epochs` does.

    def tell(self, shares: Iterable[Share], orders: Iterable[Order]) -> None:
        for share in shares:
            pieces = EVERYTHING if share.pieces is None else frozenset(share.pieces)
            self.orders[share.ring.dealer].append(partial(self._start, share.number, share.ring, pieces))
        for order in orders:
            self.orders[order.dealer].append(
                partial(self.fills[order.dealer].append, Dealing(order.ring, order.pieces))
            )

    def _start(self, number: int, ring: Ring, pieces: frozenset[int]) -> None:
        old = self.shares.pop((ring.dealer, number), None)
        waiting = pieces if old is None else old.waiting
        if len(ring):
            self.shares[ring.dealer, number] = Dealing(ring, waiting)
        self.answers[ring.dealer].append((ring.epoch, frozenset((pieces - waiting) & self.has[ring.dealer])))

    def make(self) -> None:
        one = self.one
        if one.newcomers_are_guests:
            self.tell((), one.invite())
        order = sorted(one.members | one.waiting.keys())
        self.tell(one.next_epoch(order), ())

    # What happens.

    def obey(self, dealer: str) -> None:
        if self.orders[dealer]:
            self.orders[dealer].popleft()()

    def hear(self, dealer: str) -> None:
        if self.answers[dealer]:
            epoch, dealt = self.answers[dealer].popleft()
            shares, orders = self.one.handed_over(epoch, dealt) if dealer == TRACKER else ([], [])
            self.tell(shares, orders)
            self.tell((), self.one.began(epoch, dealt))

    def deal(self, dealer: str) -> bool:
        """Deal one piece of each share and fill; whether there was one."""
        dealt = False
        mine = [dealing for (node, _), dealing in self.shares.items() if node == dealer] + self.fills[dealer]
        for dealing in mine:
            ready = dealing.waiting & self.has[dealer]
            if ready:
                dealt = True
                dealing.waiting.discard(min(ready))
                for node in (*dealing.ring.members, *dealing.ring.leaves):
                    self.has[node].add(min(ready))
        return dealt

    def join(self, node: str) -> None:
        if node not in self.one.members | self.one.guests | self.one.waiting.keys():
            self.has[node] = set()
            self.one.join(node, PieceSet(PIECES), self.zones[node])

    def leave(self, node: str) -> None:
        self.orders[node].clear()
        self.answers[node].clear()
        self.fills[node].clear()
        for key in [key for key in self.shares if key[0] == node]:
            del self.shares[key]
        self.has[node] = set()
        self.one.leave(node)
        self.tell(*self.one.dealer_gone(node))

    def finish(self) -> None:
        """Whoever has all of it says so."""
        for node in self.one.members | self.one.guests:
            if self.has[node] >= EVERYTHING:
                self.one.finished(node)

    def come_to_rest(self) -> None:
        self.has[TRACKER] = set(EVERYTHING)
        self.make()
        busy = True
        while busy:
            nodes = sorted({TRACKER, *self.orders, *self.answers, *self.fills, *(node for node, _ in self.shares)})
            busy = any(self.orders.values()) or any(self.answers.values())
            for node in nodes:
                self.obey(node)
                self.hear(node)
                busy = self.deal(node) or busy


NODES = "abcdefgh"
STEP = st.tuples(
    st.sampled_from(("join", "join", "leave", "epoch", "piece", "obey", "hear", "deal", "deal", "finish")),
    st.sampled_from(NODES + "t"),
)


@settings(deadline=None, max_examples=400)
@given(
    st.lists(STEP, max_size=80),
    st.fixed_dictionaries({node: st.sampled_from(["", "east", "west"]) for node in NODES}),
    st.sampled_from(["", "east", "far"]),
    st.sets(st.sampled_from(["h0", "h1", "h2"])),
)
def test_everybody_gets_everything_whoever_comes_and_goes(
    steps: list[tuple[str, str]], zones: dict[str, str], home: str, holders: set[str]
) -> None:
    one = generation()
    one.home = home
    for holder in sorted(holders):
        one.add_holder(holder, "east")
    fleet = Fleet(one, zones)
    for step, node in steps:
        dealer = TRACKER if node == "t" else node
        match step:
            case "join" if node != "t":
                fleet.join(node)
            case "leave" if node != "t":
                fleet.leave(node)
            case "epoch":
                fleet.make()
            case "piece":
                fleet.has[TRACKER].add(min(EVERYTHING - fleet.has[TRACKER], default=0))
            case "obey":
                for each in (dealer, *holders):
                    fleet.obey(each)
            case "hear":
                for each in (dealer, *holders):
                    fleet.hear(each)
            case "deal":
                for each in (dealer, *holders):
                    fleet.deal(each)
            case "finish":
                fleet.finish()
            case _:
                pass
    fleet.come_to_rest()
    lacking = {node: sorted(EVERYTHING - fleet.has[node]) for node in one.members | one.guests}
    assert not {node: pieces for node, pieces in lacking.items() if pieces}
    assert not one.waiting
