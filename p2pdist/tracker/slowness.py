"""Which agents are slow, and which are silent. Pure: the clock is a parameter.

Measured, not configured: agents say to whom their pieces go more slowly than to others (relay/lag.py). One of them may
be wrong about a path; so it takes several, more in a larger relay, where more could have said so. Who is slow stands
beside the ring for some time, in every relay, and is then tried on a ring again; when more than a third of a ring's
members are slow, all of them stay on it. Who is silent, by the tracker's own probe, is left out until it is heard.
"""

from collections.abc import Sequence
from math import log

WITNESSES = 2
MOST_WITNESSES = 4
WITNESS_SECONDS = 5.0
SLOW_SECONDS = 600.0
MOST_LEAVES = 1 / 3
SMALL_FLEET = 4
PARENTS_A_WITNESS = 3


def witnesses_needed(members: int, fan: int) -> int:
    """How many must agree in a relay of so many members: a third of the parents that a member has, about, but few.

    Most of a member's pieces come from its few nearest parents, so no more than these notice that it is slow.
    """
    if members < SMALL_FLEET:
        return 1
    return min(MOST_WITNESSES, max(WITNESSES, round(fan * log(members, fan) / PARENTS_A_WITNESS)))


class Slowness:
    """What was said of whom, and when."""

    def __init__(self) -> None:
        self._said: dict[str, dict[str, float]] = {}
        self._slow: dict[str, float] = {}
        self._silent: set[str] = set()

    def lags(self, witness: str, node: str, needed: int, now: float) -> bool:
        """`witness` says that `node` lags; True when that makes it slow, anew."""
        if witness == node:
            return False
        said = self._said.setdefault(node, {})
        said[witness] = now
        for other in [other for other, at in said.items() if now - at > WITNESS_SECONDS]:
            del said[other]
        if len(said) < needed:
            return False
        was_slow = self.is_slow(node, now)
        self._slow[node] = now + SLOW_SECONDS
        return not was_slow

    def silent(self, node: str) -> None:
        """`node` gave no sign of life when it was asked for one."""
        self._silent.add(node)

    def heard(self, node: str) -> bool:
        """The tracker has a sign of life of `node`; True when that takes it in again."""
        if node not in self._silent:
            return False
        self._silent.discard(node)
        return True

    def is_slow(self, node: str, now: float) -> bool:
        """Whether `node` is to be a leaf."""
        return self._slow.get(node, 0.0) > now

    def is_silent(self, node: str) -> bool:
        """Whether `node` is to be left out."""
        return node in self._silent

    def forget(self, node: str) -> None:
        """The agent is gone."""
        self._said.pop(node, None)
        self._slow.pop(node, None)
        self.heard(node)

    def leaves(self, members: Sequence[str], now: float) -> list[str]:
        """The members that stand beside the ring, in their order.

        Nobody does when more than a third would: where downlinks are the limit, everybody lags for somebody.
        """
        slow = [node for node in members if self.is_slow(node, now)]
        return slow if len(slow) <= len(members) * MOST_LEAVES else []
