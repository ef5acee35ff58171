"""As many upstreams as an operator likes, each named in any of the ways that clients have."""

from collections.abc import Callable
from pathlib import Path

from tests.conftest import Figure
from tests.system.fetches import get
from tests.system.fleet import Fleet
from tests.system.images import image, layer
from tests.system.registries import Registry

UPSTREAMS = 300


def test_hundreds_of_upstreams(tmp_path: Path, require_program: Callable[[str], str], figure: Figure) -> None:
    require_program("docker-registry")
    with Registry(tmp_path / "registry") as registry:
        registry.push(image(layer(1000, "many")), "team/app", "1")
        upstreams = [{"name": f"r{number}.test", "origin": registry.direct_url} for number in range(UPSTREAMS)]
        with Fleet(tmp_path / "fleet", upstreams, 1) as fleet:
            agent = fleet.agents[0]
            for name in ("r0.test", f"r{UPSTREAMS // 2}.test", f"r{UPSTREAMS - 1}.test"):
                for path in (f"/v2/team/app/manifests/1?ns={name}", f"/v2/{name}/team/app/manifests/1",
                             f"/{name}/v2/team/app/manifests/1", f"/v2/{name}/team/app/tags/list"):  # fmt: skip
                    assert get(agent, path)[0] == 200, path
            for path in (f"/v2/team/app/manifests/1?ns=r{UPSTREAMS}.test", "/v2/team/app/manifests/1"):
                assert get(agent, path)[0] == 404, path
            figure(f"memory of a tracker with {UPSTREAMS} upstreams", fleet.tracker.rss_mib(), "MiB", at_most=120)
