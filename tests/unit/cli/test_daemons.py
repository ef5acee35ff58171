"""`p2pdist tracker` and `p2pdist agent`: what of the command line reaches the daemons."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from p2pdist.cli import main
from p2pdist.config import AgentConfig, TrackerConfig


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[TrackerConfig | AgentConfig]:
    """The configurations that daemons were started with; none really runs."""
    configs: list[TrackerConfig | AgentConfig] = []

    def run(config: TrackerConfig | AgentConfig) -> int:
        configs.append(config)
        return 5

    for daemon in ("tracker", "agent"):
        module = ModuleType(f"p2pdist.{daemon}.main")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"p2pdist.{daemon}.main", module)
    return configs


def test_an_agent_needs_no_file(started: list[AgentConfig]) -> None:
    ca_hash = "sha256:" + "0" * 64
    assert main(["agent", "--tracker", "t.example:7400", "--join", "s3cret", "--ca-hash", ca_hash]) == 5
    (config,) = started
    assert (config.tracker.address, config.tracker.join_token, config.tracker.ca_hash) == (
        "t.example:7400",
        "s3cret",
        ca_hash,
    )
    assert config.log.level == "info"


def test_the_command_line_goes_before_the_file(started: list[AgentConfig], tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text('zone = "eu"\n[tracker]\naddress = "file:1"\n[log]\nlevel = "error"\n')
    assert main(["agent", "--config", str(path), "--tracker", "line:2", "-v"]) == 5
    (config,) = started
    assert (config.zone, config.tracker.address, config.log.level) == ("eu", "line:2", "debug")


def test_a_tracker_runs_with_its_file(started: list[TrackerConfig], tmp_path: Path) -> None:
    path = tmp_path / "tracker.toml"
    path.write_text('lease = "10s"\n')
    assert main(["tracker", "--config", str(path)]) == 5
    assert main(["tracker"]) == 5
    assert [config.lease for config in started] == [10.0, 30.0]


def test_a_bad_option_is_named(started: list[AgentConfig], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agent", "--tracker", "t.example"]) == 2
    assert capsys.readouterr().err == (
        'p2pdist: error: command line: tracker.address = "t.example": an address needs a host and a port,'
        ' for example "127.0.0.1:7500" or "[::1]:7500"\n'
    )
    assert started == []


def test_the_event_log_has_a_place_in_every_layer(
    started: list[TrackerConfig | AgentConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tracker.toml"
    path.write_text('[log]\nevents = "from-file"\n')
    assert main(["tracker", "--config", str(path)]) == 5
    monkeypatch.setenv("P2PDIST_LOG_EVENTS", "/from/environment")
    assert main(["tracker", "--config", str(path)]) == 5
    assert main(["tracker", "--config", str(path), "--events", "/from/line"]) == 5
    assert main(["agent", "--tracker", "t.example:1", "--events", "/from/line"]) == 5
    monkeypatch.delenv("P2PDIST_LOG_EVENTS")
    assert main(["agent", "--tracker", "t.example:1"]) == 5
    files = [tmp_path / "from-file", Path("/from/environment"), Path("/from/line"), Path("/from/line"), None]
    assert [config.log.events for config in started] == files
