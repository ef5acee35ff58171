"""A small activator: holds an agent's shim socket and starts the agent with it, as systemd's socket unit does."""

import socket
from typing import Self

from tests.system.daemons import Agent

_AS_DESCRIPTOR_3 = 'exec 3<&"$1"; shift; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=shim; exec "$@"'


class Activator:
    """Holds the socket for as long as the context lasts, whatever becomes of the agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._socket = socket.create_server((agent.place.loopback, agent.shim_port), backlog=128)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()

    def start(self) -> None:
        """Start the agent; it isn't ready yet."""
        number = self._socket.fileno()
        self._agent.start(["bash", "-c", _AS_DESCRIPTOR_3, "activator", str(number)], descriptors=[number])
