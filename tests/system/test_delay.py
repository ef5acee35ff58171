"""The round trip in user space: how long it is, that nothing is lost, and that it goes away again."""

import socket
import threading
import time
from pathlib import Path

import pytest

from simulations.delay import TUN, Delay
from simulations.network import Host, Link, Network, measure_flow
from tests.conftest import Figure

pytestmark = [
    pytest.mark.usefixtures("needs_namespaces"),
    pytest.mark.skipif(not TUN.exists(), reason=f"there is no {TUN} here"),
]

MBIT = 1_000_000
ONE_WAY_SECONDS = 0.01
ECHOES = 20


def round_trips(asking: Host, answering: Host) -> list[float]:
    """Seconds from sending a byte to its echo, again and again over one connection."""
    with answering.listen(0, answering.ipv4) as listener:

        def echo() -> None:
            connection, _ = listener.accept()
            with connection:
                while data := connection.recv(1):
                    connection.sendall(data)

        thread = threading.Thread(target=echo)
        thread.start()
        found = []
        with asking.connect(answering.ipv4, listener.getsockname()[1]) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(ECHOES):
                started = time.monotonic()
                connection.sendall(b"?")
                assert connection.recv(1) == b"?"
                found.append(time.monotonic() - started)
        thread.join()
    return found


def test_packets_come_later_and_links_keep_their_rates(tmp_path: Path, figure: Figure) -> None:
    with Network({name: Link.symmetric(40 * MBIT) for name in "abc"}) as network:
        with Delay(network, ONE_WAY_SECONDS, tmp_path / "log"):
            delayed = sorted(round_trips(network["a"], network["b"]))
            flow = measure_flow(network["b"], network["c"], 12_000_000)
        plain = sorted(round_trips(network["a"], network["b"]))
    figure("round trip, fastest", delayed[0] * 1000, "ms", at_least=2000 * ONE_WAY_SECONDS)
    figure("round trip, median", delayed[ECHOES // 2] * 1000, "ms", at_most=2600 * ONE_WAY_SECONDS)
    figure("one flow", flow.payload_bps / (40 * MBIT), "of the link's rate", at_least=0.8)
    assert plain[ECHOES // 2] < ONE_WAY_SECONDS
