"""Programs under measurement: started with a log file and our mark, stopped by their id, weighed by /proc.

Owns how a process is started, waited for and ended, and what it cost. Knows nothing of what the programs do, nor of
networks: a caller that wants one inside a namespace gives the `launcher` that enters it.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from simulations.ownership import Owner

MARK_VARIABLE = "MEASURED_BY_RUN"
_POLL_SECONDS = 0.02
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_LOG_TAIL_LINES = 30


class ProcessFailed(Exception):
    """A program ended, or didn't do in time what was expected of it; the message carries the end of its log."""


def poll_until(condition: Callable[[], bool], what: str, timeout_seconds: float) -> None:
    """Return as soon as `condition()` holds; raises `TimeoutError` naming `what` after `timeout_seconds`."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{what}: not within {timeout_seconds:g} s")
        time.sleep(_POLL_SECONDS)


class Process:
    """One program that we started, in a session of its own; both its outputs are appended to `log`.

    It inherits `descriptors`, under their numbers, and no others.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        launcher: Sequence[str] = (),
        descriptors: Sequence[int] = (),
    ) -> None:
        self.argv = [str(word) for word in argv]
        self.log = log
        marked = {**os.environ, **(environment or {}), MARK_VARIABLE: str(Owner.current())}
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [*launcher, *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=marked,
                cwd=directory,
                start_new_session=True,
                pass_fds=descriptors,
            )

    @property
    def pid(self) -> int:
        """The process's id; a launcher keeps it by exec."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether the process hasn't ended."""
        return self._popen.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit code, minus the signal's number for one that was killed; None while it runs."""
        return self._popen.poll()

    def output(self) -> str:
        """All that it wrote so far (earlier processes with the same log included)."""
        return self.log.read_text(errors="replace")

    def _failure(self, what: str) -> ProcessFailed:
        tail = "\n".join(self.output().splitlines()[-_LOG_TAIL_LINES:])
        state = "still runs" if self.running else f"ended with {self.exit_code}"
        return ProcessFailed(f"{what}: {' '.join(self.argv)} (pid {self.pid}) {state}\n--- end of {self.log}\n{tail}")

    def wait(self, timeout_seconds: float) -> int:
        """The exit code, once it ends by itself; raises `ProcessFailed` when it doesn't in time."""
        try:
            return self._popen.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise self._failure(f"not ended within {timeout_seconds:g} s") from None

    def wait_until(self, condition: Callable[[], bool], what: str, timeout_seconds: float = 15) -> None:
        """Return as soon as `condition()` holds; raises `ProcessFailed` when the process ends first or time is up."""
        try:
            poll_until(lambda: not self.running or condition(), what, timeout_seconds)
        except TimeoutError as error:
            raise self._failure(str(error)) from None
        if not self.running:
            raise self._failure(f"waited for: {what}")

    def stop(self, timeout_seconds: float = 10) -> int:
        """Ask it to end (SIGTERM) and return its exit code; one that doesn't in time is killed and raises."""
        self.send(signal.SIGTERM)
        try:
            return self.wait(timeout_seconds)
        except ProcessFailed:
            self.kill()
            raise

    def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would; nothing happens when it has ended."""
        self.send(signal.SIGKILL)
        self._popen.wait()

    def send(self, signal_number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.running:
            self._popen.send_signal(signal_number)

    def cpu_seconds(self) -> float:
        """User and system seconds of the running process and of its children that have ended."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return sum(map(int, fields[11:15])) / _TICKS_PER_SECOND

    def rss_bytes(self) -> int:
        """Resident memory now."""
        return self._status_bytes("VmRSS")

    def peak_rss_bytes(self) -> int:
        """The most memory that was resident since it started."""
        return self._status_bytes("VmHWM")

    def _status_bytes(self, field: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
        raise self._failure(f"no {field} in /proc")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.kill()


@dataclass(frozen=True, slots=True)
class MachineCpu:
    """What all cores together have done since boot, in seconds; the difference of two says how busy they were."""

    busy_seconds: float
    idle_seconds: float

    @classmethod
    def now(cls) -> Self:
        """The counters of /proc/stat."""
        ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        idle = ticks[3] + ticks[4]
        return cls((sum(ticks) - idle) / _TICKS_PER_SECOND, idle / _TICKS_PER_SECOND)

    def __sub__(self, earlier: "MachineCpu") -> "MachineCpu":
        return MachineCpu(self.busy_seconds - earlier.busy_seconds, self.idle_seconds - earlier.idle_seconds)

    @property
    def busy_share(self) -> float:
        """Between 0 and 1; near 1, a measurement says more about this machine than about what it measured."""
        return self.busy_seconds / max(self.busy_seconds + self.idle_seconds, 1e-9)


def marked_processes() -> dict[int, Owner]:
    """The ids of all running processes that a run started (their children inherit the mark), and whose they are."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (owner := _owner(entry)) is not None:
            found[int(entry.name)] = owner
    return found


def _owner(entry: Path) -> Owner | None:
    prefix = f"{MARK_VARIABLE}=".encode()
    try:
        variables = (entry / "environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    marks = (line.removeprefix(prefix) for line in variables if line.startswith(prefix))
    return next((Owner.parse(mark.decode(errors="replace")) for mark in marks), None)


def sweep_processes() -> list[int]:
    """Kill what runs that are dead by now left running; returns the ids."""
    orphans = [pid for pid, owner in marked_processes().items() if not owner.alive]
    for pid in orphans:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return orphans
