"""The harness without p2pdist: real clients pull from a real registry, and what it does is counted.

When these fail, the failures of all other system tests mean nothing.
"""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from simulations.network import Link, Network
from tests.system.clients import ClientFailed, Podman, address_of, skopeo_archive, skopeo_copy
from tests.system.containerd import Containerd
from tests.system.images import busybox_layer, image, index, layer
from tests.system.places import Place
from tests.system.registries import ACCOUNT, Registry

REGISTRY = "registry.test"
COMPRESSIONS = ("gzip", "zstd", "none")


@pytest.fixture
def registry(tmp_path: Path, require_program: Callable[[str], str]) -> Registry:
    require_program("docker-registry")
    return Registry(tmp_path / "registry")


def test_skopeo_copies_every_compression_and_the_meter_counts_each_blob_once(
    registry: Registry, tmp_path: Path, require_program: Callable[[str], str]
) -> None:
    require_program("skopeo")
    made = image(*(layer(50_000, compression, compression) for compression in COMPRESSIONS))
    with registry:
        registry.push(made, "library/app", "1")
        assert registry.meter.total_blob_bytes() == 0
        skopeo_copy(f"{address_of(registry.url)}/library/app:1", tmp_path / "copy").assert_is(made)
        assert registry.meter.blob_bytes() == {blob.digest: blob.size_bytes for blob in made.blobs}
        assert registry.meter.requests("GET", "/manifests/1$") == 1
        skopeo_copy(f"{address_of(registry.url)}/library/app@{made.manifest.digest}", tmp_path / "again")
        assert registry.meter.total_blob_bytes() == 2 * made.blob_bytes


def test_skopeo_unpacks_into_a_docker_archive(
    registry: Registry, tmp_path: Path, require_program: Callable[[str], str]
) -> None:
    require_program("skopeo")
    made = image(layer(50_000, "gzip"), layer(50_000, "none", "none"))
    with registry:
        registry.push(made, "library/app", "1")
        configuration = skopeo_archive(f"{address_of(registry.url)}/library/app:1", tmp_path / "archive.tar")
        assert configuration["rootfs"]["diff_ids"] == [layer.diff_id for layer in made.layers]


def test_skopeo_copies_all_of_an_index(
    registry: Registry, tmp_path: Path, require_program: Callable[[str], str]
) -> None:
    require_program("skopeo")
    amd64, arm64 = image(layer(1000, "amd64")), image(layer(1000, "arm64"), architecture="arm64")
    with registry:
        registry.push(index(amd64, arm64), "library/app", "1")
        source = f"{address_of(registry.url)}/library/app:1"
        skopeo_copy(source, tmp_path / "one").assert_is(amd64)
        copied = skopeo_copy(source, tmp_path / "all", every_platform=True).blobs()
        assert copied.keys() == {blob.hex for one in (amd64, arm64) for blob in one.blobs}


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_containerd_pulls_through_a_mirror_and_runs_a_container(
    compression: str, registry: Registry, tmp_path: Path, require_program: Callable[[str], str], require_root: None
) -> None:
    for program in ("containerd", "ctr", "runc", "unshare", "busybox"):
        require_program(program)
    said = ["/bin/busybox", "echo", f"unpacked from {compression}"]
    made = image(busybox_layer(), layer(50_000, "data", compression), command=said)
    with registry, Containerd(tmp_path / "containerd") as containerd:
        registry.push(made, "library/app", "1")
        containerd.mirror(REGISTRY, registry.url)
        containerd.pull(f"{REGISTRY}/library/app:1")
        containerd.assert_holds(made)
        assert containerd.digest_of(f"{REGISTRY}/library/app:1") == made.manifest.digest
        assert containerd.run_container(f"{REGISTRY}/library/app:1") == f"unpacked from {compression}\n"
        assert registry.meter.requests("GET", rf"\?ns={REGISTRY}") > 0
        assert registry.meter.blob_bytes() == {blob.digest: blob.size_bytes for blob in made.blobs}


