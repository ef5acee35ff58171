"""A switched network in one machine: hosts are network namespaces, their links are shaped, one bridge joins them.

Owns the namespaces, links and addresses that it makes, and takes them away again: when the context ends, or, after a
crash, when any later run calls `sweep`. It touches nothing in the machine's own namespace. Knows nothing of p2pdist.

    host "a"                hub (a namespace of its own)             host "b"
    eth0 --- up (tbf) ---> port 0 --- bridge --- port 1 --- down (tbf) ---> eth0

Each direction has its own token bucket at the sending end: the host's uplink on its `eth0`, its downlink on the port of
the bridge. Zones are bridges of their own, each joined to the first one by a link that can be shaped too. There is no
latency to speak of (netem isn't everywhere; `delay` adds one), and about 95.5 % of a rate is payload: calibrate with
`measure_flow` before comparing.

Namespaces inherit the machine's congestion control, which may be one that paces around a token bucket. Each is set to
cubic, what most hosts run; a machine that keeps cubic out of `net.ipv4.tcp_allowed_congestion_control` refuses that
(Linux, tcp_set_default_congestion_control), and that list is the machine's, not ours to change: then it is reno, which
every namespace may use and which at these round trips does the same. `congestion_control` says which it was.

Processes enter a namespace by `ip netns exec`; this process reaches into one by a thread that enters it, makes a socket
and ends, since a socket stays in the namespace that it was made in.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from itertools import count
from pathlib import Path
from typing import Self, TypeVar

from simulations.ownership import Owner
from simulations.processes import Process

_NETNS_DIRECTORY = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_CONGESTION_CONTROLS = ("cubic", "reno")
_CONGESTION_SETTING = Path("/proc/sys/net/ipv4/tcp_congestion_control")
_FIRST_IPV4 = IPv4Address("10.77.0.1")
_IPV4_PREFIX_LENGTH = 16
_FIRST_IPV6 = IPv6Address("fd77::1")
_IPV6_PREFIX_LENGTH = 64
_MIN_BURST_BYTES = 128 * 1024
_BURST_SECONDS = 0.01
_FLOW_BUFFER_BYTES = 256 * 1024
_CONNECT_SECONDS = 10
_serial = count()

T = TypeVar("T")


class NetworkUnavailable(Exception):
    """Namespaces can't be made here, or a command that makes them failed; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Link:
    """A host's link: bits per second that it may send (`up_bps`) and receive (`down_bps`); None is unshaped."""

    up_bps: int | None = None
    down_bps: int | None = None

    @classmethod
    def symmetric(cls, rate_bps: int) -> Self:
        """The same rate both ways."""
        return cls(rate_bps, rate_bps)


@dataclass(frozen=True, slots=True)
class LinkBytes:
    """Bytes on a host's link, Ethernet headers included, as the host sees the direction."""

    sent: int
    received: int

    def __sub__(self, earlier: "LinkBytes") -> "LinkBytes":
        return LinkBytes(self.sent - earlier.sent, self.received - earlier.received)


@dataclass(frozen=True, slots=True)
class Flow:
    """One plain TCP flow, measured from before the connection to the last byte received."""

    size_bytes: int
    seconds: float

    @property
    def payload_bps(self) -> float:
        """Bits of payload per second."""
        return self.size_bytes * 8 / self.seconds


