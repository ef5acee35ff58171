"""What a node deals of a generation: shares over rings that replace each other, and fills that wait for pieces."""

import random

import pytest

from p2pdist.relay.dealer import Dealer
from p2pdist.relay.engine import Engine, Offer, Push
from p2pdist.relay.spans import Ring

COUNT = 10


class Table:
    """A dealer, its engine, and what it has."""

    def __init__(self, held: set[int]) -> None:
        self.held = held
        self.engine = Engine("dealer", random.Random(1))
        self.engine.open(1, held, 1 << 20)
        self.dealer = Dealer(self.engine, 1, COUNT, held)

    def sent(self) -> list[tuple[str, int]]:
        """What has gone out since the last look, all of it acknowledged."""
        found = []
        while actions := self.engine.take_actions():
            for action in actions:
                assert isinstance(action, Push | Offer)
                found.append((type(action).__name__, action.index))
                self.engine.acked(action.to, action.tag)
        return sorted(found, key=lambda each: each[1])

    def come(self, index: int) -> None:
        self.held.add(index)
        self.dealer.supplied(index)


def ring(epoch: int, *members: str) -> Ring:
    return Ring(epoch, members, "dealer")


def test_a_share_of_everything_is_dealt_as_it_comes() -> None:
    table = Table({0})
    assert table.dealer.start(1, ring(1, "a", "b"), None, False) == []
    table.come(1)
    assert table.sent() == [("Push", 0), ("Push", 1)]
    assert table.dealer.finished


def test_a_share_of_some_pieces_leaves_the_others_alone() -> None:
    table = Table(set(range(COUNT)))
    table.dealer.start(1, ring(1, "a"), frozenset({2, 5}), True)
    assert table.sent() == [("Offer", 2), ("Offer", 5)]


def test_a_new_ring_takes_over_what_waits_and_says_what_was_dealt() -> None:
    table = Table(set(range(COUNT)))
    table.dealer.start(1, ring(1, "a"), None, False)
    dealt = len([action for action in table.engine.take_actions() if isinstance(action, Push)])
    assert 0 < dealt < COUNT
    assert table.dealer.start(1, ring(2, "a", "b"), None, False) == list(range(dealt))
    assert not table.dealer.finished


def test_a_ring_without_members_ends_a_share() -> None:
    table = Table(set(range(COUNT)))
    table.dealer.start(1, ring(1, "a"), None, False)
    assert table.dealer.start(1, ring(2), None, False) is None
    assert table.engine.undealt(1) == 0
    assert not table.dealer.finished


def test_a_fill_waits_for_what_the_dealer_lacks() -> None:
    table = Table({3})
    table.dealer.fill(ring(7, "late"), [3, 4], by_offer=False)
    assert table.sent() == [("Push", 3)]
    table.held.add(4)
    table.dealer.received(4)
    table.dealer.received(4)
    assert table.sent() == [("Push", 4)]


@pytest.mark.parametrize("by_offer", [False, True])
def test_a_piece_from_another_node_belongs_to_no_share(by_offer: bool) -> None:
    table = Table(set())
    table.dealer.start(1, ring(1, "a"), None, by_offer)
    table.held.add(0)
    table.dealer.received(0)
    assert table.sent() == []
