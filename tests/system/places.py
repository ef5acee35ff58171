"""Where a program of a test runs and is reached: this machine's loopback, or a host of the test's network."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from p2pdist.demo.ports import FreePorts
from simulations.network import Host
from simulations.processes import Process

_HTTP_SECONDS = 60
_FIRST_PORT = 7400
_NO_PROXY = {"NO_PROXY": "*", "no_proxy": "*"}
_loopback_ports = {loopback: FreePorts(loopback) for loopback in ("127.0.0.1", "::1")}


@dataclass(frozen=True)
class Place:
    """One host of a fleet, be it only by the ports that it has to itself."""

    host: Host | None = None
    ipv6: bool = False

    @property
    def address(self) -> str:
        """Where other places reach this one."""
        if self.host is not None:
            return self.host.ipv6 if self.ipv6 else self.host.ipv4
        return self.loopback

    @property
    def loopback(self) -> str:
        """Where only this place reaches itself."""
        return "::1" if self.ipv6 else "127.0.0.1"

    def ports(self, count: int) -> list[int]:
        """Ports that nobody listens on here; a namespace has nobody else in it."""
        if self.host:
            return list(range(_FIRST_PORT, _FIRST_PORT + count))
        return _loopback_ports[self.loopback].take(count)

    def start(self, argv: Sequence[str | Path], log: Path, descriptors: Sequence[int] = ()) -> Process:
        """Start a program here; only on this machine's loopback can it inherit `descriptors`."""
        if self.host:
            assert not descriptors
            return self.host.start(argv, log=log, environment=_NO_PROXY)
        return Process(argv, log=log, environment=_NO_PROXY, descriptors=descriptors)

    def connect(self, address: str, port: int, timeout_seconds: float = _HTTP_SECONDS) -> socket.socket:
        """A connection from here."""
        if self.host:
            return self.host.connect(address, port, timeout_seconds)
        return socket.create_connection((address, port), timeout_seconds)

    def http(self, address: str, port: int) -> HTTPConnection:
        """An HTTP connection from here, not opened yet where this machine can open it itself."""
        connection = HTTPConnection(address, port, timeout=_HTTP_SECONDS)
        if self.host:
            connection.sock = self.connect(address, port)
        return connection

    def listen(self) -> socket.socket:
        """A listening socket of this process that other places reach."""
        if self.host:
            return self.host.listen(0, self.address)
        family = socket.AF_INET6 if self.ipv6 else socket.AF_INET
        return socket.create_server((self.address, 0), family=family)


def with_port(address: str, port: int) -> str:
    """`HOST:PORT`, an IPv6 address in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
