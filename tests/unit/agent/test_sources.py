import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.agent.sources import (
    FRUITLESS_TRIES,
    GAP_PIECES,
    GAP_SECONDS,
    LACKING_TRIES,
    ORPHAN_SECONDS,
    STALLED_SECONDS,
    SWARM_IDLE_SECONDS,
    SWARM_TRIES,
    Clock,
    Progress,
    Verdict,
    Way,
    grace_seconds,
    judge,
    may_rescue,
    overdue,
)
from p2pdist.core.errors import (
    BlobUnknown,
    Denied,
    DigestInvalid,
    InvalidInput,
    NotFound,
    P2PDistError,
    ProtocolError,
    StoreError,
    Unavailable,
)
from p2pdist.core.pieces import PieceSet
from p2pdist.store.errors import StoreFull
from p2pdist.swarm import SwarmStorageError

RELAY, SWARM = Way.RELAY, Way.SWARM


@pytest.mark.parametrize(
    ("progress", "verdict"),
    [
        (Progress(RELAY, True, 0.0), Verdict.WAIT),
        (Progress(RELAY, True, STALLED_SECONDS - 1), Verdict.WAIT),
        (Progress(RELAY, True, STALLED_SECONDS), Verdict.RESCUE),
        (Progress(RELAY, True, 5.0, overdue_seconds=0.9), Verdict.WAIT),
        (Progress(RELAY, True, 5.0, overdue_seconds=1.0), Verdict.SAY_LACKING),
        (Progress(RELAY, True, 0.1, overdue_seconds=GAP_SECONDS - 0.1), Verdict.WAIT),
        (Progress(RELAY, True, 0.1, overdue_seconds=GAP_SECONDS), Verdict.SAY_LACKING),
        (Progress(RELAY, True, 5.0, 3.0, said_lacking_seconds_ago=0.5, lacking_tries=1), Verdict.WAIT),
        (Progress(RELAY, True, 5.0, 3.0, said_lacking_seconds_ago=1.0, lacking_tries=1), Verdict.SAY_LACKING),
        (Progress(RELAY, True, 5.0, 9.0, 1.0, LACKING_TRIES), Verdict.RESCUE),
        (Progress(RELAY, True, 0.1, GAP_SECONDS, 1.0, LACKING_TRIES), Verdict.SAY_LACKING),
        (Progress(RELAY, False, ORPHAN_SECONDS - 0.1, 9.0), Verdict.WAIT),
        (Progress(RELAY, False, ORPHAN_SECONDS), Verdict.RESCUE),
        (Progress(SWARM, False, ORPHAN_SECONDS - 0.1), Verdict.WAIT),
        (Progress(SWARM, False, ORPHAN_SECONDS), Verdict.RESCUE),
        (Progress(SWARM, True, SWARM_IDLE_SECONDS - 0.1, fruitless=9), Verdict.WAIT),
        (Progress(SWARM, True, SWARM_IDLE_SECONDS), Verdict.ASK_AGAIN),
        (Progress(SWARM, True, SWARM_IDLE_SECONDS, fruitless=SWARM_TRIES), Verdict.RESCUE),
    ],
)
def test_what_a_pull_does(progress: Progress, verdict: Verdict) -> None:
    assert judge(progress) is verdict


@given(
    st.sampled_from(Way),
    st.booleans(),
    st.floats(0, 1e4),
    st.none() | st.floats(0, 1e4),
    st.integers(0, 100),
    st.integers(0, 100),
)
def test_nothing_is_waited_for_for_ever(
    way: Way, connected: bool, overdue: float, ago: float | None, tries: int, fruitless: int
) -> None:
    stalled = Progress(way, connected, STALLED_SECONDS, overdue, ago, tries, fruitless)
    assert judge(stalled) in (Verdict.RESCUE, Verdict.ASK_AGAIN)
    asked_enough = Progress(way, connected, STALLED_SECONDS, overdue, ago, tries, FRUITLESS_TRIES)
    assert judge(asked_enough) is Verdict.RESCUE


def test_a_tracker_that_may_only_restart_is_waited_for() -> None:
    assert grace_seconds(0.0) == ORPHAN_SECONDS
    assert grace_seconds(ORPHAN_SECONDS + 1) == 0.0


def _coded(code: str) -> P2PDistError:
    error = ProtocolError("no")
    error.oci_code = code
    return error


@pytest.mark.parametrize(
    ("error", "worth"),
    [
        (Unavailable("the tracker is gone"), True),
        (ProtocolError("it talks nonsense"), True),
        (SwarmStorageError("libtorrent can't read it"), True),
        (StoreFull("no room"), False),
        (StoreError("read-only"), False),
        (BlobUnknown("404"), False),
        (NotFound("404"), False),
        (Denied("403"), False),
        (DigestInvalid("wrong bytes"), False),
        (InvalidInput("no such name"), False),
        (_coded("DENIED"), False),
        (_coded("UNAVAILABLE"), True),
    ],
)
def test_when_the_origin_is_asked(error: P2PDistError, worth: bool) -> None:
    assert may_rescue(error) is worth


def test_a_piece_is_overdue_when_many_behind_it_came() -> None:
    clock = Clock(0, 10.0)
    clock.look(GAP_PIECES, 0, 1, False, 11.0)
    assert (clock.idle_seconds(11.0), clock.overdue_seconds(11.0)) == (0.0, 0.0)
    clock.look(GAP_PIECES + 1, 0, 1, False, 12.0)
    clock.look(GAP_PIECES + 2, 0, 1, False, 13.0)
    assert clock.overdue_seconds(13.5) == 1.5
    clock.look(GAP_PIECES + 3, 1, 1, False, 14.0)
    assert clock.overdue_seconds(14.0) == 0.0
    assert clock.idle_seconds(16.0) == 2.0


def test_when_everything_was_dealt_whatever_is_missing_is_overdue_once_nothing_comes() -> None:
    clock = Clock(0, 0.0)
    clock.look(2, 1, 1, True, 1.0)
    clock.look(3, 1, 1, True, 2.0)
    assert clock.overdue_seconds(2.5) == 0.5
    clock.look(3, 1, 1, True, 3.0)
    assert clock.overdue_seconds(4.0) == 2.0


def test_what_is_asked_for_is_what_was_dealt_or_lies_well_before_the_newest_piece() -> None:
    pieces = PieceSet(40, [*range(5), 39])
    assert list(overdue(pieces, everything_dealt=True)) == list(range(5, 39))
    assert list(overdue(pieces, everything_dealt=False)) == list(range(5, 39 - GAP_PIECES))
    assert list(overdue(PieceSet(3), everything_dealt=False)) == []
