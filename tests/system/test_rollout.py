"""A rollout as a whole: what it costs the origin and the tracker, who comes late, who joins or dies on the way."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from simulations.processes import poll_until
from tests.conftest import Figure
from tests.system.fetches import at_once, fetch_blob, get_manifest, pull, pull_at_once, under_way
from tests.system.fleet import Fleet, open_fleet
from tests.system.images import Image, image, layer
from tests.system.registries import Registry

REPOSITORY = "library/app"
MAX_COPIES = 1.05
MIB = 1 << 20


@pytest.fixture
def registry_and_fleet(tmp_path: Path, require_program: Callable[[str], str]) -> Iterator[tuple[Registry, Fleet]]:
    require_program("docker-registry")
    with open_fleet(tmp_path, agents=5) as both:
        yield both


def version(number: int, *, changed_bytes: int = 2 * MIB) -> Image:
    """A version of the application: two layers that stay, one that is its own."""
    stable = layer(16 * MIB, "base", "none"), layer(8 * MIB, "libraries", "zstd")
    return image(*stable, layer(changed_bytes, f"version {number}"))


def test_five_agents_at_once_cost_the_origin_and_the_tracker_one_copy(
    registry_and_fleet: tuple[Registry, Fleet], figure: Figure
) -> None:
    registry, fleet = registry_and_fleet
    made = version(1)
    registry.push(made, REPOSITORY, "1")
    pull_at_once(fleet.agents, REPOSITORY, "1", made)
    size = made.blob_bytes
    figure("origin copies, 5 agents", registry.meter.total_blob_bytes() / size, at_least=1.0, at_most=MAX_COPIES)
    figure("seeder copies, 5 agents", fleet.tracker.dealt_bytes() / size, at_least=1.0, at_most=MAX_COPIES)
    assert fleet.tracker.origin_bytes() == registry.meter.total_blob_bytes()
    received = [agent.received() for agent in fleet.agents]
    assert [one.total for one in received] == [size] * 5
    assert sum(one.relay for one in received) >= 3.5 * size
    assert sum(one.origin for one in received) == 0


def test_simultaneous_requests_for_one_tag_are_one_request(registry_and_fleet: tuple[Registry, Fleet]) -> None:
    registry, fleet = registry_and_fleet
    made = image(layer(1000, "tags"))
    registry.push(made, REPOSITORY, "1")
    gate = registry.meter.gate_manifests()
    with under_way([partial(get_manifest, agent, REPOSITORY, "1") for agent in fleet.agents]) as asked, gate:
        gate.wait_reached()
        poll_until(lambda: manifests_wanted(fleet) == len(fleet.agents), "every agent's question is at the tracker", 10)
        gate.open()
    assert [future.result() for future in asked] == [made.manifest.data] * len(fleet.agents)
    assert registry.meter.requests("HEAD", r"/manifests/1$") + registry.meter.requests("GET", r"/manifests/1$") == 1
    assert registry.meter.requests("GET", r"/manifests/") == 1


def manifests_wanted(fleet: Fleet) -> float:
    """How many questions for a manifest have reached the tracker."""
    return fleet.tracker.growing_metric("p2pdist_tracker_control_frames_total", direction="in", frame="ManifestWanted")


def test_a_second_version_fetches_only_what_differs(registry_and_fleet: tuple[Registry, Fleet], figure: Figure) -> None:
    registry, fleet = registry_and_fleet
    first, second = version(1), version(2)
    registry.push(first, REPOSITORY, "1")
    registry.push(second, REPOSITORY, "2")
    pull_at_once(fleet.agents, REPOSITORY, "1", first)
    before = registry.meter.total_blob_bytes(), fleet.tracker.dealt_bytes()
    pull_at_once(fleet.agents, REPOSITORY, "2", second)
    differs = {blob.digest for blob in second.blobs} - {blob.digest for blob in first.blobs}
    size = sum(blob.size_bytes for blob in second.blobs if blob.digest in differs)
    assert 2 * MIB < size < 3 * MIB
    fetched = registry.meter.total_blob_bytes() - before[0]
    figure("second version, origin bytes / what differs", fetched / size, at_least=1.0, at_most=MAX_COPIES)
    dealt = fleet.tracker.dealt_bytes() - before[1]
    figure("second version, dealt bytes / what differs", dealt / size, at_least=1.0, at_most=MAX_COPIES)
    assert [agent.received().total for agent in fleet.agents] == [first.blob_bytes + size] * 5


def test_a_late_agent_takes_every_byte_from_the_others(registry_and_fleet: tuple[Registry, Fleet]) -> None:
    registry, fleet = registry_and_fleet
    made = version(1)
    registry.push(made, REPOSITORY, "1")
    pull_at_once(fleet.agents, REPOSITORY, "1", made)
    before = registry.meter.total_blob_bytes(), fleet.tracker.dealt_bytes(), fleet.tracker.origin_bytes()
    late = fleet.add_agent()
    pull(late, REPOSITORY, "1", made)
    received = late.received()
    assert received.relay == made.blob_bytes
    assert received.total == made.blob_bytes
    after = registry.meter.total_blob_bytes(), fleet.tracker.dealt_bytes(), fleet.tracker.origin_bytes()
    assert after == before


def test_an_agent_that_joins_in_the_middle_ends_with_the_right_bytes(
    registry_and_fleet: tuple[Registry, Fleet], figure: Figure
) -> None:
    registry, fleet = registry_and_fleet
    *early, late = fleet.agents
    blob = layer(32 * MIB, "joined", "none")
    registry.push(image(blob), REPOSITORY, "1")
    gate = registry.meter.gate(blob.digest, blob.size_bytes // 2)
    with under_way([partial(fetch_blob, agent, REPOSITORY, blob) for agent in early]) as first, gate:
        gate.wait_reached()
        poll_until(lambda: min(agent.received().total for agent in early) > blob.size_bytes // 3, "half is out", 20)
        with under_way([partial(fetch_blob, late, REPOSITORY, blob)]) as joining:
            poll_until(lambda: late.metric("p2pdist_agent_pulls_running") == 1, "the late agent pulls", 20)
            gate.open()
    assert all(future.result().is_whole(blob) for future in [*first, *joining])
    copies = registry.meter.blob_bytes()[blob.digest] / blob.size_bytes
    figure("origin copies with an agent that joins half-way", copies, at_least=1.0, at_most=MAX_COPIES)
    received = late.received()
    assert received.origin == 0
    assert received.relay + received.dealt > blob.size_bytes // 4


def test_one_client_that_hangs_up_does_not_end_the_pull_for_others(
    registry_and_fleet: tuple[Registry, Fleet],
) -> None:
    registry, fleet = registry_and_fleet
    agent = fleet.agents[0]
    blob = layer(16 * MIB, "hung up", "none")
    registry.push(image(blob), REPOSITORY, "1")
    gate = registry.meter.gate(blob.digest, blob.size_bytes // 2)
    enough = threading.Event()

    def hang_up(size_bytes: int) -> None:
        if size_bytes > blob.size_bytes // 4:
            enough.set()
            raise ConnectionAbortedError

    with under_way([partial(fetch_blob, agent, REPOSITORY, blob, on_bytes=hang_up)]) as leaving, gate:
        assert enough.wait(20)
        with under_way([partial(fetch_blob, agent, REPOSITORY, blob)]) as staying:
            assert not leaving[0].result().is_whole(blob)
            gate.open()
    assert staying[0].result().is_whole(blob)
    assert registry.meter.blob_bytes()[blob.digest] == blob.size_bytes


def test_ten_requests_for_one_blob_on_one_host_are_one_pull(registry_and_fleet: tuple[Registry, Fleet]) -> None:
    registry, fleet = registry_and_fleet
    agent = fleet.agents[0]
    blob = layer(8 * MIB, "ten", "none")
    registry.push(image(blob), REPOSITORY, "1")
    fetched = at_once([partial(fetch_blob, agent, REPOSITORY, blob)] * 10)
    assert all(one.is_whole(blob) for one in fetched)
    assert agent.received().total == blob.size_bytes
    assert registry.meter.blob_bytes()[blob.digest] == blob.size_bytes


def test_a_fleet_on_ipv6_alone(tmp_path: Path, require_program: Callable[[str], str]) -> None:
    require_program("docker-registry")
    made = image(layer(4 * MIB, "six"))
    with open_fleet(tmp_path, agents=3, ipv6=True) as (registry, fleet):
        registry.push(made, REPOSITORY, "1")
        pull_at_once(fleet.agents, REPOSITORY, "1", made)
        assert registry.meter.total_blob_bytes() == made.blob_bytes
        late = fleet.add_agent()
        pull(late, REPOSITORY, "1", made)
        assert late.received().relay == made.blob_bytes
