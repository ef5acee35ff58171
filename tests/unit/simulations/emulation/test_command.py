"""The command line of simulations, as far as it says no; what it measures is in tests/system/test_emulation.py."""

import os
from pathlib import Path

import pytest

from p2pdist.core.errors import InvalidInput
from simulations.__main__ import main
from simulations.emulation import command
from simulations.systems import NAMES, Stage, make, module_of

SCENARIO = 'description = "a test"\nlayers = ["1MiB"]\nhosts = [{count = 1}]\n'


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    path = tmp_path / "small.toml"
    path.write_text(SCENARIO)
    return str(path)


def test_a_wrong_scenario_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(SCENARIO.replace("1MiB", "much"))
    assert main(["emulate", str(path)]) == 2
    assert f"{path}: layers[0]: 'much' isn't a size" in capsys.readouterr().err


def test_a_wrong_system_is_named(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["emulate", scenario, "--system", "p2pdist", "carrier-pigeon"]) == 2
    assert "there is no system 'carrier-pigeon'; there are p2pdist, direct" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["emulate"], ["emulate", "x.toml", "--repeat", "0"], ["fly"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage: python -m simulations" in capsys.readouterr().err


def test_without_rights_nothing_begins(
    scenario: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["emulate", scenario]) == 3
    assert "nothing can be emulated here: network namespaces need root" in capsys.readouterr().err


def test_systems_are_modules() -> None:
    assert all(module_of(name).startswith("simulations.systems.") for name in NAMES)
    assert module_of("my.own.system") == "my.own.system"


def test_modules_that_are_no_systems(stage: Stage) -> None:
    with pytest.raises(InvalidInput, match="can't be imported"):
        make("no.such.module", stage)
    with pytest.raises(InvalidInput, match=r"os\.path has no function make"):
        make("os.path", stage)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    network: object = None
    return Stage(network, tmp_path, "http://10.0.0.1:5000", "library/app", ("host-1",), {})  # type: ignore[arg-type]


def test_direct_asks_the_origin(stage: Stage) -> None:
    direct = make("direct", stage)
    assert direct.blob_url("host-1", "sha256:ab") == "http://10.0.0.1:5000/v2/library/app/blobs/sha256:ab"
    assert direct.manifest_url("host-1", "1") == "http://10.0.0.1:5000/v2/library/app/manifests/1"


def test_what_dead_runs_left_is_swept(tmp_path: Path) -> None:
    dead, foreign = tmp_path / "p2pdist.999999999.1.x", tmp_path / "p2pdist.toml"
    dead.mkdir()
    foreign.touch()
    command._sweep(tmp_path)
    assert not dead.exists()
    assert foreign.exists()
