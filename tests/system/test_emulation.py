"""The emulation, on scenarios so small that they say nothing about p2pdist: every part of it works, nothing is left."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simulations.events.flows import flows_of
from simulations.events.reading import read
from simulations.network import namespaces
from simulations.ownership import Owner

pytestmark = [pytest.mark.usefixtures("needs_namespaces"), pytest.mark.timeout(200)]

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
FLEET = """
description = "two hosts, one of them late"
layers = ["512KiB", "2 x 256KiB"]
tracker.link = "40 Mbit/s"
origin.link = "40 Mbit/s"

[[hosts]]
count = 1
link = "40 Mbit/s"

[[hosts]]
name = "late"
count = 1
link = "40 Mbit/s"
at = "50%"
"""
PREPARED = """
description = "warm, a zone, a holder, one that is killed and comes back"
layers = ["1MiB"]
start = "warm"
zone_link = "20 Mbit/s"
tracker = { link = "40 Mbit/s", zone = "near" }

[[hosts]]
count = 2
link = "40 Mbit/s"
zone = "far"

[[hosts]]
name = "holder"
count = 1
link = "40 Mbit/s"
holds = true

[arrival]
pattern = "one-by-one"

[[event]]
at = "0s"
target = "host-2"
action = "restart"
"""


def emulate(directory: Path, scenario: str, *arguments: str) -> dict[str, Any]:
    """What a run says in JSON; the directory must be empty again afterwards."""
    path = directory / "small.toml"
    path.write_text(scenario)
    place = directory / "place"
    place.mkdir()
    command = [sys.executable, "-m", "simulations", "emulate", path, "--json", "--directory", place, *arguments]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=180)
    assert finished.returncode == 0, finished.stderr
    assert list(place.iterdir()) == []
    document: dict[str, Any] = json.loads(finished.stdout)
    return document


def test_systems_side_by_side(tmp_path: Path, require_program: Callable[[str], str]) -> None:
    for program in ("docker-registry", "nginx"):
        require_program(program)
    events = tmp_path / "events.jsonl"
    found = emulate(tmp_path, FLEET, "--events", str(events), "--system", "p2pdist", "direct", "nginx", "bittorrent")
    runs = {name: system["runs"][0] for name, system in found["systems"].items()}
    assert list(runs) == ["p2pdist", "direct", "nginx", "bittorrent"]
    for name, run in runs.items():
        figures = run["figures"]
        assert figures["origin copies"] == (2 if name == "direct" else 1), name
        assert run["origin_kind"] == "docker-registry"
        assert 0.9 < run["usable_share"] < 1.0
        assert [host["received_bytes"] for host in run["hosts"]] == [MIB, MIB]
        first, late = run["hosts"]
        assert first["seconds"] >= 0.8 * first["bound_seconds"]
        assert late["at_seconds"] == pytest.approx(first["bound_seconds"] / 2, abs=0.05)
        assert len(first["blobs"]) == 3
    assert runs["p2pdist"]["figures"]["seeder copies"] >= 1.0
    assert runs["p2pdist"]["cpu_seconds"] > 0
    assert runs["p2pdist"]["figures"]["memory of an agent, most"] > 20
    flows = flows_of(read([events]).lines)
    assert flows.receivers == ["tracker", "host-1", "late-1"]
    assert len(flows.blobs) == 3
    received = {host: sum(flows.by_source(host).values()) for host in flows.receivers}
    assert received == dict.fromkeys(flows.receivers, MIB)
    assert all(span.end - span.start < 10 for span in flows.pulls)
    assert len(flows.pulls) == 6
    assert runs["direct"]["figures"]["seeder copies"] is None
    assert runs["nginx"]["figures"]["all bytes sent on the tracker's link / image"] >= 2.0


def test_holders_zones_batches_and_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, require_program: Callable[[str], str]
) -> None:
    require_program("ip")
    bare = tmp_path / "bin"
    bare.mkdir()
    for program in ("ip", "tc"):
        (bare / program).symlink_to(require_program(program))
    monkeypatch.setenv("PATH", str(bare))
    found = emulate(tmp_path, PREPARED)
    (run,) = found["systems"]["p2pdist"]["runs"]
    assert run["origin_kind"] == "embedded"
    assert run["figures"]["origin copies"] == 0
    assert [wave["hosts"] for wave in run["waves"]] == [1, 1]
    measured, disturbed = run["hosts"]
    assert (measured["disturbed"], disturbed["disturbed"]) == (False, True)
    assert measured["bound_seconds"] == pytest.approx(MIB * 8 / (20e6 * run["usable_share"]))
    assert run["zone_link_bytes"] > MIB
    assert disturbed["seconds"] is not None


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(FLEET)
    command = [sys.executable, "-m", "simulations", "emulate", path, "--directory", tmp_path, "--repeat", "50"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "starting p2pdist" in line:
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
        process.stderr.read()
    assert list(tmp_path.iterdir()) == [path]
    assert [name for name in namespaces() if (owner := Owner.parse(name)) and owner.pid == process.pid] == []
    assert not os.path.exists(f"/proc/{process.pid}")
