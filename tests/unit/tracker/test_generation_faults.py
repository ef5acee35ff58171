"""A piece that no member has can only come from the tracker."""

from tests.unit.tracker.generations import TRACKER, dealers, epoch, generation


def test_whoever_lacks_a_piece_does_not_deal_it() -> None:
    one = generation(20)
    epoch(one, "a", "b")
    found = set[str]()
    for _ in range(3):
        for node in ("a", "b"):
            found |= dealers(one.lacking(node, [3]))
    assert TRACKER in found
