"""The engine where it was suspected: dealers that lose everybody, slow roots, generations that close at work."""

from p2pdist.relay.engine import Ack, Offer, Push
from p2pdist.relay.spans import Ring
from tests.unit.relay.fleet import DEALER, GENERATION, Fleet
from tests.unit.relay.test_engine import deal_all, names

OTHER = GENERATION + 1


def pushes_of(fleet: Fleet, node: str) -> list[Push]:
    return [action for action in fleet.engines[node].take_actions() if isinstance(action, Push)]


def test_pieces_that_nobody_acknowledged_are_dealt_again_when_members_are_back() -> None:
    """A dealer that stood still closes all connections: the pieces under way aren't anybody's any more."""
    fleet = Fleet(12, names(4))
    deal_all(fleet)
    lost = [push.index for push in pushes_of(fleet, DEALER)]
    assert lost
    for node in fleet.members:
        fleet.engines[DEALER].lost(node)
    fleet.engines[DEALER].take_actions()
    for node in fleet.members:
        fleet.engines[DEALER].back(node)
    fleet.run()
    assert {node: fleet.lacking(node) for node in fleet.members} == {node: [] for node in fleet.members}


def test_the_only_member_gets_what_was_under_way_when_its_connection_broke() -> None:
    fleet = Fleet(6, names(1))
    deal_all(fleet)
    fleet.engines[DEALER].take_actions()
    fleet.engines[DEALER].lost("n0")
    fleet.engines[DEALER].back("n0")
    fleet.run()
    assert fleet.lacking("n0") == []


def test_a_member_whose_connection_broke_gets_what_was_under_way_to_it() -> None:
    """The child lives; only the connection from its parent broke, and is there again at once (a spare)."""
    fleet = Fleet(1, names(5))
    deal_all(fleet)
    (push,) = pushes_of(fleet, DEALER)
    fleet.engines[DEALER].written(push.tag)
    fleet.held[push.to].add(0)
    root = fleet.engines[push.to]
    root.pushed(DEALER, push)
    child = pushes_of(fleet, push.to)[0].to
    root.reset(child)
    for pushed in root.take_actions():
        fleet.links[push.to, pushed.to].append(pushed)
    fleet.run()
    assert fleet.lacking(child) == []


def test_slow_roots_do_not_keep_the_dealer_from_the_others() -> None:
    """Four thin roots drain, so nobody calls them frozen; the pieces for them are not written for a long time."""
    fleet = Fleet(200, names(16), piece_bytes=1 << 20)
    slow = {"n0", "n1", "n2", "n3"}
    deal_all(fleet)
    dealer = fleet.engines[DEALER]
    fast = 0
    for _ in range(20):
        dealer.tick()
        while pushes := pushes_of(fleet, DEALER):
            for push in pushes:
                if push.to not in slow:
                    fast += 1
                    dealer.written(push.tag)
                    dealer.acked(push.to, push.tag)
    assert fast >= 150


def test_closing_a_generation_lets_the_others_go_on() -> None:
    fleet = Fleet(20, names(3))
    dealer = fleet.engines[DEALER]
    dealer.open(OTHER, fleet.held[DEALER], 1 << 20)
    dealer.add_ring(OTHER, fleet.ring)
    dealer.start_dealing(OTHER, fleet.ring)
    deal_all(fleet)
    dealer.take_actions()
    for index in range(4):
        dealer.deal(OTHER, 1, index)
    assert dealer.take_actions() == []
    dealer.close(GENERATION)
    assert [push.generation for push in pushes_of(fleet, DEALER)] == [OTHER] * 4


def test_a_closed_generation_owes_its_parents_a_word() -> None:
    """Whoever gives up a generation with spans unserved must say so, or its parent waits for ever."""
    fleet = Fleet(1, names(5))
    deal_all(fleet)
    (push,) = pushes_of(fleet, DEALER)
    root = fleet.engines[push.to]
    root.pushed(DEALER, push)
    root.take_actions()
    root.close(GENERATION)
    answers = [action for action in root.take_actions() if action.to == DEALER and not isinstance(action, Ack)]
    assert answers


def test_a_piece_is_sent_once_however_often_it_is_wanted() -> None:
    fleet = Fleet(1, names(1))
    dealer = fleet.engines[DEALER]
    dealer.deal(GENERATION, 1, 0, by_offer=True)
    (offer,) = dealer.take_actions()
    assert isinstance(offer, Offer)
    for _ in range(10):
        dealer.wanted("n0", offer.tag)
    assert len(pushes_of(fleet, DEALER)) == 1


def test_a_dealer_alone_in_its_own_ring_comes_to_an_end() -> None:
    fleet = Fleet(30, names(1))
    ring = Ring(5, ["n0"], "n0")
    engine = fleet.engines["n0"]
    for index in range(30):
        fleet.held["n0"].add(index)
    engine.start_dealing(GENERATION, ring)
    for index in range(30):
        engine.deal(GENERATION, 5, index)
    fleet.run()
    assert engine.undealt(GENERATION) == 0
