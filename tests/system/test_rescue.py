"""A fleet that loses its tracker in the middle of a blob gets the rest from the origin once, not once for each host."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from simulations.processes import poll_until
from tests.conftest import Figure
from tests.system.daemons import Agent
from tests.system.fetches import Fetched, fetch_blob, under_way
from tests.system.fleet import Fleet, open_fleet
from tests.system.images import Content, image, layer
from tests.system.registries import Registry

REPOSITORY = "library/app"
MIB = 1 << 20
LONGEST_STALL_SECONDS = 6


@pytest.fixture
def registry_and_fleet(tmp_path: Path, require_program: Callable[[str], str]) -> Iterator[tuple[Registry, Fleet]]:
    require_program("docker-registry")
    with open_fleet(tmp_path, agents=6) as both:
        yield both


class Reader:
    """A GET of a blob, and how long nothing came of it at the longest."""

    def __init__(self, agent: Agent, blob: Content) -> None:
        self.longest_stall_seconds = 0.0
        self._agent, self._blob = agent, blob
        self._came = 0.0

    def __call__(self) -> Fetched:
        self._came = time.monotonic()
        return fetch_blob(self._agent, REPOSITORY, self._blob, on_bytes=self._note)

    def _note(self, _: int) -> None:
        now = time.monotonic()
        self.longest_stall_seconds = max(self.longest_stall_seconds, now - self._came)
        self._came = now


def rescue(registry: Registry, fleet: Fleet, blob: Content, end: Callable[[], None], figure: Figure, what: str) -> None:
    """Every agent pulls the blob; at 30 % `end` ends the tracker for them, and maybe some of them."""
    registry.push(image(blob), REPOSITORY, "1")
    gate = registry.meter.gate(blob.digest, blob.size_bytes * 3 // 10)
    readers = [Reader(agent, blob) for agent in fleet.agents]
    with under_way([*readers]) as fetching, gate:
        gate.wait_reached()
        least = blob.size_bytes // 4
        poll_until(lambda: all(each.received().total > least for each in fleet.agents), "a quarter is there", 20)
        end()
        gate.open()
        alive = [number for number, agent in enumerate(fleet.agents) if agent.process.running]
        fetched = [fetching[number].result(60) for number in alive]
    assert all(one.is_whole(blob) for one in fetched)
    figure(f"origin copies, {what}", registry.meter.blob_bytes()[blob.digest] / blob.size_bytes, at_most=2)
    stall = max(readers[number].longest_stall_seconds for number in alive)
    figure(f"longest stall, {what}", stall, "s", at_most=LONGEST_STALL_SECONDS)


def test_a_fleet_without_its_tracker_gets_the_rest_once(
    registry_and_fleet: tuple[Registry, Fleet], figure: Figure
) -> None:
    registry, fleet = registry_and_fleet
    blob = layer(96 * MIB, "tracker killed", "none")
    rescue(registry, fleet, blob, fleet.tracker.kill, figure, "tracker killed")


def test_half_the_agents_die_with_the_tracker(registry_and_fleet: tuple[Registry, Fleet], figure: Figure) -> None:
    registry, fleet = registry_and_fleet
    blob = layer(96 * MIB, "half killed", "none")

    def end() -> None:
        for daemon in [fleet.tracker, *fleet.agents[::2]]:
            daemon.kill()

    rescue(registry, fleet, blob, end, figure, "half the agents killed too")


def test_a_tracker_that_hangs_is_noticed(registry_and_fleet: tuple[Registry, Fleet], figure: Figure) -> None:
    registry, fleet = registry_and_fleet
    blob = layer(96 * MIB, "tracker frozen", "none")
    rescue(registry, fleet, blob, fleet.tracker.freeze, figure, "tracker frozen")
