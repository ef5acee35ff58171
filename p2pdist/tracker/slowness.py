"""Which agents are slow. Pure: the clock is a parameter.

Measured, not configured: agents say to whom their pieces go more slowly than to others (relay/lag.py). One of them may
be wrong about a path; when several agree, the agent is slow, for every relay, until its time is over and it is tried on
a ring again. At most a third of a relay's members stand beside its ring, those that were called slow last.
"""

from collections.abc import Sequence

WITNESSES = 2
WITNESS_SECONDS = 5.0
SLOW_SECONDS = 600.0
MOST_LEAVES = 1 / 3
SMALL_FLEET = 4


class Slowness:
    """What was said of whom, and when."""

    def __init__(self) -> None:
        self._said: dict[str, dict[str, float]] = {}
        self._slow: dict[str, float] = {}

    def report(self, witness: str, node: str, members: int, now: float) -> bool:
        """`witness` says that `node` lags; True when that makes it slow. `members`: how many could have said so."""
        if witness == node:
            return False
        said = self._said.setdefault(node, {})
        said[witness] = now
        for other in [other for other, at in said.items() if now - at > WITNESS_SECONDS]:
            del said[other]
        if len(said) < (WITNESSES if members >= SMALL_FLEET else 1):
            return False
        was_slow = self.is_slow(node, now)
        self._slow[node] = now + SLOW_SECONDS
        return not was_slow

    def is_slow(self, node: str, now: float) -> bool:
        """Whether `node` is to be a leaf."""
        return self._slow.get(node, 0.0) > now

    def forget(self, node: str) -> None:
        """The agent is gone."""
        self._said.pop(node, None)
        self._slow.pop(node, None)

    def leaves(self, members: Sequence[str], now: float) -> list[str]:
        """The members that stand beside the ring, in their order."""
        slow = [node for node in members if self.is_slow(node, now)]
        kept = sorted(slow, key=lambda node: self._slow[node], reverse=True)[: int(len(members) * MOST_LEAVES)]
        return [node for node in slow if node in kept]
