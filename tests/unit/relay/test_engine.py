"""The relay's rules alone, on generated fleets: nothing here opens a socket or reads a clock."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pdist.core.errors import ProtocolError
from p2pdist.relay.engine import Credit, Push
from p2pdist.relay.spans import Ring
from tests.unit.relay.fleet import DEALER, GENERATION, Fleet


def names(count: int) -> list[str]:
    return [f"n{number}" for number in range(count)]


def deal_all(fleet: Fleet) -> None:
    for index in range(fleet.pieces):
        fleet.engines[DEALER].deal(GENERATION, 1, index)


@settings(deadline=None, max_examples=60)
@given(members=st.integers(1, 40), pieces=st.integers(0, 30), fan=st.integers(1, 6), seed=st.integers(0, 1 << 30))
def test_every_member_gets_every_piece_exactly_once(members: int, pieces: int, fan: int, seed: int) -> None:
    fleet = Fleet(pieces, names(members), seed, fan)
    deal_all(fleet)
    fleet.run()
    assert fleet.received == {(node, index): 1 for node in fleet.members for index in range(pieces)}
    assert fleet.uploads[DEALER] == pieces
    assert fleet.engines[DEALER].unfinished(GENERATION) == 0
    assert all(not engine.unfinished(GENERATION) for engine in fleet.engines.values())


@settings(deadline=None, max_examples=150)
@given(data=st.data(), members=st.integers(2, 24), pieces=st.integers(1, 24), seed=st.integers(0, 1 << 30))
def test_whoever_dies_the_others_get_every_piece(data: st.DataObject, members: int, pieces: int, seed: int) -> None:
    fleet = Fleet(pieces, names(members), seed, data.draw(st.integers(1, 5)))
    deal_all(fleet)
    mortal = data.draw(st.lists(st.sampled_from(fleet.members), unique=True, max_size=members - 1))
    owed = 0
    for node in mortal:
        for _ in range(data.draw(st.integers(0, 60))):
            fleet.step()
        fleet.die(node)
        for _ in range(data.draw(st.integers(0, 30))):
            fleet.step()
        owed += sum(len(engine._tags_of[node]) for engine in fleet.engines.values())
        fleet.notice(node)
    fleet.run()
    living = [node for node in fleet.members if node not in mortal]
    assert all(fleet.lacking(node) == [] for node in living)
    duplicates = sum(fleet.received[node, index] - 1 for node in living for index in range(pieces))
    assert duplicates <= owed * members
    assert all(not fleet.engines[node].unfinished(GENERATION) for node in [DEALER, *living])


def test_a_death_in_a_fleet_at_rest_sends_nothing_twice() -> None:
    fleet = Fleet(20, names(16))
    for index in range(10):
        fleet.engines[DEALER].deal(GENERATION, 1, index)
    fleet.run()
    fleet.die("n3")
    fleet.notice("n3")
    for index in range(10, 20):
        fleet.engines[DEALER].deal(GENERATION, 1, index)
    fleet.run()
    others = [node for node in fleet.members if node != "n3"]
    assert all(fleet.received[node, index] == 1 for node in others for index in range(20))


@pytest.mark.parametrize("frozen", ["n0", "n1"])
def test_two_members_one_frozen_do_not_lock(frozen: str) -> None:
    fleet = Fleet(30, names(2), piece_bytes=1 << 20)
    deal_all(fleet)
    fleet.silent.add(frozen)
    fleet.run()
    (other,) = set(fleet.members) - {frozen}
    fleet.notice(frozen)
    fleet.run()
    assert fleet.lacking(other) == []
    fleet.thaw(frozen)
    fleet.run()
    assert fleet.received[other, 0] >= 1
    assert sum(fleet.received[other, index] for index in range(30)) <= 30 + 4


@settings(deadline=None, max_examples=40)
@given(members=st.integers(2, 20), pieces=st.integers(2, 30), split=st.integers(0, 29), seed=st.integers(0, 1 << 30))
def test_a_late_joiner_gets_every_piece_from_its_epoch_on(members: int, pieces: int, split: int, seed: int) -> None:
    fleet = Fleet(pieces, names(members), seed)
    dealer = fleet.engines[DEALER]
    split = min(split, pieces)
    for index in range(split):
        dealer.deal(GENERATION, 1, index)
    fleet.run()
    fleet.members.append("late")
    fleet.add("late")
    ring = Ring(2, fleet.members, DEALER)
    for engine in fleet.engines.values():
        engine.add_ring(GENERATION, ring)
    dealer.replace_dealing(GENERATION, 1, ring)
    for index in range(split, pieces):
        dealer.deal(GENERATION, 2, index)
    fleet.run()
    assert fleet.lacking("late") == list(range(split))
    fill = Ring(3, ["late"], "n0")
    for node in ("n0", "late"):
        fleet.engines[node].add_ring(GENERATION, fill)
    fleet.engines["n0"].start_dealing(GENERATION, fill)
    for index in range(split):
        fleet.engines["n0"].deal(GENERATION, 3, index)
    fleet.run()
    assert fleet.received == {(node, index): 1 for node in fleet.members for index in range(pieces)}
    assert fleet.uploads[DEALER] == pieces


def test_uploads_are_even_when_roots_rotate() -> None:
    fleet = Fleet(160, names(16))
    deal_all(fleet)
    fleet.run()
    assert sum(fleet.uploads[node] for node in fleet.members) == 160 * 15
    assert max(fleet.uploads[node] for node in fleet.members) <= 160 * 1.15


def test_deals_wait_for_credit_and_credit_comes_before_the_acknowledgement() -> None:
    fleet = Fleet(40, names(8), piece_bytes=1 << 20)
    deal_all(fleet)
    assert fleet.engines[DEALER].undealt(GENERATION) == 40 - 4
    fleet.collect()
    (sender, root), queue = next((link, queue) for link, queue in fleet.links.items() if queue)
    push = queue.popleft()
    assert isinstance(push, Push)
    assert sender == DEALER
    fleet.deliver(DEALER, root, push)
    pushes = [action for action in fleet.engines[root].take_actions() if isinstance(action, Push)]
    assert len(pushes) == 4
    fleet.engines[root].written(pushes[0].tag)
    assert fleet.engines[root].take_actions() == []
    fleet.engines[root].written(pushes[1].tag)
    assert fleet.engines[root].take_actions() == [Credit(DEALER, push.tag)]


def test_a_span_that_does_not_fit_the_senders_place_is_refused() -> None:
    fleet = Fleet(1, names(9))
    ring = fleet.ring
    admit = fleet.engines["n3"].admit
    right = ring.place("n3", 0, 4)
    parent = ring.parent("n3", 0, 4)
    admit(parent, GENERATION, 0, 1, 0, right.span, False)
    with pytest.raises(ProtocolError, match="our place has span"):
        admit(parent, GENERATION, 0, 1, 0, right.span + 1, False)
    with pytest.raises(ProtocolError, match="our place has span"):
        admit("n8", GENERATION, 0, 1, 0, right.span, False)
    with pytest.raises(ProtocolError, match="isn't on the ring"):
        admit(parent, GENERATION, 0, 1, 99, right.span, False)
    with pytest.raises(ProtocolError, match="isn't a member"):
        admit("stranger", GENERATION, 0, 1, 0, right.span, True)


def test_a_replayed_push_is_acknowledged_and_not_served_again() -> None:
    fleet = Fleet(1, names(9))
    deal_all(fleet)
    fleet.collect()
    root, push = next(
        (link[1], action) for link, queue in fleet.links.items() for action in queue if isinstance(action, Push)
    )
    fleet.deliver(DEALER, root, push)
    assert fleet.engines[root].take_actions()
    fleet.engines[root].pushed(DEALER, push)
    assert [type(action).__name__ for action in fleet.engines[root].take_actions()] == ["Ack"]


def test_generations_that_wait_for_the_wire_take_turns() -> None:
    fleet = Fleet(20, names(3))
    dealer = fleet.engines[DEALER]
    other = GENERATION + 1
    for engine in fleet.engines.values():
        engine.open(other, fleet.held[engine.me], 1 << 20)
        engine.add_ring(other, fleet.ring)
    dealer.start_dealing(other, fleet.ring)
    for index in range(20):
        dealer.deal(GENERATION, 1, index)
        dealer.deal(other, 1, index)
    dealt: list[int] = []
    while pushes := [action for action in dealer.take_actions() if isinstance(action, Push)]:
        for push in pushes:
            dealt.append(push.generation)
            dealer.written(push.tag)
            dealer.acked(push.to, push.tag)
    assert sorted(dealt) == [GENERATION] * 20 + [other] * 20
    assert all(set(dealt[start : start + 4]) == {GENERATION, other} for start in range(4, 32, 4))


@settings(deadline=None, max_examples=60)
@given(
    members=st.integers(1, 20),
    leaves=st.integers(0, 6),
    pieces=st.integers(0, 20),
    fan=st.integers(1, 5),
    seed=st.integers(0, 1 << 30),
)
def test_leaves_get_every_piece_exactly_once_and_pass_nothing_on(
    members: int, leaves: int, pieces: int, fan: int, seed: int
) -> None:
    slow = tuple(f"slow{number}" for number in range(leaves))
    fleet = Fleet(pieces, names(members), seed, fan, leaves=slow)
    deal_all(fleet)
    fleet.run()
    everybody = [*fleet.members, *slow]
    assert fleet.received == {(node, index): 1 for node in everybody for index in range(pieces)}
    assert not any(fleet.uploads[node] for node in slow)
    assert not any(engine.unfinished(GENERATION) for engine in fleet.engines.values())


def test_nobody_waits_for_a_leaf() -> None:
    fleet = Fleet(30, names(5), piece_bytes=1 << 20, leaves=("slow",))
    fleet.silent.add("slow")
    deal_all(fleet)
    fleet.run()
    assert all(fleet.lacking(node) == [] for node in fleet.members)
    assert fleet.engines[DEALER].unfinished(GENERATION) == 0


@settings(deadline=None, max_examples=80)
@given(members=st.integers(3, 16), pieces=st.integers(1, 30), steps=st.integers(0, 400), seed=st.integers(0, 1 << 30))
def test_a_member_that_turns_out_slow_gives_up_its_spans(members: int, pieces: int, steps: int, seed: int) -> None:
    fleet = Fleet(pieces, names(members), seed)
    slow, others = fleet.members[-1], fleet.members[:-1]
    deal_all(fleet)
    fleet.silent.add(slow)
    for _ in range(steps):
        fleet.step()
    ring = Ring(2, others, DEALER, [slow])
    for node, engine in fleet.engines.items():
        if node != DEALER:
            engine.add_ring(GENERATION, ring)
    fleet.engines[DEALER].replace_dealing(GENERATION, 1, ring)
    fleet.run()
    assert all(fleet.lacking(node) == [] for node in others)
    fleet.silent.discard(slow)
    fleet.run()
    assert fleet.lacking(slow) == []
    duplicates = sum(fleet.received[node, index] - 1 for node in fleet.members for index in range(pieces))
    assert duplicates <= members
    assert not any(engine.unfinished(GENERATION) for engine in fleet.engines.values())


@pytest.mark.parametrize("known_before", [False, True])
def test_nobody_waits_for_an_acknowledgement_of_one_that_has_become_a_leaf(known_before: bool) -> None:
    """Nor for what was dealt over the ring on which it still stood."""
    fleet = Fleet(10, names(5), piece_bytes=1 << 20)
    slow, others = fleet.members[-1], fleet.members[:-1]
    ring = Ring(2, others, DEALER, [slow])
    fleet.silent.add(slow)

    def verdict() -> None:
        for node in others:
            fleet.engines[node].add_ring(GENERATION, ring)

    if known_before:
        verdict()
    deal_all(fleet)
    fleet.run()
    if not known_before:
        assert fleet.engines[DEALER].unfinished(GENERATION) > 2
        verdict()
    fleet.engines[DEALER].replace_dealing(GENERATION, 1, ring)
    fleet.run()
    assert all(fleet.lacking(node) == [] for node in others)
    assert all(fleet.engines[DEALER].owed_by(node) is False for node in others)


@settings(deadline=None, max_examples=60)
@given(members=st.integers(2, 16), pieces=st.integers(1, 20), steps=st.integers(0, 200), seed=st.integers(0, 1 << 30))
def test_a_member_that_is_back_is_offered_what_it_missed(members: int, pieces: int, steps: int, seed: int) -> None:
    """Frozen, given up, thawed: nobody has to ask the tracker for a fill."""
    fleet = Fleet(pieces, names(members), seed)
    deal_all(fleet)
    fleet.silent.add("n1")
    for _ in range(steps):
        fleet.step()
    fleet.notice("n1")
    fleet.run()
    fleet.thaw("n1")
    fleet.run()
    assert all(fleet.lacking(node) == [] for node in fleet.members)
    assert not any(engine.unfinished(GENERATION) for engine in fleet.engines.values())
