"""Bad requests, bad origins, bad configurations: what is wrong is said at the right place, everything else goes on."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from p2pdist.core.errors import InvalidInput, StoreError
from simulations.processes import Process, poll_until
from tests.system.clients import ClientFailed, skopeo_copy
from tests.system.daemons import P2PDIST, toml
from tests.system.fetches import at_once, fetch_blob, get, pull
from tests.system.fleet import UPSTREAM, Fleet, open_fleet
from tests.system.images import image, layer
from tests.system.registries import Registry

REPOSITORY = "library/app"
EXIT_SECONDS = 20
MIB = 1 << 20


@pytest.fixture(scope="module")
def origin_and_fleet(
    tmp_path_factory: pytest.TempPathFactory, require_program: Callable[[str], str]
) -> Iterator[tuple[Registry, Fleet]]:
    require_program("docker-registry")
    with open_fleet(tmp_path_factory.mktemp("bad"), agents=2) as both:
        both[0].push(image(layer(10_000, "there")), REPOSITORY, "1")
        yield both


def assert_still_works(registry: Registry, fleet: Fleet, name: str) -> None:
    """An image that nobody has asked for before comes through every agent."""
    made = image(layer(50_000, name))
    registry.push(made, REPOSITORY, name)
    for agent in fleet.agents:
        pull(agent, REPOSITORY, name, made)


# At the shim.

DIGEST = "sha256:" + "0" * 64
REQUESTS = {
    f"{REPOSITORY}/manifests/absent?ns={UPSTREAM}": (404, "MANIFEST_UNKNOWN"),
    f"library/absent/manifests/1?ns={UPSTREAM}": (404, "MANIFEST_UNKNOWN|NAME_UNKNOWN"),
    f"{REPOSITORY}/manifests/{DIGEST}?ns={UPSTREAM}": (404, "MANIFEST_UNKNOWN"),
    f"{REPOSITORY}/blobs/{DIGEST}?ns={UPSTREAM}": (404, "BLOB_UNKNOWN"),
    f"{REPOSITORY}/blobs/{DIGEST[:-1]}?ns={UPSTREAM}": (400, "DIGEST_INVALID"),
    f"{REPOSITORY}/manifests/{DIGEST[:-1]}?ns={UPSTREAM}": (400, "DIGEST_INVALID"),
    f"{REPOSITORY}/manifests/1?ns=elsewhere.test": (404, "NAME_UNKNOWN"),
    f"{REPOSITORY}/manifests/1": (404, "NAME_UNKNOWN"),
    f"Library/App/manifests/1?ns={UPSTREAM}": (400, "NAME_INVALID"),
}


@pytest.mark.parametrize("path", REQUESTS)
def test_a_request_that_cannot_be_served_gets_an_oci_error(path: str, origin_and_fleet: tuple[Registry, Fleet]) -> None:
    expected_status, expected_code = REQUESTS[path]
    status, headers, body = get(origin_and_fleet[1].agents[0], f"/v2/{path}")
    assert status == expected_status, body
    assert headers["content-type"] == "application/json"
    errors = json.loads(body)["errors"]
    assert len(errors) == 1
    assert re.fullmatch(expected_code, errors[0]["code"])
    assert errors[0]["message"]


def test_a_range_beyond_the_blob_is_416(origin_and_fleet: tuple[Registry, Fleet]) -> None:
    registry, fleet = origin_and_fleet
    made = image(layer(10_000, "range"))
    registry.push(made, REPOSITORY, "range")
    blob = made.layers[0]
    path = f"/v2/{REPOSITORY}/blobs/{blob.digest}?ns={UPSTREAM}"
    status, headers, _ = get(fleet.agents[0], path, Range=f"bytes={blob.size_bytes}-")
    assert (status, headers["content-range"]) == (416, f"bytes */{blob.size_bytes}")
    status, headers, body = get(fleet.agents[0], path, Range="bytes=-100")
    assert (status, body) == (206, blob.data[-100:])


# The origin.


def test_wrong_bytes_of_the_origin_reach_no_client_as_a_whole_blob(
    origin_and_fleet: tuple[Registry, Fleet], tmp_path: Path, require_program: Callable[[str], str]
) -> None:
    require_program("skopeo")
    registry, fleet = origin_and_fleet
    made = image(layer(2 * MIB, "spoilt", "none"))
    blob = made.layers[0]
    registry.push(made, REPOSITORY, "spoilt")
    registry.meter.spoil(blob.digest)
    before = [agent.blobs_held() for agent in fleet.agents]
    fetched = at_once([partial(fetch_blob, agent, REPOSITORY, blob) for agent in fleet.agents])
    assert registry.meter.blob_bytes()[blob.digest] >= blob.size_bytes
    assert all(one.size_bytes < blob.size_bytes for one in fetched), fetched
    assert [agent.blobs_held() for agent in fleet.agents] == before
    assert fleet.tracker.metric("p2pdist_tracker_quarantined_total") >= 1
    with pytest.raises(ClientFailed):
        skopeo_copy(f"{fleet.agents[0].shim_address}/{UPSTREAM}/{REPOSITORY}:spoilt", tmp_path / "copy")
    assert_still_works(registry, fleet, "after-spoilt")


def test_a_body_that_the_origin_cuts_is_resumed(origin_and_fleet: tuple[Registry, Fleet]) -> None:
    registry, fleet = origin_and_fleet
    blob = layer(4 * MIB, "cut", "none")
    registry.push(image(blob), REPOSITORY, "cut")
    registry.meter.cut_once(blob.digest, MIB)
    fetched = at_once([partial(fetch_blob, agent, REPOSITORY, blob) for agent in fleet.agents])
    assert all(one.is_whole(blob) for one in fetched)
    assert registry.meter.requests("GET", blob.digest) == 2
    assert registry.meter.blob_bytes()[blob.digest] == blob.size_bytes


# Starting.


def fails_to_start(command: str, config: str, tmp_path: Path, launcher: tuple[str, ...] = ()) -> tuple[int, str]:
    """Exit code and output of a daemon that can't start with this configuration."""
    file = tmp_path / "bad.toml"
    file.write_text(config)
    with Process([P2PDIST, command, "--config", file], log=tmp_path / "bad.log", launcher=launcher) as process:
        return process.wait(EXIT_SECONDS), process.output()


