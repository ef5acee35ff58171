"""A container of an image that came through the fleet runs."""

from collections.abc import Callable
from pathlib import Path

from tests.system.containerd import Containerd
from tests.system.fleet import UPSTREAM, open_fleet
from tests.system.images import busybox_layer, image, layer


def test_one_container_of_the_pulled_image_runs(
    tmp_path: Path, require_program: Callable[[str], str], require_root: None
) -> None:
    for program in ("docker-registry", "containerd", "ctr", "runc", "unshare", "busybox"):
        require_program(program)
    command = ["/bin/sh", "-c", "busybox sha256sum /data/payload && busybox echo it runs"]
    made = image(busybox_layer(), layer(2_000_000, "payload", "zstd"), command=command)
    with open_fleet(tmp_path, agents=2) as (registry, fleet), Containerd(tmp_path / "containerd") as containerd:
        registry.push(made, "library/runs", "1")
        containerd.mirror(UPSTREAM, fleet.agents[1].shim_url)
        containerd.pull(f"{UPSTREAM}/library/runs:1")
        said = containerd.run_container(f"{UPSTREAM}/library/runs:1").splitlines()
        received = fleet.agents[1].received()
    assert said[0].endswith("/data/payload")
    assert len(said[0].split()[0]) == 64
    assert said[1] == "it runs"
    assert received.total == made.blob_bytes