def test_podman_pulls_through_a_mirror(
    registry: Registry, require_program: Callable[[str], str], require_root: None
) -> None:
    require_program("podman")
    made = image(layer(50_000, "podman"))
    with registry:
        registry.push(made, "library/app", "1")
        with Podman(REGISTRY, address_of(registry.url)) as podman:
            assert podman.pull(f"{REGISTRY}/library/app:1") == made.manifest.digest
        assert registry.meter.total_blob_bytes() == made.blob_bytes


@pytest.mark.parametrize("auth", ["htpasswd", "token"])
def test_a_private_repository_asks_who_one_is(auth: str, tmp_path: Path, require_program: Callable[[str], str]) -> None:
    require_program("docker-registry")
    require_program("skopeo")
    made = image(layer(1000, auth))
    with Registry(tmp_path / "registry", auth=auth) as registry:
        registry.push(made, "private/app", "1")
        source = f"{address_of(registry.url)}/private/app:1"
        with pytest.raises(ClientFailed, match=r"authentication required|unauthorized|denied"):
            skopeo_copy(source, tmp_path / "denied")
        assert registry.meter.total_blob_bytes() == 0
        login = registry.write_docker_config(tmp_path / "auth.json")
        skopeo_copy(source, tmp_path / "copy", authorization_file=login).assert_is(made)
        assert registry.meter.total_blob_bytes() == made.blob_bytes
    accounts = {request.account for request in registry.tokens.requests}
    assert accounts == ({"", ACCOUNT.user} if auth == "token" else set())


def test_a_gate_holds_a_blob_until_it_is_opened(registry: Registry) -> None:
    made = image(layer(1_000_000, "gate", "none"))
    blob = made.layers[0]
    with registry:
        registry.push(made, "library/app", "1")
        gate = registry.meter.gate(blob.digest, 300_000)
        connection = registry.connect_through_meter()
        connection.request("GET", f"/v2/library/app/blobs/{blob.digest}")
        with connection.getresponse() as response:
            assert response.read(300_000) == blob.data[:300_000]
            gate.wait_reached()
            assert registry.meter.blob_bytes()[blob.digest] == 300_000
            gate.open()
            assert response.read() == blob.data[300_000:]
        connection.close()


def test_a_blob_is_spoilt_and_cut_on_demand(registry: Registry) -> None:
    made = image(layer(200_000, "fault", "none"))
    blob = made.layers[0]
    with registry:
        registry.push(made, "library/app", "1")
        registry.meter.spoil(blob.digest)
        registry.meter.cut_once(blob.digest, 100_000)
        first, second = (registry.read_through_meter(f"/v2/library/app/blobs/{blob.digest}") for _ in range(2))
    assert first == blob.data[: len(first)]
    assert 0 < len(first) <= 131072
    assert second[:-1] == blob.data[:-1]
    assert second[-1] != blob.data[-1]


def test_the_pace_limits_all_bodies_together(registry: Registry) -> None:
    made = image(layer(1_000_000, "pace", "none"))
    with registry:
        registry.push(made, "library/app", "1")
        registry.meter.pace(2_000_000)
        started = time.monotonic()
        registry.read_through_meter(f"/v2/library/app/blobs/{made.layers[0].digest}")
        assert 0.4 < time.monotonic() - started < 2


def test_a_registry_on_a_shaped_host_is_fetched_at_the_pace_of_its_link(
    tmp_path: Path, require_program: Callable[[str], str], needs_namespaces: None
) -> None:
    require_program("docker-registry")
    made = image(layer(2_000_000, "shaped", "none"))
    blob = made.layers[0]
    with (
        Network({"origin": Link.symmetric(20_000_000), "client": Link()}) as network,
        Registry(tmp_path / "registry", place=Place(network["origin"])) as registry,
    ):
        registry.push(made, "library/app", "1")
        assert network.counters()["origin"].sent < 100_000
        for url in (registry.url, registry.direct_url):
            host, port = address_of(url).split(":")
            started = time.monotonic()
            connection = Place(network["client"]).http(host, int(port))
            connection.request("GET", f"/v2/library/app/blobs/{blob.digest}")
            with connection.getresponse() as response:
                assert response.read() == blob.data
            connection.close()
            assert 0.6 < time.monotonic() - started < 2
        assert registry.meter.total_blob_bytes() == blob.size_bytes
        assert network.counters()["origin"].sent > 2 * blob.size_bytes
