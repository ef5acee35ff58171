"""One p2pdist daemon as an operator meets it: a configuration file, a process, its log and its admin address."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from simulations.processes import Process
from tests.system.places import Place, with_port

P2PDIST = Path(sys.executable).with_name("p2pdist")
READY_SECONDS = 20
_COMMAND_SECONDS = 30
_MIB = 1 << 20

Settings = Mapping[str, Any]


def attempt(*arguments: str | Path, launcher: Sequence[str] = ()) -> tuple[int, str, str]:
    """Exit code, output and error output of a command of `p2pdist`; `launcher` is put before it (a namespace)."""
    finished = subprocess.run(
        [*launcher, P2PDIST, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS,
        check=False,
    )
    return finished.returncode, finished.stdout, finished.stderr


def p2pdist(*arguments: str | Path) -> str:
    """What a command of `p2pdist` printed; it must do its work."""
    code, said, complained = attempt(*arguments)
    assert code == 0, f"p2pdist {' '.join(map(str, arguments))}: {code}: {complained}"
    return said


def toml(settings: Settings, table: str = "") -> str:
    """`settings` as a TOML document; tables and arrays of tables come last, as TOML wants it."""
    plain, tables = [], []
    for key, value in settings.items():
        path = f"{table}.{key}" if table else key
        if isinstance(value, Mapping):
            tables.append(f"\n[{path}]\n{toml(value, path)}")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            tables += [f"\n[[{path}]]\n{toml(item, path)}" for item in value]
        else:
            plain.append(f"{key} = {json.dumps(value)}\n")
    return "".join([*plain, *tables])


def merged(settings: Settings, more: Settings) -> dict[str, Any]:
    """`settings` with `more` laid over them, table by table."""
    result = dict(settings)
    for key, value in more.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


class Daemon:
    """A tracker or agent: started, ended in each way, asked at its admin address."""

    def __init__(self, command: str, name: str, directory: Path, settings: Settings, place: Place) -> None:
        self.command = command
        self.name = name
        self.place = place
        self.directory = directory
        self.log = directory / f"{name}.log"
        self.state_dir = directory / f"{name}.state"
        self.config = directory / f"{name}.toml"
        self.settings = merged({"state_dir": str(self.state_dir)}, settings)
        self.admin_address: str = self.settings["admin"]["listen"]
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        """The process that was started last."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process

    def start(self, launcher: Sequence[str | Path] = (), descriptors: Sequence[int] = ()) -> None:
        """Start it, through a program that ends by exec where one is given; it isn't ready yet.

        It inherits `descriptors`.
        """
        assert self._process is None or not self._process.running, f"{self.name} runs already"
        self.config.write_text(toml(self.settings))
        argv: list[str | Path] = [*launcher, P2PDIST, self.command, "--config", self.config]
        self._process = self.place.start(argv, self.log, descriptors)

    def wait_ready(self) -> None:
        """Return once /readyz says so."""
        self.process.wait_until(self.is_ready, f"{self.name} says at /readyz that it is ready", READY_SECONDS)

    def is_ready(self) -> bool:
        try:
            return self.admin("/readyz")[0] == 200
        except OSError:
            return False

    def stop(self) -> None:
        """End it as systemd would; it must end by itself, and well."""
        assert self.process.stop() == 0, f"{self.name} ended with {self.process.exit_code}\n{self.log_tail()}"

    def kill(self) -> None:
        """End it as the kernel does when memory runs out."""
        if self._process is not None:
            self._process.kill()

    def freeze(self) -> None:
        """Stop it from doing anything, its connections stay."""
        self.process.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send(signal.SIGCONT)

    def admin(self, path: str) -> tuple[int, str]:
        """Status and body of a GET at the admin address."""
        connection = self.place.http(self.place.loopback, int(self.admin_address.rsplit(":", 1)[1]))
        try:
            connection.request("GET", path)
            with connection.getresponse() as response:
                return response.status, response.read().decode()
        finally:
            connection.close()

    def metric(self, name: str, **labels: str) -> float:
        """The sum over all series of a metric that carry these labels; there must be one."""
        samples = self._samples(name, labels)
        assert samples, f"{self.name} has no metric {name} {labels or ''}"
        return sum(samples)

    def growing_metric(self, name: str, **labels: str) -> float:
        """The same of a metric whose series come up with use: 0 as long as there is none."""
        return sum(self._samples(name, labels))

    def _samples(self, name: str, labels: Mapping[str, str]) -> list[float]:
        return [
            sample.value
            for family in text_string_to_metric_families(self.admin("/metrics")[1])
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def rss_mib(self) -> float:
        return self.process.rss_bytes() / _MIB

    def peak_rss_mib(self) -> float:
        return self.process.peak_rss_bytes() / _MIB

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def log_tail(self, lines: int = 40) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:])


