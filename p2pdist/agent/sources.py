"""How long an agent waits for a way to give it a blob, and what it does then. Pure: times are parameters.

While the tracker is there, its word counts: it ends a relay that can't go on, so a relay that merely stands still is
waited for, and only pieces that are overdue are asked for again. Without the tracker the relay and the swarm finish
what they can; when nothing has come for a while, the rest is fetched from the origin (design.md, decision 7).
"""

from dataclasses import dataclass
from enum import Enum, auto

OVERDUE_SECONDS = 1.0
ORPHAN_SECONDS = 3.0
SWARM_IDLE_SECONDS = 5.0
SWARM_TRIES = 2
LACKING_TRIES = 8
JOIN_SECONDS = 15.0


class Way(Enum):
    """How a blob's bytes come at the moment."""

    RELAY = auto()
    SWARM = auto()


class Verdict(Enum):
    """What to do about a way."""

    WAIT = auto()
    SAY_LACKING = auto()
    ASK_AGAIN = auto()
    RESCUE = auto()


@dataclass(frozen=True, slots=True)
class Progress:
    """How a way is doing. `overdue_seconds`: for how long pieces before the newest one have been missing."""

    way: Way
    connected: bool
    idle_seconds: float
    overdue_seconds: float = 0.0
    said_lacking_seconds_ago: float | None = None
    lacking_tries: int = 0
    swarm_tries: int = 0


def judge(progress: Progress) -> Verdict:
    """What a pull does next."""
    if not progress.connected:
        return Verdict.RESCUE if progress.idle_seconds >= ORPHAN_SECONDS else Verdict.WAIT
    if progress.way is Way.SWARM:
        if progress.idle_seconds < SWARM_IDLE_SECONDS:
            return Verdict.WAIT
        return Verdict.ASK_AGAIN if progress.swarm_tries < SWARM_TRIES else Verdict.RESCUE
    if progress.overdue_seconds < OVERDUE_SECONDS:
        return Verdict.WAIT
    if progress.lacking_tries >= LACKING_TRIES and progress.idle_seconds >= ORPHAN_SECONDS:
        return Verdict.RESCUE
    ago = progress.said_lacking_seconds_ago
    return Verdict.SAY_LACKING if ago is None or ago >= OVERDUE_SECONDS else Verdict.WAIT


def may_rescue(code: str) -> bool:
    """Whether the origin is worth asking after the tracker failed with this OCI code: not after a clear no."""
    return code not in ("BLOB_UNKNOWN", "NAME_UNKNOWN", "DENIED", "UNAUTHORIZED", "DIGEST_INVALID", "UNSUPPORTED")
