"""A tracker and agents on loopback, as processes of their own with configurations and certificates of their own.

Owns their directories and ports, and the order in which they start. Knows their command lines, and that `/readyz` says
when one is ready; nothing of images and pulls.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from p2pdist.core.errors import P2PDistError
from p2pdist.demo.admin import wait_until_ok
from p2pdist.demo.configs import (
    AgentAddresses,
    Enrolment,
    TrackerAddresses,
    UpstreamSite,
    agent_toml,
    tracker_toml,
)
from p2pdist.demo.ports import FreePorts
from p2pdist.demo.processes import Process, ProcessGroup
from p2pdist.http.client import HttpClient

READY_SECONDS = 30.0
_COMMAND_SECONDS = 30.0
_HOST = "127.0.0.1"
_PROGRAM = (sys.executable, "-m", "p2pdist")
_TOKEN = re.compile(r"p2pjoin_[A-Za-z0-9_-]+")
_CA_HASH = re.compile(r"sha256:[0-9a-f]{64}")


class CommandFailed(P2PDistError):
    """A command of p2pdist that the demo needs didn't do its work."""


@dataclass(frozen=True, slots=True)
class AgentSite:
    """Where an agent of the fleet is; the base URLs of its shim and of its admin address."""

    name: str
    shim: str
    admin: str


class Fleet:
    """The daemons of one demo; `start_tracker` comes first, then `start_agents` as often as needed."""

    def __init__(
        self,
        directory: Path,
        upstream: UpstreamSite,
        agents: int,
        processes: ProcessGroup,
        client: HttpClient,
        ports: FreePorts,
    ) -> None:
        self._directory = directory
        self._upstream = upstream
        self._processes = processes
        self._client = client
        self._tracker = TrackerAddresses(*_addresses(ports, 3))
        self._agents = [AgentAddresses(*_addresses(ports, 4)) for _ in range(agents)]
        self._running: dict[str, Process] = {}
        self._enrolment: Enrolment | None = None
        self.tracker_admin = f"http://{self._tracker.admin}"
        """Base URL of the tracker's admin address."""

    async def start_tracker(self) -> None:
        """Make the CA and a join token for every agent, start the tracker and wait until it is ready."""
        state = str(self._directory / "tracker")
        await _command("pki", "init", "--state-dir", state, "--name", _HOST, "--name", "localhost")
        printed = await _command("pki", "token", "--state-dir", state, "--uses", str(len(self._agents)))
        token, ca_hash = _TOKEN.search(printed), _CA_HASH.search(printed)
        if token is None or ca_hash is None:
            raise CommandFailed("`p2pdist pki token` printed neither a join token nor the CA's hash")
        self._enrolment = Enrolment(token[0], ca_hash[0])
        toml = tracker_toml(state, self._tracker, self._upstream)
        await self._start("tracker", "tracker", toml, self.tracker_admin)

    async def start_agents(self, numbers: Sequence[int]) -> list[AgentSite]:
        """Start these agents (from 0, below the fleet's size) at once, and wait until all of them are ready."""
        if self._enrolment is None:
            raise RuntimeError("the tracker comes first")
        sites = []
        async with trio.open_nursery() as nursery:
            for number in numbers:
                name, addresses = f"agent-{number + 1}", self._agents[number]
                state = str(self._directory / name)
                toml = agent_toml(name, state, addresses, self._tracker.control, self._enrolment, self._upstream.name)
                site = AgentSite(name, f"http://{addresses.shim}", f"http://{addresses.admin}")
                nursery.start_soon(self._start, name, "agent", toml, site.admin)
                sites.append(site)
        return sites

    def last_words(self, name: str) -> str:
        """The end of the log of one process: `tracker`, or an agent's name."""
        return self._running[name].last_words()

    async def _start(self, name: str, command: str, toml: str, admin: str) -> None:
        config = self._directory / f"{name}.toml"
        config.touch(mode=0o600)
        config.write_text(toml, encoding="utf-8")
        process = self._processes.start(name, [*_PROGRAM, command, "--config", str(config)])
        self._running[name] = process
        await wait_until_ok(
            self._client, f"{admin}/readyz", READY_SECONDS, lambda: f"{name} isn't ready; {process.last_words()}"
        )


def _addresses(ports: FreePorts, count: int) -> list[str]:
    return [f"{_HOST}:{port}" for port in ports.take(count)]


async def _command(*arguments: str) -> str:
    """What a command of p2pdist prints; raises `CommandFailed` with what it complains of."""
    with trio.move_on_after(_COMMAND_SECONDS) as scope:
        result = await trio.run_process(
            [*_PROGRAM, *arguments], stdin=b"", capture_stdout=True, capture_stderr=True, check=False
        )
    if scope.cancelled_caught:
        raise CommandFailed(f"`p2pdist {' '.join(arguments)}` took longer than {_COMMAND_SECONDS:g} s")
    return _printed(arguments, result)


def _printed(arguments: Sequence[str], result: "subprocess.CompletedProcess[bytes]") -> str:
    if result.returncode != 0:
        complaint = result.stderr.decode(errors="replace").strip()
        raise CommandFailed(f"`p2pdist {' '.join(arguments)}` failed with exit code {result.returncode}: {complaint}")
    return str(result.stdout.decode(errors="replace"))
