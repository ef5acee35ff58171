"""When a silent peer counts as frozen; the clock is a number."""

from p2pdist.relay.liveness import FROZEN_SECONDS, SILENT_SECONDS, STUCK_SECONDS, Liveness


def silent(unsent_bytes: int = 0) -> Liveness:
    liveness = Liveness(heard_at=0.0, drained_at=0.0)
    assert liveness.wants_ping(SILENT_SECONDS)
    liveness.pinged(SILENT_SECONDS)
    assert not liveness.is_frozen(SILENT_SECONDS, unsent_bytes)
    return liveness


def test_a_peer_that_speaks_is_not_pinged() -> None:
    liveness = Liveness(0.0, 0.0)
    liveness.heard(5.0)
    assert not liveness.wants_ping(5.0 + SILENT_SECONDS / 2)


def test_a_peer_that_answers_is_alive() -> None:
    liveness = silent()
    liveness.heard(0.4)
    assert not liveness.is_frozen(10.0, 0)


def test_a_peer_that_answers_nothing_is_frozen_within_a_second() -> None:
    liveness = silent()
    assert not liveness.is_frozen(SILENT_SECONDS + FROZEN_SECONDS / 2, 0)
    assert liveness.is_frozen(SILENT_SECONDS + FROZEN_SECONDS, 0)
    assert SILENT_SECONDS + FROZEN_SECONDS < 1.0


def test_bytes_that_drain_excuse_a_peer_behind_a_thin_link() -> None:
    liveness = silent(unsent_bytes=100_000)
    for step in range(1, 20):
        assert not liveness.is_frozen(SILENT_SECONDS + step * 0.1, 100_000 - step * 5_000)


def test_bytes_that_do_not_move_do_not() -> None:
    liveness = silent(unsent_bytes=100_000)
    assert not liveness.is_frozen(SILENT_SECONDS + 0.1, 100_000)
    assert liveness.is_frozen(SILENT_SECONDS + 0.1 + STUCK_SECONDS, 100_000)


def test_silence_before_anything_was_owed_does_not_count() -> None:
    liveness = Liveness(0.0, 0.0)
    liveness.owing_since(100.0)
    assert not liveness.wants_ping(100.1)
