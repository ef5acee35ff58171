"""The command itself: what it imports, how it renders errors, its exit codes."""

import argparse
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from p2pdist import __version__
from p2pdist.cli import COMMANDS, main
from p2pdist.core.errors import InvalidInput, P2PDistError, StoreError, Unavailable


def _play(monkeypatch: pytest.MonkeyPatch, outcome: BaseException | int) -> None:
    """Let `p2pdist status` return or raise `outcome`."""
    module = ModuleType("p2pdist.cli.status")

    def add_parser(subparsers: Any) -> None:
        subparsers.add_parser("status")

    def run(args: argparse.Namespace) -> int:
        assert args.command == "status"
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    module.add_parser, module.run = add_parser, run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "p2pdist.cli.status", module)


def test_what_a_command_returns_is_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    _play(monkeypatch, 7)
    assert main(["status"]) == 7


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (P2PDistError("it broke"), 1, "p2pdist: error: it broke\n"),
        (InvalidInput("one\ntwo"), 2, "p2pdist: error: one\np2pdist: error: two\n"),
        (Unavailable("nobody there"), 3, "p2pdist: error: nobody there\n"),
        (KeyboardInterrupt(), 130, ""),
        (ExceptionGroup("nursery", [StoreError("full")]), 4, "p2pdist: error: full\n"),
        (
            BaseExceptionGroup("", [KeyboardInterrupt(), ExceptionGroup("", [Unavailable("a"), Unavailable("a")])]),
            3,
            "p2pdist: error: a\n",
        ),
        (BaseExceptionGroup("nursery", [KeyboardInterrupt()]), 130, ""),
    ],
)
def test_errors_are_sentences_with_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    _play(monkeypatch, error)
    assert main(["status"]) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", said)


@pytest.mark.parametrize("bug", [ZeroDivisionError(), ExceptionGroup("", [InvalidInput("x"), ZeroDivisionError()])])
def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, bug: Exception) -> None:
    _play(monkeypatch, bug)
    with pytest.raises(type(bug)):
        main(["status"])


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"p2pdist {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["status", "--no-such-option"], ["-x", "status"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "error:" in capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"    {name} " in shown and summary in shown for name, summary in COMMANDS.items())


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "demo"])
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"usage: p2pdist {name}" in capsys.readouterr().out


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["tracker", "--help"], ["agent", "--help"], ["status", "--help"]])
def test_only_what_a_command_needs_is_imported(arguments: list[str]) -> None:
    code = f"import sys, p2pdist.cli; p2pdist.cli.main({arguments}); print(*sys.modules, file=sys.stderr)"
    modules = set(_python(code).stderr.split())
    assert "p2pdist.cli" in modules
    unwanted = {"rich", "trio", "libtorrent", "cryptography", "p2pdist.demo", "p2pdist.cli.pull", "p2pdist.cli.pki"}
    assert not unwanted & modules


def test_a_reader_that_went_away_is_no_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "p2pdist", "config", "show", "--kind", "tracker"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, complaint = process.communicate(timeout=60)
    assert (process.returncode, complaint) == (141, b"")