def unavailable_reason() -> str | None:
    """Why networks can't be made here, in a sentence; None when they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [program for program in ("ip", "tc") if shutil.which(program) is None]
    return f"network namespaces need {' and '.join(missing)} (Debian package iproute2)" if missing else None


def _run(argv: Sequence[str], script: str = "") -> str:
    finished = subprocess.run(argv, input=script, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise NetworkUnavailable(f"{' '.join(argv)}: {finished.stderr.strip()}\n{script}".strip())
    return finished.stdout


def _shape(device: str, rate_bps: int | None) -> str:
    """The `tc -batch` line for a token bucket; the bucket holds 10 ms and at least two full GSO packets.

    Without a rate it is the line that lets the device send as it can.
    """
    if rate_bps is None:
        return f"qdisc replace dev {device} root noqueue\n"
    burst = max(_MIN_BURST_BYTES, int(rate_bps / 8 * _BURST_SECONDS))
    return f"qdisc replace dev {device} root tbf rate {rate_bps}bit burst {burst}b latency 50ms\n"


def _enter(namespace: str) -> None:
    """Move the calling thread, and no other, into `namespace`."""
    libc = ctypes.CDLL(None, use_errno=True)
    with (_NETNS_DIRECTORY / namespace).open("rb") as handle:
        if libc.setns(handle.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns into {namespace}")


def _inside(namespace: str, function: Callable[[], T]) -> T:
    """What `function` returns or raises in a fresh thread inside `namespace`."""

    def call() -> T:
        _enter(namespace)
        return function()

    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(call).result()


def _set_congestion_control() -> str:
    """Give the namespace of the calling thread the first algorithm that it may use; returns its name."""
    for name in _CONGESTION_CONTROLS:
        try:
            _CONGESTION_SETTING.write_text(name)
        except (PermissionError, FileNotFoundError):
            continue
        return name
    raise NetworkUnavailable(f"none of {', '.join(_CONGESTION_CONTROLS)} may be used in a network namespace here")


def _trunk(index: int) -> tuple[str, str]:
    """The two ends of the link between the first bridge and another one."""
    return f"trunk{index}a", f"trunk{index}b"


def _bridge(index: int) -> str:
    """The `ip -batch` lines that make a bridge, joined to the first one."""
    lines = f"link add bridge{index} type bridge mcast_snooping 0\nlink set bridge{index} up\n"
    if index == 0:
        return lines
    near, far = _trunk(index)
    lines += f"link add {near} type veth peer name {far}\n"
    return lines + f"link set {near} master bridge0 up\nlink set {far} master bridge{index} up\n"


class Host:
    """A network namespace with one link, `eth0`; made by `Network`."""

    def __init__(self, name: str, namespace: str, index: int, link: Link) -> None:
        self.name = name
        self.namespace = namespace
        self.link = link
        self.ipv4 = str(_FIRST_IPV4 + index)
        self.ipv6 = str(_FIRST_IPV6 + index)
        self.port_device = f"port{index}"
        self.processes: list[Process] = []

    def start(self, argv: Sequence[str | Path], *, log: Path, environment: Mapping[str, str] | None = None) -> Process:
        """Start a program here; the network kills it at the latest when it ends."""
        launcher = ["ip", "netns", "exec", self.namespace]
        process = Process(argv, log=log, environment=environment, launcher=launcher)
        self.processes.append(process)
        return process

    def make_socket(self, make: Callable[[], socket.socket]) -> socket.socket:
        """A socket of this process that stands on this host: what `make` returns, called inside the namespace."""
        return _inside(self.namespace, make)

    def connect(self, address: str, port: int, timeout_seconds: float = _CONNECT_SECONDS) -> socket.socket:
        """A TCP connection from this host; `address` may be the host's own 127.0.0.1."""
        return self.make_socket(lambda: socket.create_connection((address, port), timeout_seconds))

    def enter(self) -> None:
        """Move the calling thread here for good; it must be one that ends with what it does here."""
        _enter(self.namespace)

    def listen(self, port: int = 0, address: str = "") -> socket.socket:
        """A listening TCP socket of this process on this host; IPv4 on all its addresses unless one is given."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return self.make_socket(lambda: socket.create_server((address, port), family=family, backlog=128))

    def cpu_seconds(self) -> float:
        """CPU seconds so far of the programs that run here."""
        return sum(process.cpu_seconds() for process in self.processes if process.running)

    def rss_bytes(self) -> int:
        """Resident memory of the programs that run here."""
        return sum(process.rss_bytes() for process in self.processes if process.running)


class Network:
    """Hosts by name on one bridge, or one for each zone, for as long as the context lasts.

    `zones` says where hosts stand, the zone of the first one being that which all others are joined to, by links that
    carry `zone_bps` each way.
    """

    def __init__(
        self, links: Mapping[str, Link], *, zones: Mapping[str, str] | None = None, zone_bps: int | None = None
    ) -> None:
        prefix = f"{Owner.current()}.{next(_serial)}"
        self.hub = f"{prefix}.hub"
        """The namespace of the bridges."""
        self.hosts = {
            name: Host(name, f"{prefix}.host.{name}", index, link) for index, (name, link) in enumerate(links.items())
        }
        self._zones = {name: (zones or {}).get(name, "") for name in links}
        self._bridges = {zone: index for index, zone in enumerate(dict.fromkeys(self._zones.values()))}
        self._zone_bps = zone_bps
        self.congestion_control = ""
        self._cleanup = ExitStack()

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def __enter__(self) -> Self:
        if (reason := unavailable_reason()) is not None:
            raise NetworkUnavailable(reason)
        sweep()
        with ExitStack() as stack:
            stack.callback(self._remove)
            self._build()
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._cleanup.close()

    def _build(self) -> None:
        hosts = self.hosts.values()
        namespaces = [self.hub, *(host.namespace for host in hosts)]
        _run(["ip", "-batch", "-"], "".join(f"netns add {namespace}\n" for namespace in namespaces))
        hub = "".join(_bridge(index) for index in self._bridges.values())
        for host in hosts:
            hub += f"link add {host.port_device} type veth peer name eth0 netns {host.namespace}\n"
            hub += f"link set {host.port_device} master bridge{self._bridges[self._zones[host.name]]} up\n"
        _run(["ip", "-netns", self.hub, "-batch", "-"], hub)
        shapes = [_shape(host.port_device, rate) for host in hosts if (rate := host.link.down_bps) is not None]
        if self._zone_bps is not None:
            ends = [end for index in self._bridges.values() if index for end in _trunk(index)]
            shapes += [_shape(end, self._zone_bps) for end in ends]
        _run(["tc", "-netns", self.hub, "-batch", "-"], "".join(shapes))
        for host in hosts:
            self._set_up(host)

    def _set_up(self, host: Host) -> None:
        commands = (
            f"addr add {host.ipv4}/{_IPV4_PREFIX_LENGTH} dev eth0\n"
            f"addr add {host.ipv6}/{_IPV6_PREFIX_LENGTH} dev eth0 nodad\n"
            "link set lo up\nlink set eth0 up\n"
        )
        _run(["ip", "-netns", host.namespace, "-batch", "-"], commands)
        if host.link.up_bps is not None:
            _run(["tc", "-netns", host.namespace, "-batch", "-"], _shape("eth0", host.link.up_bps))
        self.congestion_control = _inside(host.namespace, _set_congestion_control)

    def _remove(self) -> None:
        for host in self.hosts.values():
            for process in host.processes:
                process.kill()
        remove([self.hub, *(host.namespace for host in self.hosts.values())])

    def reshape(self, name: str, link: Link) -> None:
        """Give a host's link other rates from now on."""
        host = self.hosts[name]
        _run(["tc", "-netns", host.namespace, "-batch", "-"], _shape("eth0", link.up_bps))
        _run(["tc", "-netns", self.hub, "-batch", "-"], _shape(host.port_device, link.down_bps))
        host.link = link

    def counters(self) -> dict[str, LinkBytes]:
        """What each host's link has carried so far, all read in one instant at the bridge."""
        devices = self._devices()
        return {host.name: devices[host.port_device] for host in self.hosts.values()}

    def zone_counters(self) -> dict[str, LinkBytes]:
        """What has gone from and to each zone but the first, over the link that joins it."""
        devices = self._devices()
        return {zone: devices[_trunk(index)[0]] for zone, index in self._bridges.items() if index}

    def _devices(self) -> dict[str, LinkBytes]:
        """What has come into the bridges by each device (what its other end has sent) and what has left by it."""
        text = _inside(self.hub, Path("/proc/thread-self/net/dev").read_text)
        fields = {line.split(":")[0].strip(): line.split(":")[1].split() for line in text.splitlines()[2:]}
        return {device: LinkBytes(sent=int(each[0]), received=int(each[8])) for device, each in fields.items()}


