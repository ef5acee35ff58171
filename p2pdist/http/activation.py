"""Listening sockets that somebody else opened and holds: systemd's socket activation, sd_listen_fds(3).

Whoever connects while nobody accepts waits in the kernel's queue of such a socket, so a daemon can be exchanged without
a refused connection. The activator starts us with the sockets as descriptors 3, 4, … and says in the environment for
which process they are, how many there are, and how they are called (`FileDescriptorName=` of a socket unit).
"""

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import trio

from p2pdist.core.errors import InvalidInput
from p2pdist.http.listeners import CannotListen, open_listeners, split_address

_FIRST_DESCRIPTOR = 3
_MOST_DESCRIPTORS = 64
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


@dataclass(slots=True)
class Inherited:
    """The sockets that an activator holds for this process, by name; each can be had once."""

    _named: list[tuple[str, socket.socket]] = field(default_factory=list)

    @classmethod
    def take(cls) -> "Inherited":
        """Those that this process was started with; later calls, and programs that it starts, find none.

        Raises `InvalidInput` for descriptors that aren't listening TCP sockets.
        """
        found = {name: os.environ.pop(name, "") for name in _VARIABLES}
        return cls([(name, _listening(number, name)) for number, name in _descriptors(found)])

    async def open(self, name: str, address: str) -> tuple[list[trio.SocketListener], bool]:
        """The sockets called `name` that listen on `address` (HOST:PORT), and True; else our own, and False.

        Raises what `open_listeners` raises.
        """
        wanted = await _endpoints(address)
        held = [(its, sock) for its, sock in self._named if its == name and _endpoint(sock) in wanted]
        if not held:
            return await open_listeners(address), False
        self._named = [each for each in self._named if each not in held]
        return [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for _, sock in held], True

    def check_none_left(self) -> None:
        """Raise `InvalidInput` when there is a socket that nobody asked for: clients would wait on it for ever."""
        if self._named:
            left = ", ".join(f"{name} on {host}:{port}" for name, (host, port) in map(_described, self._named))
            self.close()
            raise InvalidInput(
                f"the socket unit holds sockets that the configuration doesn't name: {left}; let ListenStream= and"
                " FileDescriptorName= of the unit say the same as the tables and `listen` of the configuration"
            )

    def close(self) -> None:
        """Close what nobody asked for."""
        for _, sock in self._named:
            sock.close()
        self._named = []


def _descriptors(variables: Mapping[str, str]) -> list[tuple[int, str]]:
    """Numbers and names of the descriptors that are for this process."""
    if variables["LISTEN_PID"] != str(os.getpid()):
        return []
    count = variables["LISTEN_FDS"]
    if not (count.isascii() and count.isdigit() and int(count) <= _MOST_DESCRIPTORS):
        raise InvalidInput(f"LISTEN_FDS={count[:20]!r} isn't a number from 0 to {_MOST_DESCRIPTORS}")
    names = variables["LISTEN_FDNAMES"].split(":") if variables["LISTEN_FDNAMES"] else []
    numbers = range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count))
    return [(number, names[at] if at < len(names) else "unknown") for at, number in enumerate(numbers)]


def _listening(number: int, name: str) -> socket.socket:
    try:
        sock = socket.socket(fileno=number)
    except OSError as error:
        raise InvalidInput(f"descriptor {number} ({name}) isn't a socket: {error.strerror}") from error
    listens = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM
    if not listens or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()
        raise InvalidInput(f"descriptor {number} ({name}) isn't a listening TCP socket: ListenStream=HOST:PORT")
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock


async def _endpoints(address: str) -> Sequence[tuple[str, int]]:
    host, port = split_address(address)
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise CannotListen(f"cannot listen on {address}: its host isn't known ({error.strerror})") from error
    return [(str(where[0]), int(where[1])) for *_, where in found]


def _endpoint(sock: socket.socket) -> tuple[str, int]:
    host, port = sock.getsockname()[:2]
    return str(host), int(port)


def _described(held: tuple[str, socket.socket]) -> tuple[str, tuple[str, int]]:
    return held[0], _endpoint(held[1])
