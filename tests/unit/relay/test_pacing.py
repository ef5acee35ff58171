"""How long bytes may gather; the clock is a number."""

import pytest

from p2pdist.relay.pacing import (
    FLOOR_BYTES,
    GATHER_BYTES,
    HOLD_OFF_SECONDS,
    LEFT_SHARE,
    MAX_REST_SECONDS,
    MEMORY_SECONDS,
    Pace,
)

PIECE_BYTES = 32 * 1024
MUCH_BYTES = 1 << 40


def rest_after(
    pace: Pace, bytes_per_second: float, seconds: float, since: float = 0.0, left_bytes: int = MUCH_BYTES
) -> float:
    """The last rest of a node that was fed at this rate, piece by piece."""
    step, rest = PIECE_BYTES / bytes_per_second, 0.0
    for number in range(1, int(seconds / step) + 1):
        rest = pace.rest_seconds(since + number * step, PIECE_BYTES, PIECE_BYTES, left_bytes)
    return rest


def test_the_first_pieces_are_taken_at_once() -> None:
    pace = Pace()
    for number in range(FLOOR_BYTES // PIECE_BYTES - 1):
        assert pace.rest_seconds(0.001 * number, PIECE_BYTES, PIECE_BYTES, MUCH_BYTES) == 0.0


@pytest.mark.parametrize("bytes_per_second", [3e6, 5e6])
def test_who_is_fed_steadily_rests(bytes_per_second: float) -> None:
    assert rest_after(Pace(), bytes_per_second, 2.0) == pytest.approx(MAX_REST_SECONDS, rel=0.2)


def test_rests_grow_with_what_was_gathered() -> None:
    assert rest_after(Pace(), 5e6, 0.32) == pytest.approx(0.01, rel=0.3)


def test_rests_shrink_with_what_is_left() -> None:
    left_seconds = 0.64
    rest = rest_after(Pace(), 5e6, 2.0, left_bytes=int(5e6 * left_seconds))
    assert rest == pytest.approx(left_seconds / LEFT_SHARE, rel=0.2)
    assert rest_after(Pace(), 5e6, 2.0, left_bytes=PIECE_BYTES) == 0.0


def test_rests_are_shorter_where_more_comes() -> None:
    rest = rest_after(Pace(), 60e6, 1.0)
    assert rest == pytest.approx(GATHER_BYTES / 60e6, rel=0.1)


@pytest.mark.parametrize("bytes_per_second", [5e5, 500e6])
def test_nobody_rests_for_little_nor_where_a_rest_would_cost_speed(bytes_per_second: float) -> None:
    assert rest_after(Pace(), bytes_per_second, 1.0) == 0.0


def test_whoever_fills_a_window_within_a_rest_is_not_held_to_it() -> None:
    window = 64 * 1024
    pace, now, received = Pace(), 0.0, 0
    while now < 1.0:
        rest = pace.rest_seconds(now, window, window, MUCH_BYTES)
        received += window
        now += rest or 0.0002
    assert received > 0.9 * window / 0.0002
    assert pace.rest_seconds(now, window, window, MUCH_BYTES) == 0.0


def test_rests_come_back_after_a_burst() -> None:
    pace, now = Pace(), 1.0
    assert rest_after(pace, 5e6, now) > 0.0
    assert pace.rest_seconds(now, 2 * PIECE_BYTES, 2 * PIECE_BYTES, MUCH_BYTES) == 0.0
    assert rest_after(pace, 5e6, 2 * HOLD_OFF_SECONDS, since=now) > 0.0


def test_what_came_long_ago_is_forgotten() -> None:
    pace = Pace()
    assert rest_after(pace, 10e6, 1.0) > 0.0
    assert pace.rest_seconds(1.0 + 10 * MEMORY_SECONDS, PIECE_BYTES, PIECE_BYTES, MUCH_BYTES) == 0.0
