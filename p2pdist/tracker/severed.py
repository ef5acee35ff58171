"""Which agents can't get from which, although both live: the way between the two is broken. Pure.

Whoever lacks pieces names nobody, but the tracker knows who was to deal them. That a piece is late once may be a queue;
who lacks pieces of the same dealer twice in one generation isn't given that dealer again for a while.
"""

from collections import Counter

SEVERED_SECONDS = 60.0
TIMES = 2


class Severed:
    """Pairs of an agent and a dealer; `now` is a parameter."""

    def __init__(self) -> None:
        self._lacked: Counter[tuple[int, str, str]] = Counter()
        self._since: dict[tuple[str, str], float] = {}

    def lacks(self, generation: int, agent: str, dealer: str, now: float) -> None:
        """`agent` lacks pieces that `dealer` was to deal."""
        self._lacked[generation, agent, dealer] += 1
        if self._lacked[generation, agent, dealer] >= TIMES:
            self._since[agent, dealer] = now

    def between(self, agent: str, dealer: str, now: float) -> bool:
        """Whether `agent` shouldn't be dealt to by `dealer`."""
        since = self._since.get((agent, dealer))
        return since is not None and now - since < SEVERED_SECONDS

    def ended(self, generation: int) -> None:
        """Forget what was counted in a generation."""
        for key in [key for key in self._lacked if key[0] == generation]:
            del self._lacked[key]

    def gone(self, node: str) -> None:
        """An agent has gone; when it comes back it may be reached otherwise."""
        for pair in [pair for pair in self._since if node in pair]:
            del self._since[pair]
