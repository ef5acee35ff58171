import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from p2pdist.core.errors import P2PDistError, Unavailable
from p2pdist.demo import ports, processes
from p2pdist.demo.groups import most_telling
from p2pdist.demo.ports import FreePorts
from p2pdist.demo.processes import EndedEarly, open_processes

PYTHON = [sys.executable, "-c"]
SLEEP = [*PYTHON, "import signal; print('up', flush=True); signal.pause()"]
STUBBORN = [
    *PYTHON,
    "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True)\nwhile 1: signal.pause()",
]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def is_up(log: Path) -> bool:
    return log.exists() and "up" in log.read_text()


async def until_up(*logs: Path) -> None:
    # Nothing tells when a file grows, so it is looked at again and again, but not for ever.
    with trio.fail_after(10):
        for log in logs:
            while not is_up(log):  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_all_have_ended_when_the_block_is_left(tmp_path):
    async with open_processes(tmp_path) as group:
        pids = [group.start(name, SLEEP).popen.pid for name in ("one", "two")]
        await until_up(tmp_path / "one.log", tmp_path / "two.log")
        assert not any(map(gone, pids))
        assert group.running[0].cpu_seconds() > 0
    assert all(map(gone, pids))


async def test_all_have_ended_after_an_error_and_it_passes_as_it_is(tmp_path):
    pids = []

    async def fail_with_a_child() -> None:
        async with open_processes(tmp_path) as group:
            pids.append(group.start("one", SLEEP).popen.pid)
            raise Unavailable("no luck")

    with pytest.raises(Unavailable, match="no luck"):
        await fail_with_a_child()
    assert all(map(gone, pids))


async def test_all_have_ended_after_a_cancellation(tmp_path):
    with trio.CancelScope() as scope:
        async with open_processes(tmp_path) as group:
            pid = group.start("one", SLEEP).popen.pid
            scope.cancel()
            await trio.sleep_forever()
    assert gone(pid)


async def test_one_that_ignores_the_request_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.1)
    async with open_processes(tmp_path) as group:
        process = group.start("stubborn", STUBBORN)
        await until_up(process.log)
    assert process.popen.returncode == -signal.SIGKILL


async def test_an_early_end_stops_the_block_and_shows_the_end_of_the_log(tmp_path):
    program = "print('\\n'.join(f'line {n}' for n in range(100))); raise SystemExit(7)"
    pids = []

    async def run_both() -> None:
        async with open_processes(tmp_path) as group:
            pids.append(group.start("other", SLEEP).popen.pid)
            group.start("short", [*PYTHON, program])
            await trio.sleep_forever()

    with pytest.raises(EndedEarly) as caught:
        await run_both()
    said = str(caught.value)
    assert "short ended by itself with exit code 7" in said
    assert "line 99" in said
    assert "line 50" not in said
    assert all(map(gone, pids))


async def test_the_early_end_is_told_rather_than_what_it_led_to(tmp_path):
    async def depends_on(process) -> None:
        await process.wait()
        raise Unavailable("connection refused")

    with pytest.raises(EndedEarly, match="it wrote nothing"):
        async with open_processes(tmp_path) as group, trio.open_nursery() as nursery:
            nursery.start_soon(depends_on, group.start("short", [*PYTHON, "pass"]))


async def test_a_bug_is_not_hidden(tmp_path):
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with open_processes(tmp_path):
            raise ZeroDivisionError


def test_of_several_errors_one_is_told():
    errors = [Unavailable("first"), ExceptionGroup("", [EndedEarly("second")])]
    assert most_telling(ExceptionGroup("", errors)) is errors[0]
    assert str(most_telling(ExceptionGroup("", errors), EndedEarly)) == "second"
    with_bug = ExceptionGroup("", [*errors, KeyError("bug")])
    assert most_telling(with_bug, P2PDistError) is with_bug


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="util-linux isn't installed")
def test_children_end_when_the_parent_is_killed(tmp_path):
    program = f"""
import trio
from pathlib import Path
from p2pdist.demo.processes import open_processes

async def main():
    async with open_processes(Path({str(tmp_path)!r})) as group:
        print(group.start("child", {SLEEP!r}).popen.pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""
    with subprocess.Popen([*PYTHON, program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        # Before setpriv has asked for the signal the child wouldn't get it.
        trio.run(until_up, tmp_path / "child.log")
        descriptor = os.pidfd_open(child)
        parent.kill()
        parent.wait()

        async def child_ends() -> None:
            with trio.fail_after(10):
                await trio.lowlevel.wait_readable(descriptor)

        trio.run(child_ends)
        os.close(descriptor)


def test_ports_are_free_distinct_and_below_those_of_outgoing_connections():
    first, second = FreePorts(), FreePorts()
    taken = first.take(40) + first.take(2)
    assert len(set(taken)) == 42
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert lowest <= 11000 or max(taken) < lowest
    with socket.create_server(("127.0.0.1", taken[0])):
        assert taken[0] not in second.take(200)


def test_a_port_in_use_is_not_given(monkeypatch):
    monkeypatch.setattr(ports, "_FIRST_PORT", 21000)
    monkeypatch.setattr(ports, "_below_ephemeral", lambda: 21003)
    given = FreePorts().take(1)[0]
    with socket.create_server(("127.0.0.1", given)):
        others = FreePorts()
        with pytest.raises(Unavailable, match=r"only [0-3] of 4 TCP ports"):
            others.take(4)
