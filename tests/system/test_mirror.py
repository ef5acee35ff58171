"""`p2pdist mirror` with the real runtimes: they go through the agent, that is seen, and undone to the byte."""

import json
import time
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import Figure
from tests.system.images import Image, image, layer
from tests.system.mirrored_host import HUB, MirroredHost

RUNTIMES = ("containerd", "docker", "podman")
_MARKS = {"containerd": "containerd/", "docker": "docker/", "podman": "containers/"}


@pytest.fixture(scope="module")
def host(
    tmp_path_factory: pytest.TempPathFactory, require_program: Callable[[str], str], needs_namespaces: None
) -> Iterator[MirroredHost]:
    for program in ("docker-registry", "containerd", "ctr", "dockerd", "podman", "unshare"):
        require_program(program)
    with MirroredHost(tmp_path_factory.mktemp("m")) as host:
        yield host


def pull(host: MirroredHost, runtime: str, name: str) -> float:
    """Let a runtime of the host pull `library/NAME:1`; returns the seconds."""
    started = time.monotonic()
    reference = f"{HUB}/library/{name}:1"
    match runtime:
        case "containerd":
            host.containerd.pull(reference)
        case "docker":
            host.dockerd.pull(f"{HUB}/library/{name}", "1")
        case _:
            host.podman.pull(reference)
    return time.monotonic() - started


def install(host: MirroredHost, runtime: str) -> None:
    _obey(host, host.mirror("install", runtime))


def remove(host: MirroredHost, runtime: str) -> None:
    _obey(host, host.mirror("remove", runtime))


def _obey(host: MirroredHost, printed: str) -> None:
    """Do what the command says must be done."""
    if "systemctl reload docker" in printed:
        host.dockerd.reload()
    if "systemctl restart docker" in printed:
        host.dockerd.restart()


def make(name: str) -> Image:
    return image(layer(20_000, name))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_it_goes_through_the_agent_and_that_is_seen_and_undone(host: MirroredHost, runtime: str) -> None:
    before = host.files()
    for name in (f"{runtime}-through", f"{runtime}-past"):
        host.push(make(name), name)
    install(host, runtime)
    installed = host.files()
    assert installed != before
    assert "nothing changed" in host.mirror("install", runtime)
    assert host.files() == installed
    received = host.agent.received().total
    pull(host, runtime, f"{runtime}-through")
    assert host.agent.received().total - received == make(f"{runtime}-through").blob_bytes
    (document,) = json.loads(host.mirror("status", runtime, "--json")).values()
    assert document["last_pull"]["user_agent"].startswith(_MARKS[runtime])
    assert f"library/{runtime}-through" in document["last_pull"]["name"]
    assert document["registries"] == ["*" if runtime == "containerd" else HUB]
    assert "last pull through this agent: " in host.mirror("status", runtime)
    remove(host, runtime)
    assert host.files() == before
    received = host.agent.received().total
    pull(host, runtime, f"{runtime}-past")
    assert host.agent.received().total == received


def test_without_the_agent_each_goes_to_the_registry_by_itself(host: MirroredHost, figure: Figure) -> None:
    for runtime in RUNTIMES:
        host.push(make(f"{runtime}-direct"), f"{runtime}-direct")
        host.push(make(f"{runtime}-alone"), f"{runtime}-alone")
        direct = pull(host, runtime, f"{runtime}-direct")
        install(host, runtime)
        host.agent.stop()
        figure(f"{runtime} pulls without a mirror", direct, "s")
        figure(f"{runtime} pulls while its agent is down", pull(host, runtime, f"{runtime}-alone"), "s", at_most=2)
        host.agent.start()
        host.agent.wait_ready()
        remove(host, runtime)
