"""Child processes that live exactly as long as the block that started them: started, watched, stopped by pid.

Knows command lines, logs and signals; knows nothing of what the processes are. A process that ends before its time is
an error that shows the end of its log. SIGTERM comes first, SIGKILL when its deadline has passed; where util-linux's
`setpriv` is at hand the kernel stops the children even if we are killed ourselves.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from p2pdist.core.errors import Unavailable
from p2pdist.demo.groups import most_telling

STOP_SECONDS = 8.0
_SHOWN_LINES = 15
_SHOWN_BYTES = 16 * 1024


class EndedEarly(Unavailable):
    """A process ended before it was told to."""


@dataclass(frozen=True, slots=True)
class Process:
    """A child process and the file that its output goes to."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def cpu_seconds(self) -> float:
        """User and system time so far (proc(5), `/proc/pid/stat`)."""
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def wait(self) -> int:
        """Wait for its end; returns the exit code, negative for a signal."""
        while (code := self.popen.poll()) is None:
            # One of our own, because trio lets only one task wait for a descriptor. The id is still its own: nobody
            # but `poll` reaps it.
            descriptor = os.pidfd_open(self.popen.pid)
            try:
                await trio.lowlevel.wait_readable(descriptor)
            finally:
                os.close(descriptor)
        await trio.lowlevel.checkpoint()
        return code

    async def watch(self) -> None:
        """Wait for its end and raise `EndedEarly`: it wasn't to end."""
        code = await self.wait()
        raise EndedEarly(f"{self.name} ended by itself with exit code {code}; {self.last_words()}")

    def last_words(self) -> str:
        """The end of its log, for an error message."""
        with self.log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _SHOWN_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-_SHOWN_LINES:]
        return "\n  ".join(["its last lines:", *lines]) if lines else "it wrote nothing"


class ProcessGroup:
    """Starts processes whose end, if nobody stopped them, ends the block; made by `open_processes`."""

    def __init__(self, log_directory: Path, nursery: trio.Nursery, running: list[Process]) -> None:
        self._log_directory = log_directory
        self._nursery = nursery
        self.running = running

    def start(self, name: str, command: Sequence[str]) -> Process:
        """Start `command`; its output goes to `NAME.log`.

        Called in the main thread: the kernel's watch over the parent is for the thread that started the child.
        """
        log = self._log_directory / f"{name}.log"
        with log.open("ab") as output:
            popen = subprocess.Popen(
                [*_dies_with_us(), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        process = Process(name, popen, log)
        self.running.append(process)
        self._nursery.start_soon(process.watch)
        return process


@asynccontextmanager
async def open_processes(log_directory: Path) -> AsyncIterator[ProcessGroup]:
    """A group of processes, all of which have ended when the block is left, however it is left.

    When one of them ends early the block is cancelled and `EndedEarly` raised. Of several of our own errors at once,
    as from a nursery in the block, one is raised, not a group.
    """
    running: list[Process] = []
    try:
        async with trio.open_nursery() as nursery:
            yield ProcessGroup(log_directory, nursery, running)
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise most_telling(group, EndedEarly) from None
    finally:
        with trio.CancelScope(shield=True):
            await _stop(running)


async def _stop(processes: Sequence[Process]) -> None:
    """End all of them, and take away what the kernel keeps about them."""
    for process in processes:
        if process.popen.poll() is None:
            process.popen.send_signal(signal.SIGTERM)
    with trio.move_on_after(STOP_SECONDS):
        for process in processes:
            await process.wait()
    for process in processes:
        if process.popen.poll() is None:
            process.popen.kill()
        await process.wait()


def _dies_with_us() -> list[str]:
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []
