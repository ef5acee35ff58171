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
        self.dealer.arrived(index)


def ring(epoch: int, *members: str) -> Ring:
    return Ring(epoch, members, "dealer")


def test_a_share_of_everything_is_dealt_as_it_comes() -> None:
    table = Table({0})
    assert table.dealer.start(1, ring(1, "a", "b"), None, False) == []
    table.come(1)
    assert table.sent() == [("Push", 0), ("Push", 1)]
    # All that is here was dealt; but more will come.
    assert not table.dealer.finished
    for index in range(2, COUNT):
        table.come(index)
    assert table.sent() == [("Push", index) for index in range(2, COUNT)]
    assert table.dealer.finished


def test_a_share_of_some_pieces_leaves_the_others_alone() -> None:
    table = Table(set(range(COUNT)))
    table.dealer.start(1, ring(1, "a"), frozenset({2, 5}), True)
    assert table.sent() == [("Offer", 2), ("Offer", 5)]
    assert table.dealer.finished


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
    dealt = len([action for action in table.engine.take_actions() if isinstance(action, Push)])
    assert 0 < dealt < COUNT
    # Somebody else may go on with the rest.
    assert table.dealer.start(1, ring(2), None, False) == list(range(dealt))
    assert table.engine.undealt(1) == 0
    assert not table.dealer.finished


def test_a_fill_waits_for_what_the_dealer_lacks() -> None:
    table = Table({3})
    table.dealer.fill(ring(7, "late"), [3, 4], by_offer=False)
    assert table.sent() == [("Push", 3)]
    table.come(4)
    table.come(5)
    assert table.sent() == [("Push", 4)]
    # A fill isn't a share: nobody waits for the end of it.
    assert not table.dealer.finished


@pytest.mark.parametrize(("by_offer", "kind"), [(False, "Push"), (True, "Offer")])
def test_a_piece_goes_to_the_shares_that_it_belongs_to(by_offer: bool, kind: str) -> None:
    """A member at home deals to other zones what it gets itself."""
    table = Table(set())
    table.dealer.start(1, ring(1, "a"), frozenset({0, 2}), by_offer)
    table.dealer.start(2, ring(2, "b"), frozenset({1, 2}), by_offer)
    table.come(0)
    assert table.sent() == [(kind, 0)]
    table.come(2)
    assert table.sent() == [(kind, 2), (kind, 2)]
    table.come(7)
    assert table.sent() == []
    assert not table.dealer.finished
    table.come(1)
    assert table.sent() == [(kind, 1)]
    assert table.dealer.finished
