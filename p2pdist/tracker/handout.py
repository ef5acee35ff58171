"""Which neighbours an agent gets in a swarm. Pure.

Twenty are enough: with rarest first, 20 or more reach 1.07-1.14 x bound and 10 reach 1.2-1.3 (facts.md, "Theory").
Those of the own zone come first, but a quarter comes from elsewhere, so that zones don't become islands.
"""

import random
from collections.abc import Sequence

from p2pdist.tracker.fleet import Agent

NEIGHBOURS = 20
FAR_SHARE = 4


def neighbours(zone: str, candidates: Sequence[Agent], rng: random.Random, count: int = NEIGHBOURS) -> list[Agent]:
    """Up to `count` of `candidates` for an agent in `zone`."""
    near = [agent for agent in candidates if agent.member.zone == zone]
    far = [agent for agent in candidates if agent.member.zone != zone]
    from_far = min(len(far), max(count - len(near), count // FAR_SHARE))
    from_near = min(len(near), count - from_far)
    return rng.sample(near, from_near) + rng.sample(far, from_far)
