"""Real clients pull through the shims of a fleet: skopeo, containerd, podman; by tag and digest; each kind of image."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.clients import Podman, skopeo_archive, skopeo_copy
from tests.system.containerd import Containerd
from tests.system.fleet import UPSTREAM, Fleet, open_fleet
from tests.system.images import Image, image, index, layer
from tests.system.registries import Registry

COMPRESSIONS = ("gzip", "zstd", "none")
LAYER_BYTES = 3_000_000


@pytest.fixture(scope="module")
def origin_and_fleet(
    tmp_path_factory: pytest.TempPathFactory, require_program: Callable[[str], str]
) -> Iterator[tuple[Registry, Fleet]]:
    require_program("docker-registry")
    with open_fleet(tmp_path_factory.mktemp("clients"), agents=3) as both:
        yield both


@pytest.fixture(scope="module")
def containerd(
    origin_and_fleet: tuple[Registry, Fleet],
    tmp_path_factory: pytest.TempPathFactory,
    require_program: Callable[[str], str],
    require_root: None,
) -> Iterator[Containerd]:
    for program in ("containerd", "ctr", "unshare"):
        require_program(program)
    with Containerd(tmp_path_factory.mktemp("containerd")) as daemon:
        daemon.mirror(UPSTREAM, origin_and_fleet[1].agents[0].shim_url)
        yield daemon


def make(name: str, *compressions: str) -> Image:
    return image(*(layer(LAYER_BYTES, f"{name} {one}", one) for one in compressions))


def blob_bytes_of(registry: Registry, *images: Image) -> int:
    """What left the origin of the blobs of these images."""
    counted = registry.meter.blob_bytes()
    return sum(counted[digest] for digest in {blob.digest for one in images for blob in one.blobs})


@pytest.mark.parametrize("reference", ["tag", "digest"])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_skopeo(
    compression: str,
    reference: str,
    origin_and_fleet: tuple[Registry, Fleet],
    tmp_path: Path,
    require_program: Callable[[str], str],
) -> None:
    require_program("skopeo")
    registry, fleet = origin_and_fleet
    made = make(f"skopeo {compression} {reference}", compression, compression)
    registry.push(made, "library/skopeo", f"{compression}-{reference}")
    wanted = f":{compression}-{reference}" if reference == "tag" else f"@{made.manifest.digest}"
    source = f"{fleet.agents[0].shim_address}/{UPSTREAM}/library/skopeo{wanted}"
    skopeo_copy(source, tmp_path / "copy").assert_is(made)
    assert blob_bytes_of(registry, made) == made.blob_bytes
    skopeo_copy(source, tmp_path / "again").assert_is(made)
    assert blob_bytes_of(registry, made) == made.blob_bytes


@pytest.mark.parametrize("reference", ["tag", "digest"])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_containerd(
    compression: str, reference: str, origin_and_fleet: tuple[Registry, Fleet], containerd: Containerd
) -> None:
    registry, _ = origin_and_fleet
    made = make(f"containerd {compression} {reference}", compression, compression)
    registry.push(made, "library/ctr", f"{compression}-{reference}")
    name = f"{UPSTREAM}/library/ctr" + (
        f":{compression}-{reference}" if reference == "tag" else f"@{made.manifest.digest}"
    )
    containerd.pull(name)
    containerd.assert_holds(made)
    assert containerd.digest_of(name) == made.manifest.digest
    assert blob_bytes_of(registry, made) == made.blob_bytes


def test_skopeo_takes_one_platform_of_an_index_and_then_all_of_it(
    origin_and_fleet: tuple[Registry, Fleet], tmp_path: Path, require_program: Callable[[str], str]
) -> None:
    require_program("skopeo")
    registry, fleet = origin_and_fleet
    amd64 = make("index amd64", "gzip", "zstd")
    arm64 = image(layer(LAYER_BYTES, "index arm64"), architecture="arm64")
    registry.push(index(amd64, arm64), "library/index", "1")
    source = f"{fleet.agents[0].shim_address}/{UPSTREAM}/library/index:1"
    skopeo_copy(source, tmp_path / "one").assert_is(amd64)
    assert blob_bytes_of(registry, amd64, arm64) == amd64.blob_bytes
    copied = skopeo_copy(source, tmp_path / "all", every_platform=True).blobs()
    assert copied == {blob.hex: blob.hex for one in (amd64, arm64) for blob in one.blobs}
    assert blob_bytes_of(registry, amd64, arm64) == amd64.blob_bytes + arm64.blob_bytes


def test_containerd_takes_one_platform_of_an_index(
    origin_and_fleet: tuple[Registry, Fleet], containerd: Containerd
) -> None:
    registry, _ = origin_and_fleet
    amd64 = make("ctr index amd64", "gzip", "zstd")
    arm64 = image(layer(LAYER_BYTES, "ctr index arm64"), architecture="arm64")
    both = index(amd64, arm64)
    registry.push(both, "library/ctr-index", "1")
    containerd.pull(f"{UPSTREAM}/library/ctr-index:1")
    containerd.assert_holds(amd64)
    assert containerd.digest_of(f"{UPSTREAM}/library/ctr-index:1") == both.manifest.digest
    assert blob_bytes_of(registry, arm64) == 0


def test_skopeo_unpacks_into_a_docker_archive(
    origin_and_fleet: tuple[Registry, Fleet], tmp_path: Path, require_program: Callable[[str], str]
) -> None:
    require_program("skopeo")
    registry, fleet = origin_and_fleet
    made = make("archive", "gzip", "none")
    registry.push(made, "library/archive", "1")
    source = f"{fleet.agents[1].shim_address}/{UPSTREAM}/library/archive:1"
    unpacked = skopeo_archive(source, tmp_path / "archive.tar")
    assert unpacked["rootfs"]["diff_ids"] == [layer.diff_id for layer in made.layers]


def test_podman(
    origin_and_fleet: tuple[Registry, Fleet], require_program: Callable[[str], str], require_root: None
) -> None:
    require_program("podman")
    registry, fleet = origin_and_fleet
    made = make("podman", "gzip", "zstd")
    registry.push(made, "library/podman", "1")
    with Podman(UPSTREAM, f"{fleet.agents[2].shim_address}/{UPSTREAM}") as podman:
        assert podman.pull(f"{UPSTREAM}/library/podman:1") == made.manifest.digest
    assert blob_bytes_of(registry, made) == made.blob_bytes


def test_a_tag_that_moved_is_seen_at_once(
    origin_and_fleet: tuple[Registry, Fleet], tmp_path: Path, require_program: Callable[[str], str]
) -> None:
    require_program("skopeo")
    registry, fleet = origin_and_fleet
    source = f"{fleet.agents[0].shim_address}/{UPSTREAM}/library/moving:latest"
    for version in ("old", "new"):
        made = image(layer(10_000, f"moving {version}"))
        registry.push(made, "library/moving", "latest")
        skopeo_copy(source, tmp_path / version).assert_is(made)
