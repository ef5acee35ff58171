"""The commands of a host against a real agent: `p2pdist pull` and `p2pdist status`."""

import json
from collections.abc import Callable, Iterator

import pytest

from p2pdist.core.errors import Unavailable
from tests.system.daemons import Agent, attempt, p2pdist
from tests.system.fetches import pull
from tests.system.fleet import UPSTREAM, Fleet, open_fleet
from tests.system.images import image, index, layer
from tests.system.registries import Registry

REPOSITORY = "library/app"
MIB = 1 << 20


@pytest.fixture(scope="module")
def origin_and_fleet(
    tmp_path_factory: pytest.TempPathFactory, require_program: Callable[[str], str]
) -> Iterator[tuple[Registry, Fleet]]:
    require_program("docker-registry")
    with open_fleet(tmp_path_factory.mktemp("commands"), agents=2) as both:
        yield both


def status(agent: Agent) -> dict[str, object]:
    document: dict[str, object] = json.loads(p2pdist("status", "--json", "--admin", agent.admin_address))
    return document


def test_pull_has_the_agent_fetch_the_image_of_this_platform(origin_and_fleet: tuple[Registry, Fleet]) -> None:
    registry, fleet = origin_and_fleet
    agent = fleet.agents[0]
    amd64, arm64 = image(layer(2 * MIB, "amd64")), image(layer(2 * MIB, "arm64"), architecture="arm64")
    registry.push(index(amd64, arm64), REPOSITORY, "index")
    said = p2pdist("pull", f"{UPSTREAM}/{REPOSITORY}:index", "--admin", agent.admin_address)
    assert said.rstrip().splitlines()[-1].startswith(f"{UPSTREAM}/{REPOSITORY}:index is sha256:")
    assert {agent.received().total, registry.meter.total_blob_bytes()} == {amd64.blob_bytes}
    assert agent.blobs_held() == len(amd64.blobs)
    copied = registry.meter.total_blob_bytes()
    pull(agent, REPOSITORY, amd64.manifest.digest, amd64)
    assert registry.meter.total_blob_bytes() == copied


def test_pull_of_an_image_that_is_not_there_fails_and_says_so(origin_and_fleet: tuple[Registry, Fleet]) -> None:
    agent = origin_and_fleet[1].agents[0]
    code, said, complained = attempt("pull", f"{UPSTREAM}/library/absent:1", "--admin", agent.admin_address)
    assert code != 0
    assert "library/absent" in said + complained
    assert "Traceback" not in complained


@pytest.mark.parametrize("command", [["status"], ["status", "--json"], ["pull", f"{UPSTREAM}/{REPOSITORY}:1"]])
def test_without_an_agent_they_say_so(command: list[str], origin_and_fleet: tuple[Registry, Fleet]) -> None:
    code, said, complained = attempt(*command, "--admin", "127.0.0.1:9")
    assert code == Unavailable.exit_code
    assert not said
    assert "127.0.0.1:9" in complained


def test_status_tells_what_the_metrics_count(origin_and_fleet: tuple[Registry, Fleet]) -> None:
    registry, fleet = origin_and_fleet
    first, second = fleet.agents
    made = image(layer(MIB, "status"), layer(MIB, "status zstd", "zstd"))
    registry.push(made, REPOSITORY, "status")
    pull(first, REPOSITORY, "status", made)
    pull(second, REPOSITORY, "status", made)
    for agent in fleet.agents:
        seen, received = status(agent), agent.received()
        assert received.total >= made.blob_bytes
        assert isinstance(seen["bytes"], dict)
        counted = {source: seen["bytes"][source] for source in ("relay", "dealt", "swarm", "origin")}
        assert counted == {
            "relay": received.relay,
            "dealt": received.dealt,
            "swarm": received.swarm,
            "origin": received.origin,
        }
        assert isinstance(seen["tracker"], dict)
        assert seen["tracker"]["connected"] is True
        assert isinstance(seen["blobs"], dict)
        assert seen["blobs"]["count"] == agent.blobs_held()
        assert seen["name"] == agent.name
    assert "connected" in p2pdist("status", "--admin", second.admin_address)
