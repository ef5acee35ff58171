"""A tracker and agents on loopback, as processes of their own with configurations and certificates of their own.

Owns their directories, ports, configuration files and the order in which they start. Knows their command lines and
configuration keys and that `/readyz` says when one is ready; nothing of images and pulls.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from p2pdist.core.errors import P2PDistError
from p2pdist.demo.admin import wait_until_ok
from p2pdist.demo.ports import FreePorts
from p2pdist.demo.processes import Process, ProcessGroup
from p2pdist.http.client import HttpClient

READY_SECONDS = 30.0
_COMMAND_SECONDS = 30.0
_HOST = "127.0.0.1"
_TOKEN = re.compile(r"p2pjoin_[A-Za-z0-9_-]+")
_CA_HASH = re.compile(r"sha256:[0-9a-f]{64}")


class CommandFailed(P2PDistError):
    """A command of p2pdist that the demo needs didn't do its work."""


@dataclass(frozen=True, slots=True)
class UpstreamSite:
    """The registry that the images belong to: the name that clients use, and the base URL of its origin."""

    name: str
    origin: str


@dataclass(frozen=True, slots=True)
class AgentSite:
    """Where an agent of the fleet is."""

    name: str
    shim: str
    """Base URL, such as `http://127.0.0.1:7500`."""
    admin: str
    """Base URL."""
    config: Path


@dataclass(frozen=True, slots=True)
class _Enrolment:
    token: str
    ca_hash: str


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
        control, relay, admin = ports.take(3)
        self._control = f"{_HOST}:{control}"
        self._tracker_relay = f"{_HOST}:{relay}"
        self.tracker_admin = f"http://{_HOST}:{admin}"
        self._ports = [ports.take(4) for _ in range(agents)]
        self._running: dict[str, Process] = {}
        self._enrolment: _Enrolment | None = None

    async def start_tracker(self) -> None:
        """Make the CA and a join token for every agent, start the tracker and wait until it is ready."""
        state = self._directory / "tracker"
        await _command("pki", "init", "--state-dir", str(state), "--name", _HOST, "--name", "localhost")
        printed = await _command("pki", "token", "--state-dir", str(state), "--uses", str(len(self._ports)))
        token, ca_hash = _TOKEN.search(printed), _CA_HASH.search(printed)
        if token is None or ca_hash is None:
            raise CommandFailed("`p2pdist pki token` printed neither a join token nor the CA's hash")
        self._enrolment = _Enrolment(token[0], ca_hash[0])
        await self._start("tracker", "tracker", self._tracker_config(state), self.tracker_admin)

    async def start_agents(self, numbers: Sequence[int]) -> list[AgentSite]:
        """Start these agents (from 0, below the fleet's size) at once, and wait until all of them are ready."""
        sites = [self._agent(number) for number in numbers]
        async with trio.open_nursery() as nursery:
            for site in sites:
                nursery.start_soon(self._start, site.name, "agent", site.config, site.admin)
        return sites

    def last_words(self, name: str) -> str:
        """The end of the log of one process: `tracker`, or an agent's name."""
        return self._running[name].last_words()

    async def _start(self, name: str, command: str, config: Path, admin: str) -> None:
        process = self._processes.start(name, [*_PROGRAM, command, "--config", str(config)])
        self._running[name] = process
        await wait_until_ok(
            self._client, f"{admin}/readyz", READY_SECONDS, lambda: f"{name} isn't ready; {process.last_words()}"
        )

    def _tracker_config(self, state: Path) -> Path:
        return _write(
            self._directory / "tracker.toml",
            {"state_dir": str(state)},
            {
                "control": {"listen": [self._control]},
                "relay": {"listen": [self._tracker_relay]},
                "admin": {"listen": self.tracker_admin.removeprefix("http://")},
            },
            [{"name": self._upstream.name, "origin": self._upstream.origin}],
        )

    def _agent(self, number: int) -> AgentSite:
        assert self._enrolment is not None
        name = f"agent-{number + 1}"
        shim, relay, swarm, admin = (f"{_HOST}:{port}" for port in self._ports[number])
        config = _write(
            self._directory / f"{name}.toml",
            {"state_dir": str(self._directory / name), "name": name},
            {
                "tracker": {
                    "address": self._control,
                    "join_token": self._enrolment.token,
                    "ca_hash": self._enrolment.ca_hash,
                },
                "shim": {"listen": [shim], "default_upstream": self._upstream.name},
                "relay": {"listen": [relay]},
                "swarm": {"listen": [swarm]},
                "admin": {"listen": admin},
            },
        )
        return AgentSite(name, f"http://{shim}", f"http://{admin}", config)


_PROGRAM = (sys.executable, "-m", "p2pdist")


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


Value = str | list[str]


def _write(
    path: Path, top: dict[str, Value], tables: dict[str, dict[str, Value]], upstreams: Sequence[dict[str, Value]] = ()
) -> Path:
    """Write a configuration; a JSON string or list of strings is one of TOML too."""
    lines = _assignments(top)
    for name, table in tables.items():
        lines += ["", f"[{name}]", *_assignments(table)]
    for upstream in upstreams:
        lines += ["", "[[upstream]]", *_assignments(upstream)]
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n")
    return path


def _assignments(table: dict[str, Value]) -> list[str]:
    return [f"{key} = {json.dumps(value)}" for key, value in table.items()]
