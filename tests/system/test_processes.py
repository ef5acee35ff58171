"""What the other system tests rely on: processes are weighed, stopped by id, and found again when a run died."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from simulations.ownership import Owner
from simulations.processes import MachineCpu, Process, ProcessFailed, marked_processes, poll_until, sweep_processes

FOREVER = "import signal; print('up', flush=True); signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
SPINNING = "print('up', flush=True)\nwhile True: pass"
ABANDONED = f"""
import os, sys
from pathlib import Path
from simulations.processes import Process
print(Process([sys.executable, "-c", {FOREVER!r}], log=Path(os.devnull)).pid, flush=True)
os.kill(os.getpid(), {int(signal.SIGKILL)})
"""


def python(script: str, log: Path) -> Process:
    process = Process([sys.executable, "-c", script], log=log)
    if "up" in script:
        process.wait_until(lambda: "up" in process.output(), "the line that says so")
    return process


def test_stop_ends_it_and_gives_its_exit_code(tmp_path: Path) -> None:
    with python(FOREVER, tmp_path / "log") as process:
        assert process.running
        assert process.stop() == -signal.SIGTERM
        assert not process.running


def test_one_that_ignores_sigterm_is_killed_and_reported(tmp_path: Path) -> None:
    with python(STUBBORN, tmp_path / "log") as process, pytest.raises(ProcessFailed, match=r"not ended within 0\.1 s"):
        process.stop(timeout_seconds=0.1)
    assert process.exit_code == -signal.SIGKILL


def test_the_context_kills_it(tmp_path: Path) -> None:
    with python(FOREVER, tmp_path / "log") as process:
        pass
    assert process.exit_code == -signal.SIGKILL


def test_waiting_for_one_that_ends_fails_at_once_with_its_log(tmp_path: Path) -> None:
    with python("print('no such port'); raise SystemExit(3)", tmp_path / "log") as process:
        with pytest.raises(ProcessFailed, match=r"(?s)readiness.*ended with 3.*no such port"):
            process.wait_until(lambda: False, "readiness", timeout_seconds=30)
        assert process.wait(1) == 3


def test_waiting_too_long_names_what_was_missing(tmp_path: Path) -> None:
    with (
        python(FOREVER, tmp_path / "log") as process,
        pytest.raises(ProcessFailed, match=r"readiness: not within 0\.1 s"),
    ):
        process.wait_until(lambda: False, "readiness", timeout_seconds=0.1)


def test_cpu_and_memory_are_those_of_the_process(tmp_path: Path) -> None:
    before = MachineCpu.now()
    with python(SPINNING, tmp_path / "log") as process:
        poll_until(lambda: process.cpu_seconds() > 0.2, "a fifth of a CPU second", 20)
        assert 4 << 20 < process.rss_bytes() <= process.peak_rss_bytes() < 100 << 20
    spent = MachineCpu.now() - before
    assert spent.busy_seconds >= 0.2
    assert 0 < spent.busy_share <= 1


def test_children_of_a_marked_process_are_found(tmp_path: Path) -> None:
    script = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {FOREVER!r}]); p.wait()"
    with python(script, tmp_path / "log") as process:
        process.wait_until(lambda: "up" in process.output(), "the child")
        children = [pid for pid, owner in marked_processes().items() if owner == Owner.current() and pid != process.pid]
        assert len(children) == 1
        os.kill(children[0], signal.SIGKILL)
        assert process.wait(10) == 0


def test_processes_of_a_killed_run_are_swept_and_those_of_a_living_one_are_not(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run(
        [sys.executable, "-c", ABANDONED], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    abandoned = int(run.stdout)
    with python(FOREVER, tmp_path / "log") as living:
        assert marked_processes()[abandoned].alive is False
        assert marked_processes()[living.pid].alive is True
        assert abandoned in sweep_processes()
        poll_until(lambda: abandoned not in marked_processes(), "the orphan's end", 5)
        assert living.running


def test_a_mark_is_read_back() -> None:
    owner = Owner.current()
    assert Owner.parse(f"{owner}.3.host.a") == owner
    assert Owner.parse("somebody.else") is None
    assert Owner(owner.pid, owner.start_ticks + 1).alive is False
