"""p2pdist itself: a tracker in the middle, an agent on every host, enrolled by join token, clients at the shims.

Daemons inherit the environment, so that `P2PDIST_<TABLE>_<KEY>` sets what their configuration can say.
"""

import re
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from p2pdist.core.errors import Unavailable
from p2pdist.demo.configs import (
    AgentAddresses,
    Enrolment,
    TrackerAddresses,
    UpstreamSite,
    agent_toml,
    tracker_toml,
)
from simulations.network import Host
from simulations.processes import Process, ProcessFailed, poll_until
from simulations.systems import Counts, Stage

UPSTREAM = "registry.test"
_READY_SECONDS = 120
_STOP_SECONDS = 10
_EVENTS = ".events.jsonl"
_COMMAND_SECONDS = 60
_ADMIN_SECONDS = 10
_SHIM_PORT = 7500
_AGENT_ADMIN_PORT = 7503
_TRACKER_ADMIN_PORT = 7402
_WARMER = "warmer"
_TRACKER = "tracker"
_TOKEN = re.compile(r"p2pjoin_[A-Za-z0-9_-]+")
_CA_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_PART_BYTES = 1 << 20
_DEALT = "p2pdist_tracker_dealt_bytes_total"
_REDUNDANT = "p2pdist_agent_redundant_bytes_total"
_LEASED = "p2pdist_tracker_agents_leased"


class P2PDist:
    """The fleet of one measurement."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._enrolment: Enrolment | None = None
        self._processes: dict[str, Process] = {}
        self._ended_counts: list[Counts] = []
        self._restarted: set[str] = set()

    def start(self) -> None:
        """Start the tracker, then all agents at once."""
        self._start_tracker()
        for host in self._stage.hosts:
            self._start_agent(host, self._stage.network[host])
        for host in self._stage.hosts:
            self._wait_ready(host, self._stage.network[host], _AGENT_ADMIN_PORT)
        self._wait_leased(len(self._stage.hosts))

    def warm(self, digests: Sequence[str]) -> None:
        """Pull the blobs by an agent beside the tracker, which then goes and takes its copy with it."""
        server = self._stage.server
        self._start_agent(_WARMER, server)
        self._wait_ready(_WARMER, server, _AGENT_ADMIN_PORT)
        for digest in digests:
            _drain(server, self._shim_target(self._stage.blob_path(digest)))
        self._processes.pop(_WARMER).stop()
        shutil.rmtree(self._stage.directory / _WARMER)
        self._wait_leased(len(self._stage.hosts))

    def blob_url(self, host: str, digest: str) -> str:
        return f"http://127.0.0.1:{_SHIM_PORT}{self._shim_target(self._stage.blob_path(digest))}"

    def manifest_url(self, host: str, reference: str) -> str | None:
        return f"http://127.0.0.1:{_SHIM_PORT}{self._shim_target(self._stage.manifest_path(reference))}"

    def processes(self) -> Mapping[str, Process]:
        return self._processes

    def counts(self) -> Counts:
        """What the daemons' metrics say, with what those said that were killed meanwhile."""
        running = [self._counts_of(name) for name, process in self._processes.items() if process.running]
        counted = [*running, *self._ended_counts]
        return Counts(
            sum(each.seeder_bytes or 0 for each in counted), sum(each.redundant_bytes or 0 for each in counted)
        )

    def kill(self, host: str) -> None:
        """End a daemon as a crash would, after it was asked what it has counted."""
        self._ended_counts.append(self._counts_of(host))
        self._processes[host].kill()

    def restart(self, host: str) -> None:
        self._restarted.add(host)
        if host == _TRACKER:
            self._run_daemon(_TRACKER, "tracker", self._stage.server)
        else:
            self._run_daemon(host, "agent", self._stage.network[host])

    def stop(self) -> None:
        """End all daemons at once: their state goes with the measurement."""
        for process in self._processes.values():
            process.send(signal.SIGKILL)
        for process in self._processes.values():
            process.kill()

    def end_events(self) -> list[Path]:
        """Ask all daemons to end; those that don't in time, or were stopped, have written what they have."""
        for process in self._processes.values():
            process.send(signal.SIGTERM)
        for process in self._processes.values():
            with suppress(ProcessFailed):
                process.wait(_STOP_SECONDS)
        return sorted(self._stage.directory.glob(f"*{_EVENTS}"))

    def _start_tracker(self) -> None:
        server, state = self._stage.server, str(self._stage.directory / _TRACKER)
        self._command("pki", "init", "--state-dir", state, "--name", server.ipv4)
        uses = str(len(self._stage.hosts) + 1)
        printed = self._command("pki", "token", "--state-dir", state, "--uses", uses)
        token, ca_hash = _TOKEN.search(printed), _CA_HASH.search(printed)
        if token is None or ca_hash is None:
            raise Unavailable("`p2pdist pki token` printed neither a join token nor the CA's hash")
        self._enrolment = Enrolment(token[0], ca_hash[0])
        addresses = TrackerAddresses("0.0.0.0:7400", "0.0.0.0:7401", f"127.0.0.1:{_TRACKER_ADMIN_PORT}")
        self._write_config(_TRACKER, tracker_toml(state, addresses, UpstreamSite(UPSTREAM, self._stage.origin_url)))
        self._run_daemon(_TRACKER, "tracker", server)
        self._wait_ready(_TRACKER, server, _TRACKER_ADMIN_PORT)

    def _start_agent(self, name: str, host: Host) -> None:
        assert self._enrolment is not None, "the tracker comes first"
        addresses = AgentAddresses(
            f"127.0.0.1:{_SHIM_PORT}", "0.0.0.0:7501", "0.0.0.0:7502", f"127.0.0.1:{_AGENT_ADMIN_PORT}"
        )
        tracker = f"{self._stage.server.ipv4}:7400"
        state = str(self._stage.directory / name)
        self._write_config(name, agent_toml(name, state, addresses, tracker, self._enrolment, UPSTREAM))
        self._run_daemon(name, "agent", host)

    def _command(self, *arguments: str) -> str:
        """What a command of p2pdist prints; it has ended in any case when this returns or raises."""
        log = self._stage.directory / f"{'-'.join(arguments[:2])}.log"
        with Process([sys.executable, "-m", "p2pdist", *arguments], log=log) as process:
            if process.wait(_COMMAND_SECONDS):
                raise Unavailable(f"`p2pdist {' '.join(arguments)}` failed: {process.output().strip()}")
            return process.output()

    def _write_config(self, name: str, toml: str) -> None:
        path = self._stage.directory / f"{name}.toml"
        path.touch(mode=0o600)
        path.write_text(toml, encoding="utf-8")

    def _run_daemon(self, name: str, command: str, host: Host) -> None:
        directory = self._stage.directory
        zone = self._stage.zones.get(name, "")
        zone_key = "P2PDIST_ZONE" if command == "agent" else "P2PDIST_RELAY_ZONE"
        environment = {"NO_PROXY": "*", "no_proxy": "*"} | ({zone_key: zone} if zone else {})
        if self._stage.events:
            environment["P2PDIST_LOG_EVENTS"] = str(directory / f"{name}{_EVENTS}")
        argv: list[str | Path] = [sys.executable, "-m", "p2pdist", command, "--config", directory / f"{name}.toml"]
        self._processes[name] = host.start(argv, log=directory / f"{name}.log", environment=environment)

    def _wait_ready(self, name: str, host: Host, port: int) -> None:
        def ready() -> bool:
            try:
                return _get(host, port, "/readyz")[0] == 200
            except OSError:
                return False

        self._processes[name].wait_until(ready, f"{name} is ready", _READY_SECONDS)

    def _wait_leased(self, agents: int) -> None:
        server = self._stage.server
        what = f"the tracker knows {agents} agents"
        poll_until(lambda: _metric(server, _TRACKER_ADMIN_PORT, _LEASED) == agents, what, _READY_SECONDS)

    def _counts_of(self, name: str) -> Counts:
        try:
            if name == _TRACKER:
                return Counts(seeder_bytes=_metric(self._stage.server, _TRACKER_ADMIN_PORT, _DEALT))
            return Counts(redundant_bytes=_metric(self._stage.network[name], _AGENT_ADMIN_PORT, _REDUNDANT))
        except ConnectionRefusedError:
            if name in self._restarted:  # it is on its way, and has counted nothing yet
                return Counts()
            raise

    def _shim_target(self, path: str) -> str:
        return f"{path}?ns={UPSTREAM}"


