"""When a silent peer counts as frozen; the clock is a number."""

from p2pdist.relay.liveness import FROZEN_SECONDS, SILENT_SECONDS, STUCK_SECONDS, Liveness

MARK = 100_000


def silent() -> Liveness:
    """A peer that was pinged when MARK bytes were to be delivered before the ping."""
    liveness = Liveness(heard_at=0.0)
    assert liveness.wants_ping(SILENT_SECONDS)
    liveness.pinged(SILENT_SECONDS, MARK)
    return liveness


def test_a_peer_that_speaks_is_not_pinged() -> None:
    liveness = Liveness(0.0)
    liveness.heard(5.0)
    assert not liveness.wants_ping(5.0 + SILENT_SECONDS / 2)


def test_a_peer_that_answers_is_alive() -> None:
    liveness = silent()
    liveness.heard(0.4)
    assert not liveness.is_frozen(10.0, MARK, idle=True)


def test_a_peer_that_answers_nothing_is_frozen_within_a_second() -> None:
    liveness = silent()
    assert not liveness.is_frozen(SILENT_SECONDS, MARK, idle=True)
    assert not liveness.is_frozen(SILENT_SECONDS + FROZEN_SECONDS / 2, MARK, idle=True)
    assert liveness.is_frozen(SILENT_SECONDS + FROZEN_SECONDS, MARK, idle=True)
    assert SILENT_SECONDS + FROZEN_SECONDS < 1.0


def test_bytes_before_the_ping_excuse_a_peer_behind_a_thin_link() -> None:
    liveness = silent()
    for step in range(1, 20):
        assert not liveness.is_frozen(SILENT_SECONDS + step * 0.1, step * 5_000, idle=False)


def test_bytes_behind_the_ping_excuse_nobody() -> None:
    """The kernel of a stopped process goes on taking bytes."""
    liveness = silent()
    assert not liveness.is_frozen(SILENT_SECONDS + 0.1, MARK, idle=False)
    assert not liveness.is_frozen(SILENT_SECONDS + 0.3, MARK + 50_000, idle=False)
    assert liveness.is_frozen(SILENT_SECONDS + 0.1 + FROZEN_SECONDS, MARK + 90_000, idle=False)


def test_bytes_that_do_not_move_excuse_nobody() -> None:
    liveness = silent()
    assert not liveness.is_frozen(SILENT_SECONDS + 0.1, 500, idle=False)
    assert liveness.is_frozen(SILENT_SECONDS + 0.1 + STUCK_SECONDS, 500, idle=False)


def test_silence_before_anything_was_owed_does_not_count() -> None:
    liveness = Liveness(0.0)
    liveness.owing_since(100.0)
    assert not liveness.wants_ping(100.1)