def namespaces() -> list[str]:
    """The names of all network namespaces that runs of ours made and nobody removed."""
    names = sorted(entry.name for entry in _NETNS_DIRECTORY.iterdir()) if _NETNS_DIRECTORY.exists() else []
    return [name for name in names if Owner.parse(name) is not None]


def remove(names: Sequence[str]) -> None:
    """Kill what runs inside these namespaces of ours, and delete those that exist."""
    existing = [name for name in names if name in namespaces()]
    for name in existing:
        for pid in _run(["ip", "netns", "pids", name]).split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
    if existing:
        _run(["ip", "-force", "-batch", "-"], "".join(f"netns del {name}\n" for name in existing))


def sweep() -> list[str]:
    """Remove the namespaces of runs that died without removing them; returns their names."""
    abandoned = [name for name in namespaces() if (owner := Owner.parse(name)) is not None and not owner.alive]
    remove(abandoned)
    return abandoned


def measure_flow(sender: Host, receiver: Host, size_bytes: int, *, ipv6: bool = False) -> Flow:
    """Send `size_bytes` over one plain TCP connection: what the links between two hosts give when nothing else runs."""
    address = receiver.ipv6 if ipv6 else receiver.ipv4
    with receiver.listen(0, address) as listener:
        port = listener.getsockname()[1]
        started = time.monotonic()
        sending = threading.Thread(target=_send_zeros, args=(sender, address, port, size_bytes))
        sending.start()
        listener.settimeout(_CONNECT_SECONDS)
        connection, _ = listener.accept()
        with connection:
            received = _drain(connection)
        seconds = time.monotonic() - started
        sending.join()
    if received != size_bytes:
        raise NetworkUnavailable(f"{sender.name} sent {size_bytes} bytes, {receiver.name} received {received}")
    return Flow(size_bytes, seconds)


def _send_zeros(sender: Host, address: str, port: int, size_bytes: int) -> None:
    buffer = memoryview(bytes(_FLOW_BUFFER_BYTES))
    with sender.connect(address, port) as connection:
        for offset in range(0, size_bytes, _FLOW_BUFFER_BYTES):
            connection.sendall(buffer[: min(_FLOW_BUFFER_BYTES, size_bytes - offset)])


def _drain(connection: socket.socket) -> int:
    buffer = bytearray(_FLOW_BUFFER_BYTES)
    connection.settimeout(_CONNECT_SECONDS)
    received = 0
    while size := connection.recv_into(buffer):
        received += size
    return received
