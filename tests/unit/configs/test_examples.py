"""The files in configs/ say what the program does: every key and its default, the commands of the units, the shim."""

import json
import re
import shlex
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from p2pdist.cli import main
from p2pdist.config import AgentConfig, TrackerConfig, load_agent, load_tracker, read_toml, render
from p2pdist.config.load import keys
from p2pdist.config.schema import Section

_CONFIGS = Path(__file__).parents[3] / "configs"
_KINDS: list[tuple[str, type[Section]]] = [("tracker", TrackerConfig), ("agent", AgentConfig)]
_SHIM = AgentConfig.default("t:1").shim.listen[0]


def _uncommented(name: str) -> str:
    """The example with every key that is shown as a comment in effect; prose has a blank behind the #."""
    return re.sub(r"^#(?=[a-z\[])", "", (_CONFIGS / f"{name}.toml").read_text(), flags=re.MULTILINE)


def _keys_in(table: dict[str, Any], at: str = "") -> set[str]:
    found = set()
    for key, value in table.items():
        if isinstance(value, dict):
            found |= _keys_in(value, f"{at}{key}.")
        elif isinstance(value, list) and isinstance(value[0], dict):
            found |= {inner for item in value for inner in _keys_in(item, f"{at}{key}[].")}
        else:
            found.add(at + key)
    return found


@pytest.mark.parametrize(("name", "kind"), _KINDS)
def test_every_key_is_in_its_example_and_nothing_else(name: str, kind: type[Section]) -> None:
    assert _keys_in(tomllib.loads(_uncommented(name))) == {key for key, _ in keys(kind)}


@pytest.mark.parametrize("name", ["tracker", "agent"])
def test_every_key_is_explained(name: str) -> None:
    lines = (_CONFIGS / f"{name}.toml").read_text().splitlines()
    bare = [
        line for before, line in pairwise(lines) if re.match(r"#?[a-z_]+ = ", line) and before[:1] not in ("#", "[")
    ]
    assert [line for line in bare if not line.startswith("name = ")] == []


@pytest.mark.parametrize("name", ["tracker", "agent"])
def test_what_stands_behind_a_comment_sign_is_the_default(name: str, tmp_path: Path) -> None:
    load = load_tracker if name == "tracker" else load_agent
    path = tmp_path / "uncommented.toml"
    path.write_text(_uncommented(name))
    shown = [render(load(file, environ={})) for file in (path, _CONFIGS / f"{name}.toml")]
    values = [re.sub(r" +# .*", "", text).partition("[[upstream]]")[0].strip() for text in shown]
    assert values[0] == values[1]
    first = load(path, environ={}).config.upstream[0]
    assert first == type(first)(name=first.name, origin=first.name.default_origin)


@pytest.mark.parametrize("name", ["tracker", "agent"])
def test_the_examples_pass_the_check(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", str(_CONFIGS / f"{name}.toml")]) == 0
    assert name in capsys.readouterr().out


def _settings(unit: str) -> dict[str, str]:
    text = (_CONFIGS / "systemd" / unit).read_text()
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))


@pytest.mark.parametrize("name", ["tracker", "agent"])
def test_units_start_what_there_is(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = _settings(f"p2pdist-{name}.service")
    program, command, option, file = shlex.split(settings["ExecStart"])
    assert (Path(program).name, command, option) == ("p2pdist", name, "--config")
    assert Path(file).name == f"{name}.toml"
    assert main([command, option, file, "--help"]) == 0
    default: Path = (TrackerConfig.default() if name == "tracker" else AgentConfig.default("t:1")).state_dir
    assert Path("/var/lib") / settings["StateDirectory"] == default
    assert "usage" in capsys.readouterr().out


def test_every_runtime_is_sent_to_the_address_of_the_shim() -> None:
    hosts = read_toml(_CONFIGS / "containerd" / "hosts.toml")
    assert list(hosts["host"]) == [f"http://{_SHIM}"]
    assert json.loads((_CONFIGS / "docker" / "daemon.json").read_text()) == {"registry-mirrors": [f"http://{_SHIM}"]}
    for registry in read_toml(_CONFIGS / "podman" / "registries.conf")["registry"]:
        assert registry["mirror"] == [{"location": f"{_SHIM}/{registry['prefix']}", "insecure": True}]


def test_the_socket_unit_holds_the_shim_and_the_service_has_time_to_drain() -> None:
    held = _settings("p2pdist-agent.socket")
    assert (held["ListenStream"], held["FileDescriptorName"]) == (_SHIM, "shim")
    stop_seconds = int(_settings("p2pdist-agent.service")["TimeoutStopSec"].removesuffix("s"))
    assert stop_seconds >= AgentConfig.default("t:1").shim.drain + 5
