"""How an agent that wants a blob gets it: which of relay and swarm, and where the relay's bytes come from. Pure.

Push what many want now, pull what somebody needs later (design.md, decision 1). While a blob is being dealt, whoever
comes joins its relay: that costs the tracker nothing but a new epoch, and members fill what was dealt before. Once an
agent holds it, everything has been dealt: holders give it by swarm and the tracker deals nothing. Only a small blob
whose relay hasn't ended is still joined: a fill needs no new connections and no tick of libtorrent's, which cost up to
a second, most of what such a blob takes by swarm. Private blobs don't swarm until there are encrypted torrents; they
are relayed anew, from the tracker's store if it has them.
"""

from dataclasses import dataclass
from enum import Enum, auto

SMALL_BYTES = 32 << 20


class Way(Enum):
    """An answer to a join."""

    JOIN_RELAY = auto()
    SWARM = auto()
    RELAY_FROM_STORE = auto()
    RELAY_FROM_ORIGIN = auto()


@dataclass(frozen=True, slots=True)
class Situation:
    """What the tracker knows of a blob when somebody asks for it."""

    being_dealt: bool
    dealt_not_ended: bool
    holders: int
    metainfo_known: bool
    size_bytes: int
    private: bool
    in_store: bool


def choose(situation: Situation) -> Way:
    """The way that the next agent takes."""
    can_swarm = situation.holders > 0 and situation.metainfo_known and not situation.private
    live = situation.being_dealt or situation.dealt_not_ended
    if can_swarm and not (live and situation.size_bytes <= SMALL_BYTES):
        return Way.SWARM
    if live:
        return Way.JOIN_RELAY
    return Way.RELAY_FROM_STORE if situation.in_store else Way.RELAY_FROM_ORIGIN
