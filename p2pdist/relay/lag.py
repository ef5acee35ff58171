"""Which children are slow. Pure: fed with how many pieces wait for each child, says who lags behind its siblings.

A child is slow only against its siblings: when this node's own uplink is the bottleneck, pieces wait for all of them. A
burst makes anybody's queue long for a moment, so a lag must last. What one parent says is not yet a verdict: the
tracker waits for several (tracker/slowness.py).
"""

from collections.abc import Mapping
from statistics import median

LAG_PIECES = 16
SIBLINGS_FACTOR = 4
LAG_TICKS = 15
FEWEST_CHILDREN = 3


class LagWatch:
    """Remembers for how many ticks each child has lagged."""

    def __init__(self) -> None:
        self._ticks: dict[str, int] = {}

    def tick(self, waiting: Mapping[str, int]) -> list[str]:
        """The children whose lag has just lasted long enough; `waiting`: pieces queued for each child that is sent to.

        Each is named again after as many ticks as long as it lasts.
        """
        lagging = {node for node in waiting if self._lags(node, waiting)}
        self._ticks = {node: self._ticks.get(node, 0) + 1 for node in lagging}
        return [node for node, ticks in self._ticks.items() if ticks % LAG_TICKS == 0]

    def _lags(self, node: str, waiting: Mapping[str, int]) -> bool:
        if len(waiting) < FEWEST_CHILDREN:
            return False
        siblings = median(count for other, count in waiting.items() if other != node)
        return waiting[node] >= LAG_PIECES + SIBLINGS_FACTOR * siblings
