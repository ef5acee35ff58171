"""Private images with real runtimes: with the caller's credentials through the agent where the runtime brings them, and
past it, at once, where it doesn't; without credentials not at all.
"""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from tests.conftest import Figure
from tests.system.clients import ClientFailed
from tests.system.images import Image, image, layer
from tests.system.mirrored_host import HUB, MirroredHost
from tests.system.registries import ACCOUNT
from tests.system.tokens import Account

RUNTIMES = ("containerd", "docker", "podman")
WRONG = Account("operator", "not the password")
PAST_SECONDS = 5.0
OPEN = "library/open"


class Scene(NamedTuple):
    host: MirroredHost
    login: bool

    def through_agent(self, runtime: str) -> bool:
        """Whether a runtime brings the agent its credentials: containerd when it is asked for a token, Docker if it is
        at `/v2/`; Podman has none for a mirror's address.
        """
        return runtime == "containerd" or (runtime == "docker" and self.login)


@pytest.fixture(scope="module", params=[False, True], ids=["", "login"])
def scene(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    require_program: Callable[[str], str],
    needs_namespaces: None,
) -> Iterator[Scene]:
    for program in ("docker-registry", "containerd", "ctr", "dockerd", "podman", "unshare"):
        require_program(program)
    directory = tmp_path_factory.mktemp("p")
    with MirroredHost(directory, auth="token", public=(OPEN,), login=request.param) as host:
        for runtime in RUNTIMES:
            printed = host.mirror("install", runtime)
            if "systemctl reload docker" in printed:
                host.dockerd.reload()
            if "systemctl restart docker" in printed:
                host.dockerd.restart()
            host.registry.push(private(runtime), f"team/{runtime}", "1")
        host.registry.push(public(), OPEN, "1")
        yield Scene(host, request.param)


def private(runtime: str) -> Image:
    return image(layer(300_000, f"private of {runtime}"))


def public() -> Image:
    return image(layer(100_000, "public"))


def pull(host: MirroredHost, runtime: str, repository: str, account: Account | None) -> float:
    """Let a runtime pull an image; returns the seconds, raises `ClientFailed`."""
    started = time.monotonic()
    match runtime:
        case "containerd":
            host.containerd.pull(f"{HUB}/{repository}:1", account=account)
        case "docker":
            host.dockerd.pull(f"{HUB}/{repository}", "1", account)
        case _:
            host.podman.pull(f"{HUB}/{repository}:1", account)
    return time.monotonic() - started


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("account", [None, WRONG], ids=["nobody", "wrong"])
def test_who_has_no_credentials_gets_nothing(scene: Scene, runtime: str, account: Account | None) -> None:
    sent = scene.host.registry.meter.total_blob_bytes()
    with pytest.raises(ClientFailed):
        pull(scene.host, runtime, f"team/{runtime}", account)
    assert scene.host.registry.meter.total_blob_bytes() == sent


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_who_has_credentials_gets_the_image(scene: Scene, runtime: str, figure: Figure) -> None:
    received = scene.host.agent.received().total
    seconds = pull(scene.host, runtime, f"team/{runtime}", ACCOUNT)
    through = scene.host.agent.received().total - received
    if scene.through_agent(runtime):
        assert through == private(runtime).blob_bytes
    else:
        assert through == 0
    figure(f"private image by {runtime}{' with login' if scene.login else ''}", seconds, "s", at_most=PAST_SECONDS)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_the_agent_holds_now_is_still_not_everybodys(scene: Scene, runtime: str) -> None:
    reference = f"{HUB}/team/{runtime}:1"
    match runtime:
        case "containerd":
            scene.host.containerd.remove(reference)
        case "docker":
            scene.host.dockerd.remove(f"team/{runtime}:1")
        case _:
            scene.host.podman.remove(reference)
    for account in (None, WRONG):
        with pytest.raises(ClientFailed):
            pull(scene.host, runtime, f"team/{runtime}", account)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_public_image_needs_none(scene: Scene, runtime: str) -> None:
    sent = scene.host.registry.meter.total_blob_bytes()
    pull(scene.host, runtime, OPEN, None)
    if runtime != RUNTIMES[0]:
        assert scene.host.registry.meter.total_blob_bytes() == sent
