"""Real clients push through a shim, to a registry that is open to all and to one that wants credentials."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.clients import ClientFailed, address_of, run, skopeo_copy
from tests.system.dockerd import Dockerd
from tests.system.fleet import UPSTREAM, Fleet, upstream
from tests.system.images import Image, image, layer
from tests.system.registries import ACCOUNT, Registry

LAYER_BYTES = 20_000_000


@pytest.fixture(scope="module")
def open_to_all(
    tmp_path_factory: pytest.TempPathFactory, require_program: Callable[[str], str]
) -> Iterator[tuple[Registry, Fleet]]:
    for program in ("docker-registry", "skopeo"):
        require_program(program)
    directory = tmp_path_factory.mktemp("push")
    shim = {"shim": {"default_upstream": UPSTREAM}}
    with (
        Registry(directory / "registry") as registry,
        Fleet(directory / "fleet", [upstream(registry, metered=False)], 1, agent_settings=shim) as fleet,
    ):
        yield registry, fleet


def made_as_directory(registry: Registry, directory: Path, name: str) -> tuple[Image, Path]:
    """An image that lies in a directory as skopeo writes it; the registry knows it by another name."""
    made = image(layer(LAYER_BYTES, name), layer(1000, f"{name} small", "zstd"))
    registry.push(made, f"made/{name}", "1")
    skopeo_copy(f"{address_of(registry.direct_url)}/made/{name}:1", directory / "image").assert_is(made)
    return made, directory / "image"


def skopeo_push(source: Path, target: str, *options: str) -> None:
    run(
        [
            "skopeo",
            "--insecure-policy",
            "copy",
            "--dest-tls-verify=false",
            *options,
            f"dir:{source}",
            f"docker://{target}",
        ],
        {"HOME": str(source.parent)},
    )


@pytest.mark.parametrize("prefix", ["", f"{UPSTREAM}/"], ids=["default upstream", "registry in the name"])
def test_skopeo(prefix: str, open_to_all: tuple[Registry, Fleet], tmp_path: Path) -> None:
    registry, fleet = open_to_all
    name = "named" if prefix else "plain"
    made, directory = made_as_directory(registry, tmp_path, name)
    target = f"{fleet.agents[0].shim_address}/{prefix}pushed/{name}"
    skopeo_push(directory, f"{target}:1")
    skopeo_copy(f"{address_of(registry.direct_url)}/pushed/{name}:1", tmp_path / "back").assert_is(made)
    skopeo_copy(f"{target}:1", tmp_path / "through").assert_is(made)
    skopeo_push(directory, f"{target}:2")
    listed = json.loads(run(["skopeo", "list-tags", "--tls-verify=false", f"docker://{target}"]))
    assert sorted(listed["Tags"]) == ["1", "2"]


def test_podman(
    open_to_all: tuple[Registry, Fleet], tmp_path: Path, require_root: None, require_program: Callable[[str], str]
) -> None:
    require_program("podman")
    registry, fleet = open_to_all
    made, directory = made_as_directory(registry, tmp_path, "podman")
    short = Path(tempfile.mkdtemp(prefix="podman-"))
    policy = short / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    podman = ["podman", "--root", short / "root", "--runroot", short / "run", "--tmpdir", short / "tmp"]
    podman += ["--storage-driver", "vfs", "--events-backend", "none"]
    environment = {"HOME": str(short)}
    try:
        pulled = run(
            [*podman, "pull", "--quiet", "--signature-policy", policy, f"dir:{directory}"], environment
        ).strip()
        target = f"{fleet.agents[0].shim_address}/pushed/podman:1"
        run(
            [*podman, "push", "--quiet", "--signature-policy", policy, "--tls-verify=false", pulled, target],
            environment,
        )
    finally:
        shutil.rmtree(short)
    back = skopeo_copy(f"{address_of(registry.direct_url)}/pushed/podman:1", tmp_path / "back")
    layers = json.loads(back.manifest)["layers"]
    assert len(layers) == len(made.layers)
    assert made.config.hex in back.blobs()


def test_docker(
    open_to_all: tuple[Registry, Fleet], tmp_path: Path, require_root: None, require_program: Callable[[str], str]
) -> None:
    for program in ("dockerd", "unshare"):
        require_program(program)
    registry, fleet = open_to_all
    made = image(layer(LAYER_BYTES, "docker"))
    registry.push(made, "made/docker", "1")
    config = tmp_path / "daemon.json"
    config.write_text("{}")
    address = fleet.agents[0].shim_address
    with Dockerd(tmp_path / "docker", config) as docker:
        docker.pull(f"{address}/made/docker", "1")
        docker.push(f"{address}/made/docker:1", f"{address}/pushed/docker", "2")
    back = skopeo_copy(f"{address_of(registry.direct_url)}/pushed/docker:2", tmp_path / "back")
    assert made.config.hex in back.blobs()


@pytest.mark.parametrize("auth", ["htpasswd", "token"])
def test_credentials_of_the_caller_reach_the_registry(
    auth: str, tmp_path: Path, require_program: Callable[[str], str]
) -> None:
    for program in ("docker-registry", "skopeo"):
        require_program(program)
    made = image(layer(1_000_000, auth))
    with Registry(tmp_path / "registry", auth=auth) as registry:
        registry.push(made, "made/secret", "1")
        copied = ["--src-creds", f"{ACCOUNT.user}:{ACCOUNT.password}"]
        source = f"docker://{address_of(registry.direct_url)}/made/secret:1"
        run(
            [
                "skopeo",
                "--insecure-policy",
                "copy",
                "--src-tls-verify=false",
                *copied,
                source,
                f"dir:{tmp_path / 'image'}",
            ]
        )
        shim = {"shim": {"default_upstream": UPSTREAM, "login": True}}
        with Fleet(tmp_path / "fleet", [upstream(registry, metered=False)], 1, agent_settings=shim) as fleet:
            target = f"{fleet.agents[0].shim_address}/pushed/secret:1"
            with pytest.raises(ClientFailed):
                skopeo_push(tmp_path / "image", target)
            skopeo_push(tmp_path / "image", target, "--dest-creds", f"{ACCOUNT.user}:{ACCOUNT.password}")
            assert ACCOUNT.password not in fleet.agents[0].log_text() + fleet.tracker.log_text()
