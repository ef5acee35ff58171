"""A relay, dealt by whom, or a swarm."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.tracker.choice import Situation, Way, choose

NOTHING = Situation(live=False, holders=0, metainfo_known=False, private=False, in_store=False)
HELD = replace(NOTHING, holders=1, metainfo_known=True)
FRUITLESS = replace(HELD, fruitless=True)


@pytest.mark.parametrize(
    ("situation", "way"),
    [
        (NOTHING, Way.RELAY_FROM_ORIGIN),
        (replace(NOTHING, in_store=True), Way.RELAY_FROM_STORE),
        (replace(NOTHING, live=True), Way.JOIN_RELAY),
        (HELD, Way.RELAY_FROM_HOLDERS),
        (replace(HELD, in_store=True), Way.RELAY_FROM_HOLDERS),
        (replace(HELD, private=True, in_store=True), Way.RELAY_FROM_HOLDERS),
        (replace(HELD, live=True), Way.JOIN_RELAY),
        (replace(HELD, metainfo_known=False), Way.RELAY_FROM_ORIGIN),
        (FRUITLESS, Way.SWARM),
        (replace(FRUITLESS, live=True), Way.SWARM),
        (replace(FRUITLESS, private=True), Way.RELAY_FROM_HOLDERS),
        (replace(FRUITLESS, private=True, live=True), Way.JOIN_RELAY),
        (replace(FRUITLESS, holders=0, in_store=True), Way.RELAY_FROM_STORE),
        (replace(FRUITLESS, metainfo_known=False), Way.RELAY_FROM_ORIGIN),
    ],
)
def test_the_way(situation: Situation, way: Way) -> None:
    assert choose(situation) is way


FLAGS = st.booleans()


@given(st.builds(Situation, FLAGS, st.integers(0, 3), FLAGS, FLAGS, FLAGS, FLAGS))
def test_every_way_is_possible_where_it_is_chosen(situation: Situation) -> None:
    match choose(situation):
        case Way.SWARM:
            assert situation.holders
            assert situation.metainfo_known
            assert not situation.private
            assert situation.fruitless
        case Way.JOIN_RELAY:
            assert situation.live
        case Way.RELAY_FROM_HOLDERS:
            assert situation.holders
            assert situation.metainfo_known
            assert not situation.live
        case Way.RELAY_FROM_STORE:
            assert situation.in_store
        case Way.RELAY_FROM_ORIGIN:
            assert not situation.in_store
            assert not situation.live


@given(st.builds(Situation, FLAGS, st.integers(1, 3), st.just(True), FLAGS, FLAGS, FLAGS))
def test_what_agents_hold_costs_the_tracker_no_new_copy(situation: Situation) -> None:
    assert choose(situation) in (Way.SWARM, Way.JOIN_RELAY, Way.RELAY_FROM_HOLDERS)
