"""Restarts and crashes: what was whole is served again at once, what wasn't is never served as if it were."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from simulations.processes import poll_until
from tests.conftest import Figure
from tests.system.fetches import Fetched, fetch_blob, pull, pull_at_once, under_way
from tests.system.fleet import Fleet, open_fleet
from tests.system.images import Content, image, layer
from tests.system.registries import Registry

REPOSITORY = "library/app"
MIB = 1 << 20


@pytest.fixture
def registry_and_fleet(tmp_path: Path, require_program: Callable[[str], str]) -> Iterator[tuple[Registry, Fleet]]:
    require_program("docker-registry")
    with open_fleet(tmp_path, agents=2, tracker_settings={"lease": "5s"}) as both:
        yield both


def assert_prefix(fetched: Fetched, blob: Content) -> None:
    """What came was cut short, and right as far as it came."""
    assert fetched.size_bytes < blob.size_bytes
    assert Content("", blob.data[: fetched.size_bytes]).hex == fetched.sha256


def test_a_restarted_agent_deals_what_it_has_without_reading_it_first(
    registry_and_fleet: tuple[Registry, Fleet], figure: Figure
) -> None:
    registry, fleet = registry_and_fleet
    holder, puller = fleet.agents
    made = image(layer(128 * MIB, "held", "none"))
    registry.push(made, REPOSITORY, "1")
    pull(holder, REPOSITORY, "1", made)
    holder.stop()
    holder.start()
    holder.wait_ready()
    assert holder.blobs_held() == len(made.blobs)
    figure("bytes read by a restarted agent", holder.bytes_read() / MIB, "MiB of 128", at_most=48)
    before = registry.meter.total_blob_bytes(), fleet.tracker.dealt_bytes()
    pull(puller, REPOSITORY, "1", made)
    assert puller.received().relay == made.blob_bytes
    assert (registry.meter.total_blob_bytes(), fleet.tracker.dealt_bytes()) == before
    pull(holder, REPOSITORY, "1", made)
    assert holder.received().total == 0


def test_a_restarted_tracker_knows_what_its_agents_hold(registry_and_fleet: tuple[Registry, Fleet]) -> None:
    registry, fleet = registry_and_fleet
    made = image(layer(16 * MIB, "kept", "none"), layer(1 * MIB, "kept too"))
    registry.push(made, REPOSITORY, "1")
    pull_at_once(fleet.agents, REPOSITORY, "1", made)
    copied = registry.meter.total_blob_bytes()
    fleet.tracker.stop()
    fleet.tracker.start()
    fleet.tracker.wait_ready()
    poll_until(lambda: fleet.tracker.metric("p2pdist_tracker_agents_leased") == 2, "both agents are back", 20)
    late = fleet.add_agent()
    pull(late, REPOSITORY, "1", made)
    assert late.received().relay == made.blob_bytes
    assert registry.meter.total_blob_bytes() == copied
    assert fleet.tracker.dealt_bytes() == 0


def test_a_restarted_tracker_deals_what_it_holds_when_no_agent_does(
    registry_and_fleet: tuple[Registry, Fleet],
) -> None:
    registry, fleet = registry_and_fleet
    made = image(layer(16 * MIB, "stored", "none"))
    registry.push(made, REPOSITORY, "1")
    pull_at_once(fleet.agents, REPOSITORY, "1", made)
    copied = registry.meter.total_blob_bytes()
    for daemon in fleet.daemons():
        daemon.stop()
    fleet.tracker.start()
    fleet.tracker.wait_ready()
    assert fleet.tracker.metric("p2pdist_tracker_blobs_held") == len(made.blobs)
    fresh = fleet.add_agent()
    pull(fresh, REPOSITORY, "1", made)
    assert fresh.received().dealt == made.blob_bytes
    assert fleet.tracker.dealt_bytes() == made.blob_bytes
    assert registry.meter.total_blob_bytes() == copied


def test_an_agent_killed_in_the_middle_serves_nothing_half(registry_and_fleet: tuple[Registry, Fleet]) -> None:
    registry, fleet = registry_and_fleet
    killed, other = fleet.agents
    blob = layer(32 * MIB, "killed", "none")
    registry.push(image(blob), REPOSITORY, "1")
    gate = registry.meter.gate(blob.digest, blob.size_bytes // 2)
    with under_way([partial(fetch_blob, agent, REPOSITORY, blob) for agent in fleet.agents]) as fetching, gate:
        gate.wait_reached()
        poll_until(lambda: killed.received().total > blob.size_bytes // 3, "a third is at the agent", 20)
        killed.kill()
        assert_prefix(fetching[0].result(20), blob)
        killed.start()
        killed.wait_ready()
        assert killed.blobs_held() == 0
        gate.open()
        assert fetching[1].result(40).is_whole(blob)
    assert fetch_blob(killed, REPOSITORY, blob).is_whole(blob)
    poll_until(lambda: killed.blobs_held() == other.blobs_held() == 1, "both hold it", 20)
    assert registry.meter.blob_bytes()[blob.digest] == blob.size_bytes


def test_agents_finish_what_they_began_when_the_tracker_is_killed(
    registry_and_fleet: tuple[Registry, Fleet], figure: Figure
) -> None:
    registry, fleet = registry_and_fleet
    blob = layer(32 * MIB, "tracker killed", "none")
    registry.push(image(blob), REPOSITORY, "1")
    gate = registry.meter.gate(blob.digest, blob.size_bytes // 2)
    with under_way([partial(fetch_blob, agent, REPOSITORY, blob) for agent in fleet.agents]) as fetching, gate:
        gate.wait_reached()
        poll_until(lambda: fleet.agents[0].received().total > blob.size_bytes // 3, "a third is at an agent", 20)
        fleet.tracker.kill()
        gate.open()
        fetched = [future.result(60) for future in fetching]
    assert all(one.is_whole(blob) for one in fetched)
    assert sum(agent.received().origin for agent in fleet.agents) > 0
    figure("origin copies when the tracker dies half-way", registry.meter.blob_bytes()[blob.digest] / blob.size_bytes)
    figure("time of the slowest agent when the tracker dies half-way", max(one.seconds for one in fetched), "s")


def test_a_tracker_killed_in_the_middle_serves_nothing_half(registry_and_fleet: tuple[Registry, Fleet]) -> None:
    registry, fleet = registry_and_fleet
    blob = layer(32 * MIB, "tracker returns", "none")
    registry.push(image(blob), REPOSITORY, "1")
    gate = registry.meter.gate(blob.digest, blob.size_bytes // 2)
    with under_way([partial(fetch_blob, agent, REPOSITORY, blob) for agent in fleet.agents]) as fetching, gate:
        gate.wait_reached()
        fleet.tracker.kill()
        fleet.tracker.start()
        fleet.tracker.wait_ready()
        assert fleet.tracker.metric("p2pdist_tracker_blobs_held") == 0
        gate.open()
        assert all(future.result(60).is_whole(blob) for future in fetching)
    late = fleet.add_agent()
    assert fetch_blob(late, REPOSITORY, blob).is_whole(blob)
