"""The command line of the comparison; the comparison itself is in tests/system/test_shim_command.py."""

import os

import pytest

from simulations.__main__ import main


@pytest.mark.parametrize("arguments", [["--size", "0"], ["--repeat", "0"]])
def test_nothing_to_measure(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shim", *arguments]) == 2
    assert "must be above zero" in capsys.readouterr().err


def test_without_rights_nothing_is_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["shim", "--size", "1KiB"]) == 3
    assert "network namespaces need root" in capsys.readouterr().err
