"""Who is slow: several witnesses, for a while, and never too many."""

from p2pdist.tracker.slowness import SLOW_SECONDS, WITNESS_SECONDS, Slowness


def test_one_witness_is_not_enough_in_a_fleet() -> None:
    slowness = Slowness()
    assert not slowness.report("a", "slow", members=16, now=1.0)
    assert not slowness.report("a", "slow", members=16, now=2.0)
    assert not slowness.is_slow("slow", 2.0)


def test_two_witnesses_within_seconds_are() -> None:
    slowness = Slowness()
    slowness.report("a", "slow", members=16, now=1.0)
    assert slowness.report("b", "slow", members=16, now=1.5)
    assert not slowness.report("c", "slow", members=16, now=1.6)
    assert slowness.is_slow("slow", 1.6)


def test_old_words_do_not_count() -> None:
    slowness = Slowness()
    slowness.report("a", "slow", members=16, now=1.0)
    assert not slowness.report("b", "slow", members=16, now=1.1 + WITNESS_SECONDS)


def test_nobody_is_a_witness_against_itself() -> None:
    slowness = Slowness()
    assert not slowness.report("slow", "slow", members=2, now=1.0)


def test_a_small_fleet_has_only_one_witness() -> None:
    assert Slowness().report("a", "slow", members=3, now=1.0)


def test_a_slow_agent_is_tried_again() -> None:
    slowness = Slowness()
    slowness.report("a", "slow", members=3, now=1.0)
    assert slowness.leaves(["a", "b", "slow"], 2.0) == ["slow"]
    assert slowness.leaves(["a", "b", "slow"], 2.0 + SLOW_SECONDS) == []


def test_at_most_a_third_are_leaves() -> None:
    slowness = Slowness()
    members = [f"n{number}" for number in range(9)]
    for second, node in enumerate(members):
        slowness.report("w", node, members=3, now=float(second))
    assert slowness.leaves(members, 10.0) == ["n6", "n7", "n8"]
    slowness.forget("n7")
    assert slowness.leaves(members, 10.0) == ["n5", "n6", "n8"]
