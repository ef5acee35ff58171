"""The checks of tests/conftest.py, on tests written for the purpose and run by a pytest of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


def _run(directory: Path, **environment: str) -> str:
    """What pytest prints about `_TESTS` under our conftest."""
    (directory / "conftest.py").write_text(_CONFTEST.read_text())
    (directory / "test_it.py").write_text(_TESTS)
    (directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    plain = {key: value for key, value in os.environ.items() if key != "CI" and not key.startswith("PYTEST")}
    plugins = ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:hypothesispytest", "-p", "no:randomly"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, "-rA", "."],
        cwd=directory,
        env=plain | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _run(tmp_path_factory.mktemp("plain"))


def test_a_leaked_thread_fails_the_test(output: str) -> None:
    assert "ERROR test_it.py::test_thread - Failed: the test left threads running: forgotten" in output


def test_a_leaked_socket_fails_the_test(output: str) -> None:
    assert "ERROR test_it.py::test_socket - Failed: the test left descriptors open: " in output


def test_a_dropped_file_fails_the_test(output: str) -> None:
    assert "FAILED test_it.py::test_file" in output
    assert "ResourceWarning" in output


def test_threads_that_end_and_files_that_are_closed_pass(output: str) -> None:
    assert "PASSED test_it.py::test_clean" in output
    assert "ERROR test_it.py::test_clean" not in output


def test_a_missing_program_is_a_skip_and_in_ci_a_failure(output: str, tmp_path: Path) -> None:
    assert "SKIPPED [1] conftest.py:" in output
    assert "the program no-such-program isn't installed" in output
    assert "FAILED test_it.py::test_program - Failed: the program no-such-program isn't" in _run(tmp_path, CI="true")


def test_figures_are_printed_also_when_they_miss_their_limit(output: str) -> None:
    assert "test_it.py::test_figure: time: 1.04 s (<= 1.05)" in output
    assert "test_it.py::test_bad_figure: copies: 2 (<= 1.05)" in output
    assert "FAILED test_it.py::test_bad_figure" in output
