"""Who is slow: several witnesses, for a while, and never too many. And who is silent."""

from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.tracker.slowness import (
    PARENTS_A_WITNESS,
    SLOW_SECONDS,
    SMALL_FLEET,
    WITNESS_SECONDS,
    WITNESSES,
    Slowness,
    witnesses_needed,
)

FAN = 4


@pytest.mark.parametrize(
    ("members", "needed"), [(1, 1), (SMALL_FLEET - 1, 1), (SMALL_FLEET, WITNESSES), (16, 3), (256, 4), (10_000, 4)]
)
def test_more_must_agree_where_more_could_have_seen_it(members: int, needed: int) -> None:
    assert witnesses_needed(members, FAN) == needed


@given(st.integers(1, 20_000), st.integers(2, 8))
def test_a_member_has_parents_enough_to_be_called_slow_by(members: int, fan: int) -> None:
    """About fan x log N nodes send to a member; a third of them is needed, and never fewer in a larger relay."""
    needed = witnesses_needed(members, fan)
    assert needed <= witnesses_needed(members + 1, fan)
    assert needed <= max(WITNESSES, fan * log(members, fan) / PARENTS_A_WITNESS + 0.5)
    assert needed < max(2, members)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0, 4 * WITNESS_SECONDS)), min_size=1, max_size=30))
def test_witnesses_are_counted_and_not_their_words_and_for_some_seconds_only(words: list[tuple[str, float]]) -> None:
    words.sort(key=lambda word: word[1])
    slowness = Slowness()
    was_slow = False
    for number, (witness, now) in enumerate(words):
        last = dict(words[: number + 1])
        lately = [other for other, at in last.items() if now - at <= WITNESS_SECONDS]
        assert slowness.lags(witness, "x", 3, now) == (len(lately) >= 3 and not was_slow)
        was_slow = was_slow or len(lately) >= 3
        assert slowness.is_slow("x", now) == was_slow


def test_one_witness_is_not_enough_in_a_fleet() -> None:
    slowness = Slowness()
    assert not slowness.lags("a", "slow", 2, 1.0)
    assert not slowness.lags("a", "slow", 2, 2.0)
    assert not slowness.is_slow("slow", 2.0)


def test_two_witnesses_within_seconds_are() -> None:
    slowness = Slowness()
    slowness.lags("a", "slow", 2, 1.0)
    assert slowness.lags("b", "slow", 2, 1.5)
    assert not slowness.lags("c", "slow", 2, 1.6)
    assert slowness.is_slow("slow", 1.6)
    assert not slowness.is_silent("slow")


def test_old_words_do_not_count() -> None:
    slowness = Slowness()
    slowness.lags("a", "slow", 2, 1.0)
    assert not slowness.lags("b", "slow", 2, 1.1 + WITNESS_SECONDS)


def test_nobody_is_a_witness_against_itself() -> None:
    slowness = Slowness()
    assert not slowness.lags("slow", "slow", 1, 1.0)


def test_a_slow_agent_is_tried_again() -> None:
    slowness = Slowness()
    assert slowness.lags("a", "slow", 1, 1.0)
    assert slowness.leaves(["a", "b", "slow"], 2.0) == ["slow"]
    assert slowness.leaves(["a", "b", "slow"], 2.0 + SLOW_SECONDS) == []
    assert slowness.lags("a", "slow", 1, 2.0 + SLOW_SECONDS)


def test_nobody_is_a_leaf_when_more_than_a_third_would_be() -> None:
    slowness = Slowness()
    members = [f"n{number}" for number in range(9)]
    for node in members[:3]:
        slowness.lags("w", node, 1, 1.0)
    assert slowness.leaves(members, 2.0) == members[:3]
    slowness.lags("w", "n7", 1, 2.0)
    assert slowness.leaves(members, 3.0) == []
    slowness.forget("n1")
    assert slowness.leaves(members, 3.0) == ["n0", "n2", "n7"]


def test_a_silent_agent_is_out_until_it_is_heard() -> None:
    slowness = Slowness()
    assert not slowness.heard("mute")
    slowness.silent("mute")
    assert slowness.is_silent("mute")
    assert not slowness.is_silent("other")
    assert not slowness.is_slow("mute", 1.6)
    assert slowness.heard("mute")
    assert not slowness.is_silent("mute")
    assert not slowness.heard("mute")


def test_an_agent_that_is_gone_comes_back_without_a_record() -> None:
    slowness = Slowness()
    slowness.lags("a", "x", 1, 1.0)
    slowness.silent("x")
    slowness.lags("a", "y", 2, 1.0)
    for node in "xy":
        slowness.forget(node)
    assert not slowness.is_slow("x", 1.0)
    assert not slowness.is_silent("x")
    assert not slowness.lags("b", "y", 2, 1.0)
