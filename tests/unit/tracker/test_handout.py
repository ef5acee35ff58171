"""Which neighbours an agent gets."""

import random

from hypothesis import given
from hypothesis import strategies as st

from p2pdist.tracker.fleet import Agent, Fleet
from p2pdist.tracker.handout import FAR_SHARE, NEIGHBOURS, neighbours
from p2pdist.wire.messages import Endpoint


def agents(zones: list[str]) -> list[Agent]:
    fleet, here = Fleet(10), Endpoint("10.0.0.1", 1)
    return [fleet.register(f"n{i}", "", zone, here, here, 0.0)[0] for i, zone in enumerate(zones)]


@given(st.lists(st.sampled_from(["east", "west"]), max_size=80), st.integers(1, 30), st.integers())
def test_as_many_as_there_are_near_ones_first_and_some_from_afar(zones: list[str], count: int, seed: int) -> None:
    candidates = agents(zones)
    chosen = neighbours("east", candidates, random.Random(seed), count)
    assert len({agent.node for agent in chosen}) == len(chosen) == min(count, len(candidates))
    near = sum(agent.member.zone == "east" for agent in chosen)
    far = len(chosen) - near
    assert near == zones.count("east") or far == min(zones.count("west"), count // FAR_SHARE)
    assert far >= min(zones.count("west"), count // FAR_SHARE)


def test_everybody_gets_a_turn() -> None:
    candidates, rng = agents(["east"] * 100), random.Random(1)
    drawn = {agent.node for _ in range(60) for agent in neighbours("east", candidates, rng)}
    assert len(drawn) == 100
    assert len(neighbours("east", candidates, rng)) == NEIGHBOURS
