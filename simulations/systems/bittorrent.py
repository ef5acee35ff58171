"""A plain BitTorrent deployment: libtorrent with its default settings, one torrent per blob after a whole fetch.

The node on the tracker's host fetches a blob from the origin when it is first asked for, makes a torrent of it, seeds
it and is the torrents' tracker; a node on every host downloads what its local clients ask for and serves it whole. All
of them are `simulations.systems.bittorrent_node`.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

from p2pdist.core.errors import Unavailable
from simulations.network import Host
from simulations.processes import Process
from simulations.systems import Counts, Stage

_PORT = 7600
_SEEDER = "tracker"
_START_SECONDS = 60
_FETCH_SECONDS = 600
_READY = "serving at"


class BitTorrent:
    """The nodes of one measurement."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._processes: dict[str, Process] = {}
        self._lost: list[Counts] = []

    def start(self) -> None:
        for name in (_SEEDER, *self._stage.hosts):
            self.restart(name)
        for name, process in self._processes.items():
            self._wait_ready(name, process)

    def warm(self, digests: Sequence[str]) -> None:
        """Let the seeder fetch the blobs, and make their torrents."""
        for digest in digests:
            _get(self._stage.server, self._stage.server.ipv4, f"/torrent/{digest}")

    def blob_url(self, host: str, digest: str) -> str:
        return f"http://127.0.0.1:{_PORT}/blob/{digest}"

    def manifest_url(self, host: str, reference: str) -> str | None:
        """Torrents know no manifests."""
        return None

    def processes(self) -> Mapping[str, Process]:
        return self._processes

    def counts(self) -> Counts:
        counted = [self._counts_of(name) for name, process in self._processes.items() if process.running]
        counted += self._lost
        return Counts(
            sum(each.seeder_bytes or 0 for each in counted), sum(each.redundant_bytes or 0 for each in counted)
        )

    def kill(self, host: str) -> None:
        self._lost.append(self._counts_of(host))
        self._processes[host].kill()

    def restart(self, host: str) -> None:
        seeds = host == _SEEDER
        place = self._stage.server if seeds else self._stage.network[host]
        address = place.ipv4 if seeds else "127.0.0.1"
        argv: list[str | Path] = [sys.executable, "-m", "simulations.systems.bittorrent_node"]
        argv += ["--serve", f"{address}:{_PORT}", "--address", place.ipv4, "--directory", self._stage.directory / host]
        if seeds:
            argv += ["--origin", self._stage.origin_url, "--repository", self._stage.repository]
        else:
            argv += ["--seeder", f"{self._stage.server.ipv4}:{_PORT}"]
        log = self._stage.directory / f"{host}.log"
        self._processes[host] = place.start(argv, log=log, environment={"NO_PROXY": "*", "no_proxy": "*"})

    def stop(self) -> None:
        for process in self._processes.values():
            process.kill()

    def _wait_ready(self, name: str, process: Process) -> None:
        process.wait_until(lambda: _READY in process.output(), f"{name} serves", _START_SECONDS)

    def _counts_of(self, name: str) -> Counts:
        host = self._stage.server if name == _SEEDER else self._stage.network[name]
        address = host.ipv4 if name == _SEEDER else "127.0.0.1"
        counted = json.loads(_get(host, address, "/counts"))
        return Counts(counted["sent_bytes"] if name == _SEEDER else 0, counted["redundant_bytes"])


def make(stage: Stage) -> BitTorrent:
    """The system on `stage`."""
    return BitTorrent(stage)


def _get(host: Host, address: str, target: str) -> bytes:
    with closing(HTTPConnection(address, _PORT)) as connection:
        connection.sock = host.connect(address, _PORT, _FETCH_SECONDS)
        connection.request("GET", target)
        with connection.getresponse() as response:
            body = response.read()
            if response.status != 200:
                raise Unavailable(f"{host.name} answered {target} with {response.status}: {body[:300]!r}")
            return body
