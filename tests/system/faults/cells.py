"""The cells of the matrix. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What goes wrong.

    At the origin a fault strikes once, or for a second where it refuses connections; `SLOW` lasts. At the tracker and
    at peers it lasts until the pull is over, for all connections; an HTTP status there is what a wrong server behind
    the right address answers.
    """

    NOT_FOUND = "404"
    UNAUTHORIZED = "401"
    FORBIDDEN = "403"
    TOO_MANY = "429"
    BROKEN = "500"
    BUSY = "503"
    REFUSED = "refused"
    HANG = "hang"
    SLOW = "slow"
    FIN = "fin"
    RST = "rst"
    WRONG_BYTES = "wrong-bytes"
    WRONG_LENGTH = "wrong-length"
    KILLED = "killed"
    RESTARTED = "restarted"

    @property
    def status(self) -> int | None:
        """The HTTP status, where it is one."""
        return int(self) if self.isdecimal() else None


class Where(StrEnum):
    """What is broken: the registry, the way to the tracker, the ways to the other agents, or the client's own agent."""

    ORIGIN = "origin"
    TRACKER = "tracker"
    PEER = "peer"
    AGENT = "agent"


class When(StrEnum):
    """When it strikes: before the client has an answer, when the layer's first byte is due, or half-way through it."""

    HEADERS = "headers"
    START = "start"
    MIDDLE = "middle"


class Client(StrEnum):
    """Who pulls."""

    CONTAINERD = "containerd"
    DOCKERD = "dockerd"
    PODMAN = "podman"
    SKOPEO = "skopeo"
    BUILDAH = "buildah"


class Outcome(StrEnum):
    """What a pull comes to. One that fails does so by itself and stores nothing wrong, and the next one succeeds."""

    PULLED = "pulled"
    FAILED = "failed"


AGENT_FAULTS = (Fault.KILLED, Fault.RESTARTED)
OTHER_FAULTS = tuple(fault for fault in Fault if fault not in AGENT_FAULTS)


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the matrix."""

    client: Client
    where: Where
    fault: Fault
    when: When

    def __str__(self) -> str:
        return f"{self.client} {self.where} {self.fault} {self.when}"

    @classmethod
    def parse(cls, text: str) -> "Cell":
        """The cell that `str` gave."""
        client, where, fault, when = text.split()
        return cls(Client(client), Where(where), Fault(fault), When(when))


def all_cells() -> Iterator[Cell]:
    """The whole matrix, client by client."""
    for client in Client:
        for where in Where:
            for fault in AGENT_FAULTS if where is Where.AGENT else OTHER_FAULTS:
                for when in When:
                    yield Cell(client, where, fault, when)
