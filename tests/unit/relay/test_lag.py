"""Who lags behind its siblings, for how long."""

from p2pdist.relay.lag import LAG_PIECES, LAG_TICKS, LagWatch


def named(watch: LagWatch, waiting: dict[str, int], ticks: int) -> list[str]:
    return [node for _ in range(ticks) for node in watch.tick(waiting)]


def test_a_child_that_lags_for_long_is_named() -> None:
    watch = LagWatch()
    waiting = {"a": 1, "b": 0, "slow": LAG_PIECES + 4}
    assert named(watch, waiting, LAG_TICKS - 1) == []
    assert named(watch, waiting, 1) == ["slow"]
    assert named(watch, waiting, LAG_TICKS) == ["slow"]


def test_a_burst_is_not_a_lag() -> None:
    watch = LagWatch()
    for _ in range(10):
        assert named(watch, {"a": 0, "b": 0, "c": 100}, LAG_TICKS - 1) == []
        assert named(watch, {"a": 0, "b": 0, "c": 1}, 1) == []


def test_when_all_wait_the_uplink_is_ours() -> None:
    assert named(LagWatch(), {"a": 30, "b": 40, "c": 50}, 3 * LAG_TICKS) == []


def test_two_children_say_nothing() -> None:
    assert named(LagWatch(), {"a": 0, "b": 500}, 3 * LAG_TICKS) == []


def test_a_child_that_is_gone_is_forgotten() -> None:
    watch = LagWatch()
    named(watch, {"a": 0, "b": 0, "c": 100}, LAG_TICKS - 1)
    watch.tick({"a": 0, "b": 0})
    assert named(watch, {"a": 0, "b": 0, "c": 100}, LAG_TICKS - 1) == []
