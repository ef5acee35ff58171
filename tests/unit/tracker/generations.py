"""What tests of a generation do over and over: have nodes join, make epochs, look at fills."""

from collections import defaultdict

from p2pdist.core.digest import Digest
from p2pdist.core.pieces import PieceLayout, PieceSet
from p2pdist.tracker.generation import Generation, Order, Share

PIECES = 12
TRACKER = "tracker"


def generation(pieces: int = PIECES) -> Generation:
    layout = PieceLayout(pieces * 32768, 32768)
    return Generation(1, Digest.of(b""), "registry.example", "a", layout, False, TRACKER)


def join(one: Generation, *nodes: str, zone: str = "") -> None:
    for node in nodes:
        one.join(node, PieceSet(one.layout.count), zone)


def next_epoch(one: Generation) -> list[Share]:
    return one.next_epoch(sorted(one.members | one.waiting.keys()))


def epoch(one: Generation, *nodes: str, zone: str = "", dealt: tuple[int, ...] = ()) -> list[Order]:
    """These nodes join, and every ring that changes begins."""
    join(one, *nodes, zone=zone)
    return [order for share in next_epoch(one) for order in one.began(share.ring.epoch, dealt)]


def filled(orders: list[Order]) -> dict[str, list[int]]:
    """The pieces that each node is filled with."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for order in orders:
        for node in order.ring.members:
            found[node] += order.pieces
    return found


def dealers(orders: list[Order]) -> set[str]:
    return {order.dealer for order in orders}
