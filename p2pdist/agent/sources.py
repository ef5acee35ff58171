"""How long an agent waits for a way to give it a blob, and what it does then. Pure: times are parameters.

While the tracker is there, its word counts: it ends a relay that can't go on, so a relay that merely stands still is
waited for, and only pieces that are overdue are asked for again: when nothing else comes either, since parents that
live hand on what a lost child had, and a slow member's pieces come late and out of order anyway; or after long. Without
the tracker the relay and the swarm finish what they can; when nothing has come for a while, the rest is fetched from
the origin (design.md, decision 7). Nothing is waited for without a limit: a tracker that beats but brings nothing for a
minute isn't believed any more, and one that doesn't even answer when it is asked for a sign of life is gone.
"""

from dataclasses import dataclass
from enum import Enum, auto

from p2pdist.core.errors import Denied, DigestInvalid, InvalidInput, NotFound, P2PDistError, StoreError, Unavailable
from p2pdist.core.pieces import PieceSet

OVERDUE_SECONDS = 1.0
OVERDUE_PIECE_TIMES = 4
GAP_SECONDS = 10.0
GAP_PIECE_TIMES = 512
ORPHAN_SECONDS = 3.0
QUIET_SECONDS = 1.0
QUIET_SECONDS_A_MEMBER = 0.001
STALLED_SECONDS = 60.0
SWARM_IDLE_SECONDS = 5.0
SWARM_TRIES = 2
LACKING_TRIES = 3
FRUITLESS_TRIES = 5
JOIN_SECONDS = 15.0
GAP_PIECES = 16


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
    """How a way is doing.

    `overdue_seconds`: for how long pieces before the newest one have been missing. `fruitless`: how many ways in a row
    before this one brought nothing. `piece_seconds`: how long a piece has taken on average.
    """

    way: Way
    connected: bool
    idle_seconds: float
    overdue_seconds: float = 0.0
    said_lacking_seconds_ago: float | None = None
    lacking_tries: int = 0
    fruitless: int = 0
    piece_seconds: float = 0.0

    @property
    def patience_seconds(self) -> float:
        """How long nothing may come although something should: a few times what large pieces take on a slow link."""
        return max(OVERDUE_SECONDS, OVERDUE_PIECE_TIMES * self.piece_seconds)

    @property
    def gap_seconds(self) -> float:
        """How long a piece may be missing while others come: queues before a slow link are hundreds of pieces long."""
        return GAP_SECONDS + GAP_PIECE_TIMES * self.piece_seconds


def judge(progress: Progress) -> Verdict:
    """What a pull does next."""
    if not progress.connected:
        return Verdict.RESCUE if progress.idle_seconds >= ORPHAN_SECONDS else Verdict.WAIT
    if progress.way is Way.SWARM:
        if progress.idle_seconds < SWARM_IDLE_SECONDS:
            return Verdict.WAIT
        return Verdict.ASK_AGAIN if progress.fruitless < SWARM_TRIES else Verdict.RESCUE
    if progress.idle_seconds >= STALLED_SECONDS:
        return Verdict.RESCUE
    if (
        min(progress.overdue_seconds, progress.idle_seconds) < progress.patience_seconds
        and progress.overdue_seconds < progress.gap_seconds
    ):
        return Verdict.WAIT
    standstill = max(ORPHAN_SECONDS, 2 * progress.patience_seconds)
    if progress.lacking_tries >= LACKING_TRIES and progress.idle_seconds >= standstill:
        return Verdict.RESCUE
    ago = progress.said_lacking_seconds_ago
    return Verdict.SAY_LACKING if ago is None or ago >= OVERDUE_SECONDS else Verdict.WAIT


def overdue(pieces: PieceSet, everything_dealt: bool) -> PieceSet:
    """The pieces to ask for: all that are missing of what was dealt, or those well before the newest one that came."""
    newest = max(pieces, default=0)
    return PieceSet(
        pieces.count, (index for index in pieces.missing() if everything_dealt or index + GAP_PIECES < newest)
    )


def quiet_seconds(members: int) -> float:
    """How long the tracker of so many may say nothing while a pull stands still, until it is asked for a sign of life.

    When an origin stands still, all of them ask.
    """
    return max(QUIET_SECONDS, QUIET_SECONDS_A_MEMBER * members)


def grace_seconds(down_seconds: float) -> float:
    """How long a pull still waits for a tracker that has been gone for `down_seconds`, before it asks the origin.

    A tracker that restarts is back within a second or two; a fleet that doesn't wait for it stampedes the origin.
    """
    return max(0.0, ORPHAN_SECONDS - down_seconds)


_FINAL = (NotFound, Denied, DigestInvalid)
_FINAL_CODES = frozenset({"BLOB_UNKNOWN", "NAME_UNKNOWN", "DENIED", "UNAUTHORIZED", "DIGEST_INVALID", "UNSUPPORTED"})


def may_rescue(error: P2PDistError) -> bool:
    """Whether the origin is worth asking after this error: not after a clear no, nor when our own disk is the matter.

    A torrent's trouble with its file (`Unavailable` by its code) isn't the disk's for sure, so it doesn't count.
    """
    if isinstance(error, StoreError) and error.oci_code != Unavailable.oci_code:
        return False
    return not isinstance(error, (*_FINAL, InvalidInput)) and error.oci_code not in _FINAL_CODES


class Clock:
    """Since when nothing has come, and since when something that should have come is missing."""

    def __init__(self, present_bytes: int, now: float) -> None:
        self._began = (present_bytes, now)
        self._present_bytes = present_bytes
        self._moved_at = now
        self._gap_at = 0
        self._overdue_since: float | None = None

    def look(
        self, present_bytes: int, contiguous_bytes: int, piece_bytes: int, everything_dealt: bool, now: float
    ) -> None:
        """Take note of how much is here, in all and without a gap.

        A piece is overdue when everything was dealt or when many pieces behind it have come; it is given anew time
        whenever the first gap moves, and, once everything was dealt, whenever anything comes.
        """
        moved = present_bytes != self._present_bytes
        if moved:
            self._present_bytes, self._moved_at = present_bytes, now
        overdue = everything_dealt or present_bytes > contiguous_bytes + piece_bytes * GAP_PIECES
        if not overdue or contiguous_bytes != self._gap_at or (everything_dealt and moved):
            self._overdue_since = None
        if overdue and self._overdue_since is None:
            self._overdue_since = now
        self._gap_at = contiguous_bytes

    def piece_seconds(self, piece_bytes: int) -> float:
        """How long a piece has taken on average while pieces came; 0 before any did."""
        began_bytes, began = self._began
        came_bytes = self._present_bytes - began_bytes
        return (self._moved_at - began) * piece_bytes / came_bytes if came_bytes > 0 else 0.0

    def idle_seconds(self, now: float) -> float:
        """How long ago anything came."""
        return now - self._moved_at

    def overdue_seconds(self, now: float) -> float:
        """For how long something has been missing that should be here."""
        return 0.0 if self._overdue_since is None else now - self._overdue_since
