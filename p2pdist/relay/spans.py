"""Who passes a piece on to whom. Pure arithmetic; knows nothing of bytes, sockets or time.

The members of an epoch stand on a ring. A piece enters at its root and each member that gets it is told a *span*: how
many members after itself it must serve. It cuts the span into at most `fan` arcs, sends the piece to the first member
of each, and gives that member the rest of the arc as its span. With the roots rotating over all members every member
uploads the same: over one full rotation exactly members - 1 pieces. The distances on the ring at which a member has
children are the same for every root, so a member needs only about fan * log(members) connections.

Spans count members of the epoch, not slots of the fleet's table: with a table of 1,000 slots of which 16 neighbouring
ones are members, spans over slots make the first member after the gap a child of every root, and its uplink carries up
to `fan` copies (tests/unit/relay/test_spans.py shows the difference). When the whole fleet pulls, both are the same.

Members that are slow take no part in this: as *leaves* they stand beside the ring, and each piece reaches a leaf from
one of several members of the ring, in turn by its root. A leaf passes nothing on and nobody waits for it.

Trees that differ per piece: SplitStream (Castro et al. 2003); two-hop scatter reaches the fluid bound (Kumar and Ross
2006).
"""

from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from p2pdist.core.errors import InvalidInput

DEFAULT_FAN = 4
MAX_MEMBERS = 1 << 16
LEAF_SERVERS = 8
MOST_LEAF_SERVERS = 64


class Arc(NamedTuple):
    """`offset` members after the sender stands the child, which serves the `span` members behind itself."""

    offset: int
    span: int


class Place(NamedTuple):
    """Where a member stands in the tree of one root, as distances from the root; the root's parent is the dealer."""

    parent_offset: int | None
    span: int


@lru_cache(maxsize=65536)
def arcs(span: int, fan: int) -> tuple[Arc, ...]:
    """The children of a member that serves `span` members, and what each of them serves."""
    parts = min(fan, span)
    cuts = [part * span // parts for part in range(parts + 1)] if parts else []
    return tuple(Arc(cuts[part] + 1, cuts[part + 1] - cuts[part] - 1) for part in range(parts))


@lru_cache(maxsize=65536)
def place(offset: int, members: int, fan: int) -> Place:
    """The place of the member that stands `offset` behind the root of a ring of `members`."""
    if not 0 <= offset < members:
        raise InvalidInput(f"offset {offset} on a ring of {members} members")
    at, span, parent = 0, members - 1, None
    while at != offset:
        for arc in reversed(arcs(span, fan)):
            if at + arc.offset <= offset:
                parent, at, span = at, at + arc.offset, arc.span
                break
    return Place(parent, span)


@lru_cache(maxsize=1024)
def child_offsets(members: int, fan: int) -> tuple[int, ...]:
    """The distances at which a member of this ring ever has children, whoever the root is."""
    found: set[int] = set()
    spans, seen = [members - 1], set[int]()
    while spans:
        span = spans.pop()
        if span in seen:
            continue
        seen.add(span)
        for arc in arcs(span, fan):
            found.add(arc.offset)
            spans.append(arc.span)
    return tuple(sorted(found))


class Ring:
    """The members of one epoch of a relay, in the order of their slots, and the node that deals to them.

    `members` stand on the ring, `leaves` beside it; `len` counts the ring alone. Raises `InvalidInput` when somebody is
    named twice, when there are too many, and for leaves without a ring.
    """

    __slots__ = ("_leaves", "_leaves_from", "_ranks", "_turns", "dealer", "epoch", "leaves", "members")

    def __init__(self, epoch: int, members: Iterable[str], dealer: str, leaves: Iterable[str] = ()) -> None:
        self.epoch = epoch
        self.members = tuple(members)
        self.leaves = tuple(leaves)
        self.dealer = dealer
        self._ranks = {node: rank for rank, node in enumerate(self.members)}
        self._leaves = {node: number for number, node in enumerate(self.leaves)}
        everybody = len(self.members) + len(self.leaves)
        if len(self._ranks | self._leaves) != everybody or everybody > MAX_MEMBERS:
            raise InvalidInput(f"epoch {epoch} names a member twice or has more than {MAX_MEMBERS} members")
        if self.leaves and not self.members:
            raise InvalidInput(f"epoch {epoch} has leaves and no ring")
        self._turns = self._count_turns()
        self._leaves_from: defaultdict[int, list[str]] = defaultdict(list)
        for number, node in enumerate(self.leaves):
            self._leaves_from[number * self._turns % len(self.members)].append(node)

    def __len__(self) -> int:
        return len(self.members)

    def __contains__(self, node: str) -> bool:
        return node in self._ranks or node in self._leaves

    def is_leaf(self, node: str) -> bool:
        """Whether `node` stands beside the ring."""
        return node in self._leaves

    def rank(self, node: str) -> int:
        """Where `node` stands on the ring; raises KeyError when it doesn't."""
        return self._ranks[node]

    def at(self, rank: int) -> str:
        """The member at `rank`, counted around the ring."""
        return self.members[rank % len(self.members)]

    def place(self, node: str, root: int, fan: int) -> Place:
        """The place of `node` in the tree whose root has rank `root`."""
        if node in self._leaves:
            return Place((self._server(self._leaves[node], root) - root) % len(self.members), 0)
        return place((self._ranks[node] - root) % len(self.members), len(self.members), fan)

    def parent(self, node: str, root: int, fan: int) -> str:
        """The node that `node` gets a piece of this root from: a member, or the dealer for the root itself."""
        offset = self.place(node, root, fan).parent_offset
        return self.dealer if offset is None else self.at(root + offset)

    def leaves_of(self, node: str, root: int) -> list[str]:
        """The leaves that `node` passes a piece of this root on to."""
        if not self.leaves:
            return []
        return self._leaves_from.get((self._ranks[node] - root % self._turns) % len(self.members), [])

    def children_of(self, node: str, fan: int) -> list[str]:
        """Every member that `node` may have to send to, for any root."""
        if node in self._leaves:
            return []
        rank = self._ranks[node]
        inner = [self.at(rank + offset) for offset in child_offsets(len(self.members), fan)]
        return inner + [leaf for number, leaf in enumerate(self.leaves) if rank in self._servers(number)]

    def _count_turns(self) -> int:
        """How many members serve a leaf, by turns; many where leaves are few: uplinks are full anyhow."""
        if not self.leaves:
            return 0
        fair = min(MOST_LEAF_SERVERS, len(self.members) // len(self.leaves))
        return min(max(LEAF_SERVERS, fair), len(self.members))

    def _servers(self, leaf: int) -> list[int]:
        """The ranks that serve the leaf with this number, by turns."""
        return [(leaf * self._turns + turn) % len(self.members) for turn in range(self._turns)]

    def _server(self, leaf: int, root: int) -> int:
        return (leaf * self._turns + root % self._turns) % len(self.members)
