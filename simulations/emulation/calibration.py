"""How much of a link's rate is payload here: one plain TCP flow over shaped links, when nothing else runs.

What a link gives at first (its token bucket is full, the flow not up to speed yet) is left out, so that the figure is
the one that holds for as long as a pull lasts.
"""

import socket
import threading
import time
from itertools import combinations

from simulations.network import Host, Network

FLOW_SECONDS = 3.0
_SETTLE_SHARE = 0.25
_BUFFER_BYTES = 256 * 1024
_TIMEOUT_SECONDS = 10


def usable_share(network: Network, names: list[str], zones: dict[str, str]) -> float | None:
    """Payload per bit of rate between two of these hosts, of one zone; None when no link between two has a limit."""
    pairs = [
        (rate, network[sender], network[receiver])
        for sender, receiver in combinations(names, 2)
        if zones[sender] == zones[receiver] and (rate := _narrowest(network[sender], network[receiver])) is not None
    ]
    if not pairs:
        return None
    rate, sender, receiver = max(pairs, key=lambda pair: pair[0])
    return _steady_bps(sender, receiver, rate) / rate


def _narrowest(sender: Host, receiver: Host) -> int | None:
    rates = [rate for rate in (sender.link.up_bps, receiver.link.down_bps) if rate is not None]
    return min(rates, default=None)


def _steady_bps(sender: Host, receiver: Host, rate_bps: int) -> float:
    """Bits per second of payload that one flow brings once it has settled."""
    size_bytes = int(rate_bps / 8 * FLOW_SECONDS)
    settled_at, settled_bytes, received = 0.0, 0, 0
    buffer = bytearray(_BUFFER_BYTES)
    with receiver.listen(0, receiver.ipv4) as listener:
        port = listener.getsockname()[1]
        sending = threading.Thread(target=_send, args=(sender, receiver.ipv4, port, size_bytes))
        sending.start()
        listener.settimeout(_TIMEOUT_SECONDS)
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(_TIMEOUT_SECONDS)
            while count := connection.recv_into(buffer):
                received += count
                if not settled_bytes and received >= size_bytes * _SETTLE_SHARE:
                    settled_at, settled_bytes = time.monotonic(), received
            ended_at = time.monotonic()
        sending.join()
    return (received - settled_bytes) * 8 / (ended_at - settled_at)


def _send(sender: Host, address: str, port: int, size_bytes: int) -> None:
    buffer = memoryview(bytes(_BUFFER_BYTES))
    with sender.connect(address, port) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for offset in range(0, size_bytes, _BUFFER_BYTES):
            connection.sendall(buffer[: min(_BUFFER_BYTES, size_bytes - offset)])
