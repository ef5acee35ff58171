"""An upstream whose origin leads back to a shim of the same fleet: refused at once, instead of waited for by all."""

import time
from pathlib import Path

import pytest

from p2pdist.demo.ports import FreePorts
from tests.system.fetches import get
from tests.system.fleet import UPSTREAM, Fleet

LOOP_SECONDS = 5.0
DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize("what", ["manifests/1", f"manifests/{DIGEST}", f"blobs/{DIGEST}", "tags/list"])
def test_a_fleet_that_is_its_own_origin(what: str, tmp_path: Path) -> None:
    [port] = FreePorts("127.0.0.1").take(1)
    shim = {"shim": {"listen": [f"127.0.0.1:{port}"], "default_upstream": UPSTREAM}}
    origin = {"name": UPSTREAM, "origin": f"http://127.0.0.1:{port}"}
    with Fleet(tmp_path, [origin], 1, agent_settings=shim) as fleet:
        fleet.agents[0].shim_port = port
        began = time.monotonic()
        status, _, body = get(fleet.agents[0], f"/v2/library/app/{what}")
        assert status == 404, body
        assert time.monotonic() - began < LOOP_SECONDS
