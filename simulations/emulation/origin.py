"""The origin of a measurement: Debian's docker-registry where it is installed, else p2pdist's embedded registry.

In front of either stands the counting point, which is what systems are told; pushing goes past it.
"""

import shutil
import signal
import sys
from http.client import HTTPConnection
from pathlib import Path

from simulations.emulation.content import Image, push
from simulations.emulation.counter import LISTENING
from simulations.emulation.tally import Sent, read_tally
from simulations.network import Host
from simulations.processes import Process

PROGRAM = "docker-registry"
_COUNTER_PORT = 5000
_REGISTRY_PORT = 5001
_START_SECONDS = 60
_PUSH_SECONDS = 600
_NO_PROXY = {"NO_PROXY": "*", "no_proxy": "*"}


class Origin:
    """A registry that has one image and counts what it sends."""

    def __init__(self, host: Host, directory: Path, image: Image) -> None:
        self._host = host
        self._directory = directory
        self._image = image
        self._tally = directory / "tally"
        self._inside = f"127.0.0.1:{_REGISTRY_PORT}"
        self.processes: list[Process] = []
        self.url = f"http://{host.ipv4}:{_COUNTER_PORT}"
        self.kind = PROGRAM if shutil.which(PROGRAM) else "embedded"
        directory.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start it, with the image in it; returns when it listens."""
        self.run()
        if self.kind == PROGRAM:
            connection = HTTPConnection("127.0.0.1", _REGISTRY_PORT)
            connection.sock = self._host.connect("127.0.0.1", _REGISTRY_PORT, _PUSH_SECONDS)
            try:
                push(self._image, connection)
            finally:
                connection.close()

    def run(self) -> None:
        """Start its processes, for the first time or again."""
        log = self._directory / "registry.log"
        log.unlink(missing_ok=True)
        registry = self._host.start(self._registry_command(), log=log, environment=_NO_PROXY)
        said = "listening on" if self.kind == PROGRAM else '"address"'
        registry.wait_until(lambda: said in registry.output(), f"the origin ({self.kind}) listens", _START_SECONDS)
        log = self._directory / "counter.log"
        log.unlink(missing_ok=True)
        listen = self.url.removeprefix("http://")
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "simulations.emulation.counter",
            listen,
            self._inside,
            self._tally,
        ]
        counter = self._host.start(command, log=log, environment=_NO_PROXY)
        counter.wait_until(lambda: LISTENING in counter.output(), "the origin's counter listens", _START_SECONDS)
        self.processes = [registry, counter]

    def sent(self) -> Sent:
        """What has left it so far."""
        return read_tally(self._tally)

    def kill(self) -> None:
        """End it as a crash would."""
        for process in self.processes:
            process.kill()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its processes."""
        for process in self.processes:
            process.send(number)

    def _registry_command(self) -> list[str | Path]:
        if self.kind != PROGRAM:
            layout = self._image.layout.directory
            return [sys.executable, "-m", "p2pdist.demo.registry", "--dir", layout, "--listen", self._inside]
        config = self._directory / "config.yml"
        config.write_text(
            "version: 0.1\n"
            "log: {level: info, accesslog: {disabled: true}}\n"
            f"storage: {{filesystem: {{rootdirectory: '{self._directory / 'storage'}'}}}}\n"
            f"http: {{addr: '{self._inside}', secret: 'not one'}}\n"
        )
        return [PROGRAM, "serve", config]
