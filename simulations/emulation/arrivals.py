"""When each host asks: waves of hosts, a wave beginning when the one before it has finished. Pure."""

import math
import random
from itertools import accumulate

from simulations.emulation.scenario import Scenario

Wave = dict[str, float]
"""Hosts, and how many seconds after the wave's first request each of them asks."""


def waves(scenario: Scenario, expected_seconds: float, seed: int) -> list[Wave]:
    """All hosts that pull, in waves; `expected_seconds` is what shares of the expected time are taken of.

    The same seed gives the same Poisson arrivals, the first of them at once.
    """
    early = [host for group in scenario.hosts if not group.holds and group.at is None for host in group.hosts]
    match scenario.arrival.pattern:
        case "at-once":
            first = dict.fromkeys(early, 0.0)
        case "poisson":
            chance = random.Random(seed)
            gaps = [0.0, *(chance.expovariate(scenario.arrival.per_second) for _ in early[1:])]
            first = dict(zip(early, accumulate(gaps), strict=True))
        case "batches":
            return _batches(early, math.ceil(scenario.arrival.batch * len(early)))
        case "one-by-one":
            return _batches(early, 1)
    late = {host: group.at for group in scenario.hosts if group.at is not None for host in group.hosts}
    return [first | {host: at.after(expected_seconds) for host, at in late.items()}]


def _batches(hosts: list[str], size: int) -> list[Wave]:
    return [dict.fromkeys(hosts[start : start + size], 0.0) for start in range(0, len(hosts), size)]