class Tracker(Daemon):
    """The tracker of a fleet."""

    def __init__(self, directory: Path, place: Place, settings: Settings) -> None:
        control, relay, admin = place.ports(3)
        self.control_port = control
        everywhere = place.address if place.host is None else "::" if place.ipv6 else "0.0.0.0"
        own = {
            "control": {"listen": [with_port(everywhere, control)]},
            "relay": {"listen": [with_port(everywhere, relay)]},
            "admin": {"listen": with_port(place.loopback, admin)},
        }
        super().__init__("tracker", "tracker", directory, merged(own, settings), place)

    @property
    def address(self) -> str:
        """Where agents connect to."""
        return with_port(self.place.address, self.control_port)

    def make_pki(self) -> None:
        """Make the CA and the tracker's certificate, as an operator does before the first start."""
        p2pdist("pki", "init", "--state-dir", self.state_dir, "--name", self.place.address)

    def join_token(self, *, uses: int = 1, ttl: str = "1h") -> str:
        """A fresh join token."""
        output = p2pdist("pki", "token", "--state-dir", self.state_dir, "--ttl", ttl, "--uses", str(uses))
        return output.splitlines()[0]

    def ca_hash(self) -> str:
        line = next(line for line in self.pki("show").splitlines() if line.startswith("CA hash:"))
        return line.split()[-1]

    def pki(self, command: str) -> str:
        """What `p2pdist pki COMMAND` prints about this tracker."""
        return p2pdist("pki", command, "--state-dir", self.state_dir)

    def origin_bytes(self) -> int:
        """Bytes of blobs that it received from origins, as it counts them."""
        return int(self.growing_metric("p2pdist_tracker_origin_bytes_total"))

    def dealt_bytes(self) -> int:
        """Bytes of pieces that it dealt."""
        return int(self.metric("p2pdist_tracker_dealt_bytes_total"))


@dataclass(frozen=True)
class Received:
    """Verified new bytes that an agent received, by where they came from."""

    relay: int
    dealt: int
    swarm: int
    origin: int

    @property
    def total(self) -> int:
        return self.relay + self.dealt + self.swarm + self.origin

    def __sub__(self, earlier: "Received") -> "Received":
        return Received(
            self.relay - earlier.relay,
            self.dealt - earlier.dealt,
            self.swarm - earlier.swarm,
            self.origin - earlier.origin,
        )


class Agent(Daemon):
    """One agent of a fleet."""

    def __init__(self, name: str, directory: Path, place: Place, settings: Settings) -> None:
        shim, relay, swarm, admin = place.ports(4)
        self.shim_port = shim
        everywhere = place.address if place.host is None else "::" if place.ipv6 else "0.0.0.0"
        own = {
            "name": name,
            "shim": {"listen": [with_port(place.loopback, shim)]},
            "relay": {"listen": [with_port(everywhere, relay)]},
            "swarm": {"listen": [with_port(everywhere, swarm)]},
            "admin": {"listen": with_port(place.loopback, admin)},
        }
        super().__init__("agent", name, directory, merged(own, settings), place)

    @property
    def shim_address(self) -> str:
        """HOST:PORT of the shim, on its own host."""
        return with_port(self.place.loopback, self.shim_port)

    @property
    def shim_url(self) -> str:
        return f"http://{self.shim_address}"

    def shim(self) -> HTTPConnection:
        """A connection to the shim."""
        return self.place.http(self.place.loopback, self.shim_port)

    def status(self) -> dict[str, Any]:
        """The agent's view, as `p2pdist status --json` shows it."""
        code, body = self.admin("/v1/status")
        assert code == 200, body
        document: dict[str, Any] = json.loads(body)
        return document

    def received(self) -> Received:
        """What it has received since it was started."""
        sources = ("relay_member", "dealt", "swarm", "origin")
        return Received(*(int(self.metric("p2pdist_agent_received_bytes_total", source=source)) for source in sources))

    def blobs_held(self) -> int:
        return int(self.metric("p2pdist_agent_blobs_held"))

    def bytes_read(self) -> int:
        """Bytes that the process has read by read(2) and its kin since it started, from files and sockets alike."""
        lines = Path(f"/proc/{self.process.pid}/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("rchar:"))
