"""`p2pdist config check` and `p2pdist config show`."""

from pathlib import Path

import pytest

from p2pdist.cli import main

_AGENT = '[tracker]\naddress = "t:1"\njoin_token = "s3cret"\n'


@pytest.mark.parametrize(
    ("text", "whose"), [(_AGENT, "an agent"), ('lease = "30s"\n', "a tracker"), ("[control]\ninsecure = true\n", "a t")]
)
def test_a_good_file_is_fine(text: str, whose: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "some.toml"
    path.write_text(text)
    assert main(["config", "check", str(path)]) == 0
    assert f"{path}: fine, the configuration of {whose}" in capsys.readouterr().out


def test_every_mistake_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(_AGENT + "zonee = 1\n[store]\nquota = 1\n")
    assert main(["config", "check", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[3] for line in lines] == ["tracker.zonee", "store.quota = 1"]
    assert all(line.startswith(f"p2pdist: error: {path}: ") for line in lines)


@pytest.mark.parametrize("text", ["", '[log]\nlevel = "info"\n', 'lease = "1s"\nzone = "a"\n'])
def test_a_file_that_could_be_either(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "some.toml"
    path.write_text(text)
    assert main(["config", "check", str(path)]) == 2
    assert "say --kind agent or --kind tracker" in capsys.readouterr().err


def test_the_kind_can_be_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "some.toml"
    path.write_text("")
    assert main(["config", "check", str(path), "--kind", "tracker"]) == 0
    assert main(["config", "check", str(path), "--kind", "agent"]) == 2
    assert "tracker.address: is missing" in capsys.readouterr().err


def test_show_names_sources_and_hides_secrets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2PDIST_STORE_QUOTA", "20GiB")
    path = tmp_path / "agent.toml"
    path.write_text(_AGENT)
    assert main(["config", "show", "--config", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "s3cret" not in shown
    lines = {" ".join(line.split()) for line in shown.splitlines()}
    assert {
        f'join_token = "(hidden)" # {path}',
        'quota = "20GiB" # environment P2PDIST_STORE_QUOTA',
        'level = "info" # default',
    } <= lines


def test_show_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--kind", "tracker"]) == 0
    assert 'origin = "https://registry-1.docker.io"' in capsys.readouterr().out
    assert main(["config", "show"]) == 2
    assert "--kind agent" in capsys.readouterr().err