def make(stage: Stage) -> P2PDist:
    """The system on `stage`."""
    return P2PDist(stage)


def _connection(host: Host, port: int, timeout_seconds: float) -> HTTPConnection:
    connection = HTTPConnection("127.0.0.1", port)
    connection.sock = host.connect("127.0.0.1", port, timeout_seconds)
    return connection


def _get(host: Host, port: int, target: str) -> tuple[int, bytes]:
    """Status and body of a GET at a daemon's admin address."""
    with closing(_connection(host, port, _ADMIN_SECONDS)) as connection:
        connection.request("GET", target)
        with connection.getresponse() as response:
            return response.status, response.read()


def _drain(host: Host, target: str) -> None:
    """GET a blob at a shim, and forget it; raises `Unavailable` when it can't be had."""
    with closing(_connection(host, _SHIM_PORT, _READY_SECONDS)) as connection:
        connection.request("GET", target)
        with connection.getresponse() as response:
            if response.status != 200:
                raise Unavailable(f"{target} was answered with {response.status}: {response.read(300)!r}")
            while response.read(_PART_BYTES):
                pass


def _metric(host: Host, port: int, name: str) -> int:
    """The sum of a metric's series at a daemon's admin address."""
    text = _get(host, port, "/metrics")[1].decode()
    families = text_string_to_metric_families(text)
    return int(sum(sample.value for family in families for sample in family.samples if sample.name == name))