BAD_CONFIGS = {
    "unknown key": ('[shim]\nlisten_on = ["127.0.0.1:7500"]\n', "shim.listen_on"),
    "unknown table": ("[peers]\nmax = 3\n", "peers"),
    "wrong unit": ('[store]\nquota = "10 parsecs"\n', "store.quota"),
    "wrong type": ("[store]\nquota = 5\n", "store.quota"),
}


@pytest.mark.parametrize("what", BAD_CONFIGS)
def test_a_bad_configuration_names_key_and_file(what: str, tmp_path: Path) -> None:
    text, key = BAD_CONFIGS[what]
    code, said = fails_to_start("agent", '[tracker]\naddress = "127.0.0.1:7400"\n' + text, tmp_path)
    assert code == InvalidInput.exit_code
    assert key in said
    assert "bad.toml" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("table", ["control", "relay", "admin"])
def test_a_port_in_use_is_named(table: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "state_dir": str(tmp_path / "state"),
        "upstream": [{"name": UPSTREAM, "origin": "http://127.0.0.1:9"}],
        "control": {"listen": ["127.0.0.1:0"]},
        "relay": {"listen": ["127.0.0.1:0"]},
        "admin": {"listen": "127.0.0.1:0"},
    }
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings[table] = {"listen": address if table == "admin" else [address]}
        code, said = fails_to_start("tracker", toml(settings), tmp_path)
    assert code > 0
    assert address in said
    assert "Traceback" not in said


READ_ONLY = 'mount -t tmpfs -o ro none "$0" && exec "$@"'


def test_a_store_that_is_not_writable_is_named(
    tmp_path: Path, require_program: Callable[[str], str], require_root: None
) -> None:
    require_program("unshare")
    state_dir = tmp_path / "read-only"
    state_dir.mkdir()
    agent = {"state_dir": str(state_dir), "tracker": {"address": "127.0.0.1:9", "insecure": True}}
    launcher = ("unshare", "--mount", "--propagation", "private", "sh", "-c", READ_ONLY, str(state_dir))
    code, said = fails_to_start("agent", toml(agent), tmp_path, launcher)
    assert code == StoreError.exit_code
    assert str(state_dir) in said
    assert "Traceback" not in said


SMALL_STORE = 'mount -t tmpfs -o size=8m none "$0" && exec "$@"'


def test_a_full_store_fails_one_pull_and_nothing_else(
    origin_and_fleet: tuple[Registry, Fleet], require_program: Callable[[str], str], require_root: None
) -> None:
    require_program("unshare")
    registry, fleet = origin_and_fleet
    large, small = layer(16 * MIB, "does not fit", "none"), layer(MIB, "fits", "none")
    registry.push(image(large, small), REPOSITORY, "full")
    agent = fleet.new_agent()
    agent.state_dir.mkdir()
    agent.start(launcher=("unshare", "--mount", "--propagation", "private", "sh", "-c", SMALL_STORE, agent.state_dir))
    agent.wait_ready()
    fetched = fetch_blob(agent, REPOSITORY, large)
    assert fetched.status != 200 or fetched.size_bytes < large.size_bytes
    assert "space" in agent.log_text()
    assert fetch_blob(agent, REPOSITORY, small).is_whole(small)
    poll_until(lambda: agent.blobs_held() == 1, "the small blob is in the store", 20)
    assert fetch_blob(fleet.agents[0], REPOSITORY, large).is_whole(large)
    agent.stop()
    fleet.agents.remove(agent)
