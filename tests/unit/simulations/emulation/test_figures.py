"""What is computed from a run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.emulation.figures import Figure, as_mapping, figures, percentile, summarize
from simulations.emulation.outcome import WaveOutcome
from simulations.emulation.tally import Sent
from tests.unit.simulations.emulation.outcomes import MIB, host, outcome, silent


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_percentile_is_a_value_that_the_share_does_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert found is not None
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert percentile(values, 1.0) == max(values)


def test_percentile_of_nothing() -> None:
    assert percentile([], 0.5) is None


def test_times_stand_against_each_hosts_own_bound() -> None:
    found = as_mapping(figures(outcome([host("fast-1", 1.2), host("fast-2", 1.1), host("slow-1", 5.5, bound=5.0)])))
    assert found["p50"] == 1.2
    assert found["slowest"] == 5.5
    assert found["bound"] == 5.0
    assert found["slowest x bound"] == pytest.approx(1.2)
    assert found["p50, slow x bound"] == pytest.approx(1.1)
    assert found["slowest, fast"] == 1.2


def test_what_was_sent_and_what_it_cost() -> None:
    found = as_mapping(figures(outcome([host("host-1", 1.2), host("host-2", 1.1)])))
    assert found["origin copies"] == 1.0
    assert found["origin requests"] == 2
    assert found["seeder copies"] == 1.0
    assert found["all bytes sent on the tracker's link / image"] == pytest.approx(1.02)
    assert found["CPU of the daemons"] == pytest.approx(2.0 * 1024 / 2)
    assert found["first byte of a blob, p99"] == pytest.approx(10.0)
    assert found["time with full cores"] == 0.5
    assert found["delivered together"] == 1.0
    assert found["memory of an agent, most"] == 60
    assert found["all bytes on the thin link / image"] is None


def test_disturbed_hosts_are_not_measured() -> None:
    found = as_mapping(figures(outcome([host("host-1", 1.2), host("host-2", None)])))
    assert found["slowest"] == 1.2


def test_a_batch_of_disturbed_hosts_has_no_times() -> None:
    hosts = [host("host-1", 1.5), host("host-2", None, wave=1)]
    waves = [WaveOutcome(1, Sent(MIB, 1, 1), MIB)] * 2
    found = as_mapping(figures(outcome(hosts, *waves)))
    assert found["slowest, later batches"] is None
    assert found["bound, later batches"] is None


def test_batches_are_told_apart() -> None:
    hosts = [host("host-1", 1.5), host("host-2", 1.1, wave=1), host("host-3", 1.2, wave=2)]
    waves = [WaveOutcome(1, Sent(MIB, 1, 1), MIB), *[WaveOutcome(1, Sent(0, 0, 1), MIB // 4)] * 2]
    found = as_mapping(figures(outcome(hosts, *waves)))
    assert found["slowest, first batch x bound"] == 1.5
    assert found["slowest, later batches x bound"] == 1.2
    assert found["origin bytes of later batches / image"] == 0.0
    assert found["seeder bytes of later batches / image"] == 0.5
    assert found["seeder copies"] == 1.5


def test_what_is_not_known_is_not_made_up() -> None:
    found = as_mapping(figures(silent(outcome([host("host-1", 1.2)]))))
    for name in ("bound", "p50 x bound", "seeder copies", "redundant bytes / delivered", "memory of an agent, most"):
        assert found[name] is None
    assert found["p50"] == 1.2


def test_median_and_worst() -> None:
    runs = [
        [Figure("time", value, "s"), Figure("speed", value, more_is_better=True), Figure("sometimes", maybe)]
        for value, maybe in ((1.0, 1.0), (5.0, None), (2.0, 1.0))
    ]
    found = {each.name: (each.median, each.worst) for each in summarize(runs)}
    assert found == {"time": (2.0, 5.0), "speed": (2.0, 1.0)}
