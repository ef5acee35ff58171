"""A round trip for the hosts of a network, in user space, since netem isn't everywhere.

Owns one process inside the network's hub, and the settings of the bridges' ports that make every packet pass by it.
Knows nothing of what the packets carry.

    host "a"          hub                                                         host "b"
    eth0 ---> port 0 (isolated: the bridge forwards nothing from it)
                |  read by a packet socket, kept for the delay
                +--> tap "delay" --- bridge --- port 1 ---> eth0

Ports that are isolated from each other reach, and are reached by, only the tap (bridge(8), "isolated"). Packets are
read and written with their offload header (virtio_net_hdr), so that a large TCP segment stays one packet, as it is on
the bridge without this.

    python -m simulations.delay SECONDS BRIDGE PORT [PORT …]      (in the hub's namespace)
"""

import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from simulations.network import Network, NetworkUnavailable
from simulations.processes import Process, poll_until

TUN = Path("/dev/net/tun")
_TAP = "delay"
_READY = "delaying"
_START_SECONDS = 20
_ETH_P_ALL = 0x0003
_SOL_PACKET = 263
_PACKET_VNET_HDR = 15
_PACKET_IGNORE_OUTGOING = 23
_SO_RCVBUFFORCE = 33
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_FORWARDING = "3"  # Linux, if_bridge.h, BR_STATE_FORWARDING; a tap's carrier is noticed up to a second late
_RECEIVE_BUFFER_BYTES = 16 << 20
_MAX_FRAME_BYTES = 10 + 18 + 65536
_MAX_READS = 64
"""Packets taken from one port before the others have their turn, and before what is due leaves."""


class Delay:
    """Delays every packet between the hosts of a network by `seconds`, each way, for as long as the context lasts."""

    def __init__(self, network: Network, seconds: float, log: Path) -> None:
        self._network = network
        self._seconds = seconds
        self._log = log
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        if not TUN.exists():
            raise NetworkUnavailable(f"a round trip needs {TUN}, which isn't here")
        hub, ports = self._network.hub, [host.port_device for host in self._network.hosts.values()]
        settings = "".join(f"link set dev {port} isolated on\n" for port in ports)
        _bridge(hub, settings)
        with ExitStack() as stack:
            stack.callback(_bridge, hub, settings.replace(" on\n", " off\n"))
            argv = [sys.executable, "-m", "simulations.delay", str(self._seconds), "bridge0", *ports]
            launcher = ["ip", "netns", "exec", hub]
            process = stack.enter_context(Process(argv, log=self._log, launcher=launcher))
            process.wait_until(lambda: _READY in process.output(), "packets are delayed", _START_SECONDS)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._cleanup.close()


def _bridge(namespace: str, script: str) -> None:
    argv = ["bridge", "-netns", namespace, "-batch", "-"]
    finished = subprocess.run(argv, input=script, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise NetworkUnavailable(f"{' '.join(argv)}: {finished.stderr.strip()}\n{script}")


def _open_port(device: str) -> socket.socket:
    """A socket that reads what comes into the bridge by a port."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
    sock.bind((device, _ETH_P_ALL))
    return sock


def _open_tap(bridge: str) -> int:
    """The descriptor of a new tap on the bridge that neither learns addresses nor gets what nobody asked for."""
    tap = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", _TAP.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
    subprocess.run(["ip", "link", "set", _TAP, "master", bridge, "up"], check=True)
    off = ["learning", "off", "flood", "off", "mcast_flood", "off", "bcast_flood", "off"]
    subprocess.run(["bridge", "link", "set", "dev", _TAP, *off], check=True)
    state = Path(f"/sys/class/net/{_TAP}/brport/state")
    poll_until(lambda: state.read_text().strip() == _FORWARDING, "the bridge forwards from the tap", _START_SECONDS)
    return tap


def pump(seconds: float, bridge: str, ports: Sequence[str]) -> None:
    """Move packets until the process is ended."""
    waiting: deque[tuple[float, bytes]] = deque()
    with ExitStack() as stack:
        epoll = stack.enter_context(select.epoll())
        sockets = {}
        for port in ports:
            sock = stack.enter_context(_open_port(port))
            sockets[sock.fileno()] = sock
            epoll.register(sock.fileno(), select.EPOLLIN)
        tap = _open_tap(bridge)
        stack.callback(os.close, tap)
        print(_READY, flush=True)
        while True:
            timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            for descriptor, _ in epoll.poll(timeout):
                _take(sockets[descriptor], time.monotonic() + seconds, waiting)
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                os.write(tap, waiting.popleft()[1])


def _take(sock: socket.socket, due: float, waiting: deque[tuple[float, bytes]]) -> None:
    for _ in range(_MAX_READS):
        try:
            waiting.append((due, sock.recv(_MAX_FRAME_BYTES)))
        except BlockingIOError:
            return


if __name__ == "__main__":
    pump(float(sys.argv[1]), sys.argv[2], sys.argv[3:])
