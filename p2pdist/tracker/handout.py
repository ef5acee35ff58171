"""Which neighbours an agent gets in a swarm. Pure.

Twenty are enough: with rarest first, 20 or more reach 1.07-1.14 x bound and 10 reach 1.2-1.3 (facts.md, "Theory").
Those of the own zone come first; the rest are drawn, so that all swarms together stay connected.
"""

import random
from collections.abc import Sequence

from p2pdist.tracker.fleet import Agent

NEIGHBOURS = 20


def neighbours(zone: str, candidates: Sequence[Agent], rng: random.Random, count: int = NEIGHBOURS) -> list[Agent]:
    """Up to `count` of `candidates` for an agent in `zone`."""
    drawn = rng.sample(candidates, len(candidates))
    drawn.sort(key=lambda agent: agent.member.zone != zone)
    return drawn[:count]
