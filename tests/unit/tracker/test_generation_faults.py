"""A piece that no member has can only come from the tracker."""

from p2pdist.core.digest import Digest
from p2pdist.core.pieces import PieceLayout, PieceSet
from p2pdist.tracker.generation import Generation


def test_whoever_lacks_a_piece_does_not_deal_it() -> None:
    layout = PieceLayout(20 * 32768, 32768)
    generation = Generation(1, Digest.of(b""), "u", "r", layout, False, "tracker")
    for node in ("a", "b"):
        generation.join(node, PieceSet(20))
    ring = generation.next_epoch(["a", "b"])
    generation.began(ring.epoch, ())
    dealers = []
    for _ in range(3):
        for node in ("a", "b"):
            dealers += [order.dealer for order in generation.lacking(node, [3])]
    assert "tracker" in dealers
