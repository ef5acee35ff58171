"""The fluid bound, on cases whose answer is plain."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.emulation.bound import Asking, Source, bounds_of, own_bounds, source_of, usable
from simulations.emulation.scenario import Scenario, parse

BYTES = 1_000_000
BITS = BYTES * 8
HOSTS = '[[hosts]]\ncount = 4\nlink = "8 Mbit/s"\n'


def alike(count: int, bps: float) -> list[Asking]:
    return [Asking(f"h{number}", 0.0, bps, bps) for number in range(count)]


def scenario(text: str) -> Scenario:
    return parse('description = "a test"\nlayers = ["1MB"]\n' + text, "test")


def test_equal_links_are_bound_by_the_link() -> None:
    assert own_bounds(BYTES, Source(BITS), alike(4, BITS)) == dict.fromkeys(["h0", "h1", "h2", "h3"], 1.0)


def test_a_slow_source_bounds_everybody() -> None:
    assert set(own_bounds(BYTES, Source(BITS / 4), alike(4, BITS)).values()) == {4.0}


def test_few_uplinks_bound_everybody() -> None:
    hosts = [Asking(f"h{number}", 0.0, BITS / 8, BITS) for number in range(8)]
    assert set(own_bounds(BYTES, Source(BITS), hosts).values()) == {8 / (1 + 8 / 8)}


def test_slow_hosts_bound_themselves_only() -> None:
    hosts = [*alike(6, BITS), Asking("slow", 0.0, BITS / 5, BITS / 5)]
    bounds = own_bounds(BYTES, Source(BITS), hosts)
    assert bounds["h0"] == 1.0
    assert bounds["slow"] == 5.0


def test_who_joins_late_finds_part_of_it_there() -> None:
    hosts = [*alike(3, BITS), Asking("late", 3.0, BITS, BITS)]
    bounds = own_bounds(BYTES, Source(BITS / 4), hosts)
    assert bounds["h0"] == 4.0
    assert bounds["late"] == 1.0


def test_holders_alone_bound_who_comes_after() -> None:
    assert set(own_bounds(BYTES, Source(0.0, holders_bps=BITS / 2), alike(2, BITS)).values()) == {2.0}


def test_nothing_limits_nobody() -> None:
    assert set(own_bounds(BYTES, Source(math.inf), alike(2, math.inf)).values()) == {0.0}


@given(
    rates=st.lists(st.integers(1, 1000), min_size=1, max_size=20),
    source=st.integers(1, 1000),
    starts=st.lists(st.floats(0, 100), min_size=20, max_size=20),
)
def test_faster_links_never_raise_a_bound(rates: list[int], source: int, starts: list[float]) -> None:
    def bounds(factor: int) -> dict[str, float]:
        hosts = [
            Asking(str(number), at, rate * factor, rate * factor)
            for number, (rate, at) in enumerate(zip(rates, starts, strict=False))
        ]
        return own_bounds(BYTES, Source(source * factor), hosts)

    slow, fast = bounds(1), bounds(2)
    assert all(fast[host] <= slow[host] * (1 + 1e-9) for host in slow)
    assert all(bound >= BITS / (rate * 2) for bound, rate in zip(fast.values(), rates, strict=True))


def test_the_source_of_a_scenario() -> None:
    cold = scenario('origin.up = "4 Mbit/s"\ntracker.up = "2 Mbit/s"\n' + HOSTS)
    warm = scenario('start = "warm"\norigin.up = "4 Mbit/s"\ntracker.up = "2 Mbit/s"\n' + HOSTS)
    assert source_of(cold, 0.5, held_by=()) == Source(2_000_000)
    assert source_of(warm, 0.5, held_by=()) == Source(1_000_000)
    assert source_of(warm, 0.5, held_by=["host-1", "host-2"]) == Source(0.0, 8_000_000)
    assert usable(None, 0.5) == math.inf


def test_a_thin_link_between_zones_bounds_the_far_zone() -> None:
    text = 'zone_link = "2 Mbit/s"\ntracker.zone = "near"\norigin.zone = "near"\n'
    for name in ("near", "far"):
        text += f'[[hosts]]\nname = "{name}"\nzone = "{name}"\ncount = 2\nlink = "8 Mbit/s"\n'
    two = scenario(text)
    bounds = bounds_of(two, 1.0, dict.fromkeys(two.pullers, 0.0))
    assert bounds == pytest.approx({"near-1": 1.0, "near-2": 1.0, "far-1": 4.0, "far-2": 4.0})
    later = bounds_of(two, 1.0, {"near-2": 0.0, "far-2": 0.0}, held_by=["near-1", "far-1"])
    assert later == pytest.approx({"near-2": 1.0, "far-2": 1.0})
