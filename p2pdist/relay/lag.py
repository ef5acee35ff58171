"""Which children are slow. Pure: fed with how much waits for each child, says who lags behind its siblings.

What counts is for how long the oldest piece that waits for a child has waited, not how many wait: in a fleet of a
thousand a parent has seven pieces a second for any one child, in one of sixteen it has forty. A child is slow only
against its siblings: when this node's own uplink is the bottleneck, pieces wait for all of them. What one parent says
is not yet a verdict: the tracker waits for several (tracker/slowness.py).
"""

from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import NamedTuple

LAG_TICKS = 12
SIBLINGS_FACTOR = 4
AGAIN_TICKS = 15
FEWEST_CHILDREN = 3


class Queue(NamedTuple):
    """The pieces for one child: how many were ever queued, and how many of them still wait."""

    queued: int
    waiting: int


class LagWatch:
    """Remembers when what waits for each child was queued."""

    def __init__(self) -> None:
        self._tick = 0
        self._queued_at: dict[str, deque[tuple[int, int]]] = {}
        self._lags_since: dict[str, int] = {}

    def tick(self, queues: Mapping[str, Queue]) -> list[str]:
        """The children that lag now and didn't, or have for another while; `queues` are of those that are sent to."""
        self._tick += 1
        ages = {node: self._age(node, queue) for node, queue in queues.items()}
        for node in [node for node in self._queued_at if node not in queues]:
            del self._queued_at[node]
        since = self._lags_since
        self._lags_since = {
            node: since.get(node, self._tick) for node in queues if ages[node] >= LAG_TICKS and self._lags(node, ages)
        }
        return [node for node, at in self._lags_since.items() if (self._tick - at) % AGAIN_TICKS == 0]

    def _age(self, node: str, queue: Queue) -> int:
        """For how many ticks the oldest piece that waits for `node` has waited."""
        marks = self._queued_at.setdefault(node, deque())
        gone = queue.queued - queue.waiting
        if not marks or marks[-1][1] < queue.queued:
            marks.append((self._tick, queue.queued))
        while len(marks) > 1 and marks[0][1] <= gone:
            marks.popleft()
        return self._tick - marks[0][0] if queue.waiting else 0

    def _lags(self, node: str, ages: Mapping[str, int]) -> bool:
        if len(ages) < FEWEST_CHILDREN:
            return False
        siblings = median(age for other, age in ages.items() if other != node)
        return ages[node] >= LAG_TICKS + SIBLINGS_FACTOR * siblings
