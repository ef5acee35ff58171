"""What is measured on: a system with its network, origin and image, and the clients of its hosts.

Owns the clients' threads. Knows no clock of a measurement.
"""

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from p2pdist.core.errors import Unavailable
from simulations.emulation.client import Puller, PullFailed, Wanted
from simulations.emulation.content import Image
from simulations.emulation.origin import Origin
from simulations.emulation.scenario import TRACKER, Scenario
from simulations.network import Network
from simulations.systems import System

_LOG_TAIL_LINES = 15
_PREPARE_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Scene:
    """What a measurement happens in: everything is started, and nobody pulls."""

    scenario: Scenario
    network: Network
    origin: Origin
    system: System
    image: Image
    tag: str

    def puller(self, host: str) -> Puller:
        """The client of a host."""
        manifest = self.system.manifest_url(host, self.tag) if self.scenario.client.manifest else None
        blobs = [(self.system.blob_url(host, str(layer.digest)), layer) for layer in self.image.layers]
        wanted = Wanted((manifest, self.image.manifest) if manifest else None, blobs)
        client = self.scenario.client
        patient = host in self.scenario.disturbed
        return Puller(self.network[host], wanted, client.parallel, client.check, patient)

    def log_tail(self, host: str) -> str:
        """The end of the log of a host's process, and of what is in the middle."""
        parts = []
        for name in (host, TRACKER):
            process = self.system.processes().get(name)
            if process is not None:
                parts += [f"--- end of the log of {name}", *process.output().splitlines()[-_LOG_TAIL_LINES:]]
        return "\n".join(parts)


class Clients:
    """Pullers at work, each in a thread; all have ended when the context is left."""

    def __init__(self, pullers: Sequence[Puller]) -> None:
        self.pullers = {puller.host.name: puller for puller in pullers}
        self._ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._running: set[str] = set()

    def __enter__(self) -> "Clients":
        return self

    def __exit__(self, *_exception: object) -> None:
        for puller in self.pullers.values():
            puller.cancel()
        for thread in self._threads:
            thread.join()

    def start(self, moments: dict[str, float]) -> None:
        """Let hosts pull from their moment on (`time.monotonic`)."""
        for host, moment in moments.items():
            thread = threading.Thread(target=self._pull, args=(host, moment), name=f"client of {host}")
            self._running.add(host)
            self._threads.append(thread)
            thread.start()

    def _pull(self, host: str, moment: float) -> None:
        try:
            self.pullers[host].run(moment)
        finally:
            self._ended.put(host)

    def wait(self, hosts: set[str], timeout_seconds: float) -> bool:
        """Wait for the end of these hosts' pulls, no longer than that; whether all of them have ended."""
        deadline = time.monotonic() + timeout_seconds
        while self._running & hosts:
            try:
                self._running.discard(self._ended.get(timeout=max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                return False
        return True


def pull_now(scene: Scene, hosts: Sequence[str]) -> None:
    """Let these hosts pull the image at once, unmeasured; raises `Unavailable` when one of them can't."""
    with Clients([scene.puller(host) for host in hosts]) as clients:
        clients.start(dict.fromkeys(hosts, time.monotonic()))
        clients.wait(set(hosts), _PREPARE_SECONDS)
        for host in hosts:
            check(scene, clients.pullers[host])


def check(scene: Scene, puller: Puller) -> None:
    """That a pull came to its end with the right bytes; raises `Unavailable` with the end of the logs."""
    host, pull = puller.host.name, puller.pull
    if pull.finished_at is None:
        raise Unavailable(f"{host} didn't get its image: {pull.error}\n{scene.log_tail(host)}")
    try:
        puller.verify()
    except PullFailed as error:
        raise Unavailable(f"{error}\n{scene.log_tail(host)}") from error
