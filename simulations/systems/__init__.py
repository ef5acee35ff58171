"""Systems that the emulation can measure: each is one module that says how it starts and where a blob is got.

A module has a function `make(stage: Stage) -> System`. `--system NAME` takes one of the names below, or the dotted name
of any importable module: nothing else is needed to put a system of your own beside these (simulations/README.md).
"""

import importlib
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from p2pdist.core.errors import InvalidInput
from simulations.network import Host, Network
from simulations.processes import Process

NAMES = MappingProxyType(
    {
        "p2pdist": "simulations.systems.p2pdist",
        "direct": "simulations.systems.direct",
        "nginx": "simulations.systems.nginx",
        "bittorrent": "simulations.systems.bittorrent",
    }
)


@dataclass(frozen=True, slots=True)
class Stage:
    """What a system is given: a network, an origin with the image in it, and a directory of its own."""

    network: Network
    directory: Path
    origin_url: str
    """Base URL of the origin's registry API, as other hosts reach it."""
    repository: str
    hosts: tuple[str, ...]
    """The hosts that will ask for blobs."""
    zones: Mapping[str, str]
    """The zone of each host, the tracker's included; empty text where there are no zones."""
    events: bool = False
    """Whether the system is to keep event logs, if it is one that can (`Noting`)."""

    @property
    def server(self) -> Host:
        """The host for whatever the system has in the middle: tracker, seeder, proxy."""
        return self.network["tracker"]

    def blob_path(self, digest: str) -> str:
        """The path of a blob in the registry API (OCI distribution spec, "Pull")."""
        return f"/v2/{self.repository}/blobs/{digest}"

    def manifest_path(self, reference: str) -> str:
        """The path of a manifest in the registry API."""
        return f"/v2/{self.repository}/manifests/{reference}"


@dataclass(frozen=True, slots=True)
class Counts:
    """What a system counts about itself, since it was started; None where it doesn't."""

    seeder_bytes: int | None = None
    """Payload that the middle has sent: dealt, seeded, proxied."""
    redundant_bytes: int | None = None
    """Payload that hosts received though they had it."""


class System(Protocol):
    """One system at work: the harness calls `start` once, then `warm` where the scenario wants it, `stop` always."""

    def start(self) -> None:
        """Start everything on every host; returns when all of it is ready to serve."""

    def warm(self, digests: Sequence[str]) -> None:
        """Let the middle have these blobs, and no host."""

    def blob_url(self, host: str, digest: str) -> str:
        """Where a client on `host` gets a blob: an http URL whose host is an IPv4 address."""

    def manifest_url(self, host: str, reference: str) -> str | None:
        """Where it gets the image's manifest before; None: the system knows no manifests."""

    def processes(self) -> Mapping[str, Process]:
        """What runs for the system now, by the name of the host; `tracker` for what is in the middle."""

    def counts(self) -> Counts:
        """What the system counts about itself."""

    def kill(self, host: str) -> None:
        """End the process of a host (or `tracker`) as a crash would."""

    def restart(self, host: str) -> None:
        """Start the process of a host (or `tracker`) again after it was killed, without waiting for it."""

    def stop(self) -> None:
        """End what `start` started, as far as it got; what still runs afterwards is killed."""


@runtime_checkable
class Noting(Protocol):
    """A system that keeps event logs in the form of p2pdist's."""

    def end_events(self) -> list[Path]:
        """End what runs, so that its logs are whole; the files."""


def module_of(name: str) -> str:
    """The module of the system that `name` means; raises `InvalidInput` when it means none."""
    if name in NAMES:
        return NAMES[name]
    if "." not in name:
        raise InvalidInput(f"there is no system {name!r}; there are {', '.join(NAMES)}, or any module's dotted name")
    return name


def make(name: str, stage: Stage) -> System:
    """The system called `name` on `stage`, not started yet; raises `InvalidInput`."""
    where = module_of(name)
    try:
        module = importlib.import_module(where)
    except ImportError as error:
        raise InvalidInput(f"the system {name!r} can't be imported: {error}") from error
    if not hasattr(module, "make"):
        raise InvalidInput(f"{where} has no function make(stage), which gives a system")
    system: System = module.make(stage)
    return system


def thaw(system: System) -> None:
    """Continue whatever an event stopped, so that it can be asked and ended."""
    for process in system.processes().values():
        process.send(signal.SIGCONT)
