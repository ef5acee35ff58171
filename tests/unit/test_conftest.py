"""The checks of tests/conftest.py, on tests written for the purpose and run by a pytest of their own."""

import os
import subprocess
import sys
from pathlib import Path

_CONFTEST = Path(__file__).parents[1] / "conftest.py"
_TESTS = """
import socket, threading, trio

done = threading.Event()
kept = []

def test_thread():
    threading.Thread(target=done.wait, name="forgotten", daemon=True).start()

def test_socket():
    kept.append(socket.socket())

def test_file():
    open(__file__)

def test_clean():
    threading.Thread(target=lambda: None).start()
    trio.run(trio.to_thread.run_sync, lambda: None)
    open(__file__).close()

def test_program(require_program):
    require_program("no-such-program")

def test_figure(figure):
    figure("time", 1.04, "s", at_most=1.05)

def test_bad_figure(figure):
    figure("copies", 2.0, at_most=1.05)
"""


def _run(directory: Path, *options: str, **environment: str) -> str:
    """What pytest prints about `_TESTS` under our conftest."""
    (directory / "conftest.py").write_text(_CONFTEST.read_text())
    (directory / "test_it.py").write_text(_TESTS)
    (directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    plain = {key: value for key, value in os.environ.items() if key != "CI" and not key.startswith("PYTEST")}
    plugins = ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:hypothesispytest"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, "-rA", *options, "."],
        cwd=directory,
        env=plain | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout


def test_what_leaks_fails_and_figures_are_printed(tmp_path: Path) -> None:
    output = _run(tmp_path)
    expected = [
        "ERROR test_it.py::test_thread - Failed: the test left threads running: forgotten",
        "ERROR test_it.py::test_socket - Failed: the test left descriptors open: ",
        "FAILED test_it.py::test_file",
        "PASSED test_it.py::test_clean",
        "SKIPPED [1] conftest.py:",
        "the program no-such-program isn't installed",
        "test_it.py::test_figure: time: 1.04 s (<= 1.05)",
        "test_it.py::test_bad_figure: copies: 2 (<= 1.05)",
        "FAILED test_it.py::test_bad_figure",
        "ResourceWarning",
    ]
    assert [line for line in expected if line not in output] == []
    assert "ERROR test_it.py::test_clean" not in output


def test_in_ci_a_missing_program_is_a_failure(tmp_path: Path) -> None:
    output = _run(tmp_path, "-k", "program", CI="true")
    assert "FAILED test_it.py::test_program - Failed: the program no-such-program isn't" in output
