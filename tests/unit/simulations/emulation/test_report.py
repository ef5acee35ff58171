"""What is shown of runs."""

import json
from pathlib import Path

import pytest

from simulations.emulation import plot
from simulations.emulation.report import document, table
from simulations.emulation.scenario import Scenario, parse
from tests.unit.simulations.emulation.outcomes import host, outcome, silent


@pytest.fixture
def scenario() -> Scenario:
    return parse('description = "two hosts"\nlayers = ["1MiB"]\nhosts = [{count = 2}]\n', "made-up")


def test_one_run_has_one_column_a_system(scenario: Scenario) -> None:
    run = outcome([host("host-1", 1.25), host("host-2", 1.1)])
    lines = table(scenario, {"p2pdist": [run], "direct": [silent(run)]}).splitlines()
    assert lines[0] == "made-up: two hosts"
    assert lines[1].split() == ["p2pdist", "direct"]
    cells = {line.split("  ")[0]: line.split()[-2:] for line in lines[2:]}
    assert cells["slowest (s)"] == ["1.250", "1.250"]
    assert cells["slowest x bound"] == ["bound", "1.250"]
    assert cells["origin copies"] == ["1", "1"]
    assert lines[-1] == "direct: origin embedded, congestion control reno, runs 1"


def test_several_runs_have_median_and_worst(scenario: Scenario) -> None:
    runs = [outcome([host("host-1", seconds)], busy=busy) for seconds, busy in ((1.0, 0.5), (3.0, 0.95), (1.5, 0.5))]
    lines = table(scenario, {"p2pdist": runs}).splitlines()
    assert lines[1].split("  ")[-2:] == ["p2pdist, median", "worst"]
    assert next(line.split()[-2:] for line in lines if line.startswith("slowest (s)")) == ["1.500", "3"]
    assert "p2pdist: the cores were saturated in 1 of 3 runs: times say more about this machine" in lines


def test_what_befell_a_host_is_said(scenario: Scenario) -> None:
    text = table(scenario, {"p2pdist": [outcome([host("host-1", 1.0), host("host-2", None)])]})
    assert "host-2, which an event befell, didn't finish" in text


def test_programs_get_every_host(scenario: Scenario) -> None:
    run = outcome([host("host-1", 1.25), host("host-2", 1.1)])
    found = json.loads(json.dumps(document(scenario, {"p2pdist": [run]}, samples=False)))
    (first,) = found["systems"]["p2pdist"]["runs"]
    assert [each["host"] for each in first["hosts"]] == ["host-1", "host-2"]
    assert first["figures"]["slowest"] == 1.25
    assert "samples" not in first
    assert found["systems"]["p2pdist"]["summary"]["slowest"] == {"median": 1.25, "worst": 1.25, "unit": "s"}
    assert document(scenario, {"p2pdist": [run]}, samples=True)["systems"]["p2pdist"]["runs"][0]["samples"]


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn before a test begins, since matplotlib keeps the files of its fonts open."""
    pytest.importorskip("matplotlib")
    plot.require()
    path = tmp_path_factory.mktemp("plots") / "a.png"
    made_up = parse('description = "two hosts"\nlayers = ["1MiB"]\nhosts = [{count = 2}]\n', "made-up")
    run = outcome([host("host-1", 1.25), host("host-2", None)])
    plot.draw(made_up, {"p2pdist": [run], "direct": [silent(run)]}, path)
    return path


def test_a_picture(picture: Path) -> None:
    assert picture.read_bytes().startswith(b"\x89PNG")
