"""Free TCP ports on loopback, chosen before the daemons that will listen on them start.

Daemons print nothing, so their addresses must be written into their configurations beforehand. Between the choice and
the daemon's `bind` nobody holds the port. A port that the kernel gives for port 0 comes from the range that the source
ports of outgoing connections come from too, and a fleet makes many of those; so ports are taken from below that range,
where only somebody who asks for the very number gets it.
"""

import random
import socket
from pathlib import Path

from p2pdist.core.errors import Unavailable

_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST_PORT = 10000
_LAST_PORT = 32767


class FreePorts:
    """Gives ports of `host` that nobody listens on at the moment, each only once."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._host = host
        self._candidates = list(range(_FIRST_PORT, _below_ephemeral() + 1))
        random.shuffle(self._candidates)

    def take(self, count: int) -> list[int]:
        """`count` different ports; raises `Unavailable` when there aren't so many."""
        found: list[int] = []
        while len(found) < count:
            if not self._candidates:
                raise Unavailable(
                    f"only {len(found)} of {count} TCP ports are free on {self._host} from {_FIRST_PORT} on"
                )
            port = self._candidates.pop()
            if _is_free(self._host, port):
                found.append(port)
        return found


def _below_ephemeral() -> int:
    """The last port under the range of source ports, or a usual one when that leaves too few or isn't known."""
    try:
        lowest = int(_EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _LAST_PORT
    return lowest - 1 if lowest > _FIRST_PORT + 1000 else _LAST_PORT


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
