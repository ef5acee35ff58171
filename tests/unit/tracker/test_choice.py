"""Relay or swarm, and from whom."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.tracker.choice import SMALL_BYTES, Situation, Way, choose

NOTHING = Situation(False, False, 0, False, 0, False, False)
HELD = replace(NOTHING, holders=1, metainfo_known=True, size_bytes=SMALL_BYTES + 1)


@pytest.mark.parametrize(
    ("situation", "way"),
    [
        (NOTHING, Way.RELAY_FROM_ORIGIN),
        (replace(NOTHING, in_store=True), Way.RELAY_FROM_STORE),
        (replace(NOTHING, being_dealt=True), Way.JOIN_RELAY),
        (replace(NOTHING, dealt_not_ended=True), Way.JOIN_RELAY),
        (HELD, Way.SWARM),
        (replace(HELD, in_store=True), Way.SWARM),
        (replace(HELD, being_dealt=True), Way.SWARM),
        (replace(HELD, dealt_not_ended=True, size_bytes=SMALL_BYTES), Way.JOIN_RELAY),
        (replace(HELD, metainfo_known=False), Way.RELAY_FROM_ORIGIN),
        (replace(HELD, private=True, in_store=True), Way.RELAY_FROM_STORE),
        (replace(HELD, private=True), Way.RELAY_FROM_ORIGIN),
    ],
)
def test_the_way(situation: Situation, way: Way) -> None:
    assert choose(situation) is way


FLAGS = st.booleans()


@given(st.builds(Situation, FLAGS, FLAGS, st.integers(0, 3), FLAGS, st.integers(0, 1 << 21), FLAGS, FLAGS))
def test_every_way_is_possible_where_it_is_chosen(situation: Situation) -> None:
    match choose(situation):
        case Way.SWARM:
            assert situation.holders
            assert situation.metainfo_known
            assert not situation.private
        case Way.JOIN_RELAY:
            assert situation.being_dealt or situation.dealt_not_ended
        case Way.RELAY_FROM_STORE:
            assert situation.in_store
        case Way.RELAY_FROM_ORIGIN:
            assert not situation.in_store
            assert not situation.being_dealt
