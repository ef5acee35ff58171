"""Who asks when."""

from itertools import pairwise

import pytest

from simulations.emulation.arrivals import waves
from simulations.emulation.scenario import Scenario, parse


def scenario(arrival: str, count: int = 10, more: str = "") -> Scenario:
    text = f'description = "a test"\nlayers = ["1MB"]\narrival = {arrival}\n[[hosts]]\ncount = {count}\n'
    return parse(text + 'link = "8 Mbit/s"\n' + more, "test")


def test_at_once() -> None:
    assert waves(scenario('{pattern = "at-once"}', 2), 1.0, 0) == [{"host-1": 0.0, "host-2": 0.0}]


def test_batches_follow_each_other() -> None:
    found = waves(scenario('{pattern = "batches", batch = 0.2}', 11), 1.0, 0)
    assert [len(wave) for wave in found] == [3, 3, 3, 2]
    assert list(found[1]) == ["host-4", "host-5", "host-6"]
    assert all(at == 0.0 for wave in found for at in wave.values())


def test_one_by_one() -> None:
    assert waves(scenario('{pattern = "one-by-one"}', 2), 1.0, 0) == [{"host-1": 0.0}, {"host-2": 0.0}]


def test_poisson_arrivals_have_their_rate_and_their_seed() -> None:
    poisson = scenario('{pattern = "poisson", per_second = 4}', 900)
    (wave,) = waves(poisson, 1.0, 1)
    times = list(wave.values())
    assert times[0] == 0.0
    assert all(before < after for before, after in pairwise(times))
    assert times[-1] == pytest.approx(899 / 4, rel=0.15)
    assert [wave] == waves(poisson, 1.0, 1)
    assert [wave] != waves(poisson, 1.0, 2)


def test_a_late_group_asks_at_its_share_of_the_expected_time() -> None:
    late = '[[hosts]]\nname = "late"\ncount = 1\nlink = "8 Mbit/s"\nat = "30%"\n'
    (wave,) = waves(scenario('{pattern = "at-once"}', 1, late), 20.0, 0)
    assert wave == pytest.approx({"host-1": 0.0, "late-1": 6.0})
