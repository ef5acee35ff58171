"""One measurement: curl fetches from a server, and the kernel's clock of the server's process says what it cost.

That clock (clock_getcpuclockid(3)) is user and system time of all threads in nanoseconds; /proc/PID/stat has the same
sum in steps of 10 ms, a twentieth of what a GiB costs.
"""

import shutil
import subprocess
import time
from dataclasses import dataclass

from p2pdist.core.errors import Unavailable
from simulations.shim.servers import Server

_CLIENT_SECONDS = 600
_SCHEDULED = 2
"""CPUCLOCK_SCHED, linux/posix-timers_types.h: nanoseconds in which the process ran."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """What one stay of the client took and cost."""

    received_bytes: int
    requests: int
    seconds: float
    cpu_seconds: float


def cpu_seconds(pid: int) -> float:
    """User and system seconds of a running process."""
    return time.clock_gettime((~pid << 3) | _SCHEDULED)


def fetch(server: Server, url: str, times: int) -> Transfer:
    """GET `url` so often over one connection; raises `Unavailable` when an answer isn't a 200."""
    program = shutil.which("curl")
    if program is None:
        raise Unavailable("the client is curl (Debian package curl)")
    separator = "&" if "?" in url else "?"
    form = "%{http_code} %{size_download} %{time_starttransfer} %{time_total}\\n"
    argv = [program, "--silent", "--show-error", "--noproxy", "*", "--output", "/dev/null", "--write-out", form]
    before = cpu_seconds(server.process.pid)
    try:
        done = subprocess.run(
            [*argv, f"{url}{separator}number=[1-{times}]"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_CLIENT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{server.name}: curl {url} hasn't ended within {_CLIENT_SECONDS} s") from error
    used = cpu_seconds(server.process.pid) - before
    answers = [line.split() for line in done.stdout.splitlines()]
    if done.returncode or len(answers) != times or any(answer[0] != "200" for answer in answers):
        raise Unavailable(f"{server.name}: curl {url} ended with {done.returncode}: {done.stdout[-300:]}{done.stderr}")
    return Transfer(sum(int(answer[1]) for answer in answers), times, sum(float(answer[3]) for answer in answers), used)
