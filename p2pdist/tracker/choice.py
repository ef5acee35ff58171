"""How an agent that wants a blob gets it. Pure.

While a blob is being distributed, whoever comes joins: that costs the tracker nothing but a new epoch or some fills,
and members fill what was dealt before. Else agents that hold it deal it, and the tracker sends no byte. Only what
nobody holds comes from the tracker's store, or from the origin.

The swarm is for those whom the relay has brought nothing from holders. It was the first way to these: measured
(simulations/README.md), a relay that holders deal is nearer to the bound, takes a fraction of libtorrent's CPU, begins
at once instead of at libtorrent's next tick, and works for private blobs, too.

Private blobs never swarm. Encrypted torrents would do (facts.md, "Encrypted swarms"), but need a certificate for each
agent and image, with a CA of their own that is part of the info-hash, cost libtorrent's CPU half as much again, and
leave a torrent for strangers to knock at. The relay's TLS knows each member by its fleet certificate, and its rings
hold only those whose callers an upstream lets read the blob; a peer that knows the info-hash finds no torrent. What the
swarm would be for, members whom a relay from holders brought nothing, begins anew with other holders, and ends at the
origin with the caller's token.
"""

from dataclasses import dataclass
from enum import Enum, auto


class Way(Enum):
    """An answer to a join."""

    JOIN_RELAY = auto()
    RELAY_FROM_HOLDERS = auto()
    SWARM = auto()
    RELAY_FROM_STORE = auto()
    RELAY_FROM_ORIGIN = auto()


@dataclass(frozen=True, slots=True)
class Situation:
    """What the tracker knows of a blob when somebody asks for it; `fruitless`: the last way brought nothing."""

    live: bool
    holders: int
    metainfo_known: bool
    private: bool
    in_store: bool
    fruitless: bool = False


def choose(situation: Situation) -> Way:
    """The way that the next agent takes."""
    held = situation.holders > 0 and situation.metainfo_known
    if held and situation.fruitless and not situation.private:
        return Way.SWARM
    if situation.live:
        return Way.JOIN_RELAY
    if held:
        return Way.RELAY_FROM_HOLDERS
    return Way.RELAY_FROM_STORE if situation.in_store else Way.RELAY_FROM_ORIGIN
