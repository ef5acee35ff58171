"""Many clients on one agent at once: for one cold blob, and slow or stuck ones beside one that isn't."""

import hashlib
import os
import random
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from simulations.processes import poll_until
from tests.conftest import Figure
from tests.system.daemons import Agent
from tests.system.fetches import fetch_blob, get_manifest
from tests.system.fleet import UPSTREAM, Fleet, open_fleet
from tests.system.images import LAYER_TYPE, Content, image
from tests.system.registries import Registry

REPOSITORY = "library/app"
MIB = 1 << 20
CLIENTS = 1000
STUCK, SLOW = 48, 48
SLOW_BYTES_PER_SECOND = 256 * 1024


@pytest.fixture(scope="module")
def origin_and_fleet(
    tmp_path_factory: pytest.TempPathFactory, require_program: Callable[[str], str]
) -> Iterator[tuple[Registry, Fleet]]:
    require_program("docker-registry")
    with open_fleet(tmp_path_factory.mktemp("crowds"), agents=1) as both:
        yield both


def pushed(registry: Registry, tag: str, size_bytes: int) -> Content:
    blob = Content(LAYER_TYPE, random.Random(tag).randbytes(size_bytes))
    registry.push(image(blob), REPOSITORY, tag)
    return blob


class Client:
    """One GET over a plain socket: the header is read apart, the body is hashed as it comes."""

    def __init__(self, agent: Agent, blob: Content, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", agent.shim_port))
        path = f"/v2/{REPOSITORY}/blobs/{blob.digest}?ns={UPSTREAM}"
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: crowd\r\n\r\n".encode())
        self.socket.setblocking(False)
        self.head = b""
        self.hasher = hashlib.sha256()
        self.body_bytes = 0

    def take(self, buffer: memoryview) -> None:
        """Read once."""
        count = self.socket.recv_into(buffer)
        if not count:
            raise EOFError(f"the answer ended after {self.body_bytes} bytes: {self.head[:300]!r}")
        data = bytes(buffer[:count]) if not self.head.endswith(b"\r\n\r\n") else buffer[:count]
        if isinstance(data, bytes):
            head, end, data = (self.head + data).partition(b"\r\n\r\n")
            self.head = head + end
        self.hasher.update(data)
        self.body_bytes += len(data)


@contextmanager
def clients(agent: Agent, blob: Content, count: int, receive_buffer: int | None = None) -> Iterator[list[Client]]:
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            client = Client(agent, blob, receive_buffer)
            stack.callback(client.socket.close)
            made.append(client)
        yield made


def read_all(crowd: list[Client], size_bytes: int, limit_seconds: float) -> None:
    """Until every one of them has the whole body."""
    buffer = memoryview(bytearray(64 * 1024))
    deadline = time.monotonic() + limit_seconds
    with selectors.DefaultSelector() as selector:
        for client in crowd:
            selector.register(client.socket, selectors.EVENT_READ, client)
        while selector.get_map():
            assert time.monotonic() < deadline, [client.body_bytes for client in crowd]
            for key, _ in selector.select(1):
                key.data.take(buffer)
                if key.data.body_bytes >= size_bytes:
                    selector.unregister(key.fileobj)


def test_a_thousand_requests_for_one_cold_blob_are_one_pull(
    origin_and_fleet: tuple[Registry, Fleet], figure: Figure
) -> None:
    registry, fleet = origin_and_fleet
    agent = fleet.agents[0]
    blob = pushed(registry, "thousand", 2 * MIB)
    get_manifest(agent, REPOSITORY, "thousand")
    before = agent.rss_mib()
    with registry.meter.gate(blob.digest, MIB) as gate, clients(agent, blob, CLIENTS) as crowd:
        gate.wait_reached()
        poll_until(lambda: connections(agent) >= CLIENTS, "all are connected", 20)
        gate.open()
        read_all(crowd, blob.size_bytes, 60)
        for client in crowd:
            assert client.head.startswith(b"HTTP/1.1 200 ")
            assert f"content-length: {blob.size_bytes}\r\n".encode() in client.head.lower()
            assert client.hasher.hexdigest() == blob.hex
        grown = agent.peak_rss_mib() - before
    assert registry.meter.blob_bytes()[blob.digest] == blob.size_bytes
    assert registry.meter.requests("GET", blob.digest) == 1
    assert agent.metric("p2pdist_agent_pulls_total", outcome="done") == 1
    figure("memory that 1,000 requests at once for a cold blob of 2 MiB cost", grown, "MiB", at_most=100)


def connections(agent: Agent) -> int:
    """How many sockets the agent has open."""
    found = 0
    for name in os.listdir(f"/proc/{agent.process.pid}/fd"):
        try:
            found += os.readlink(f"/proc/{agent.process.pid}/fd/{name}").startswith("socket:")
        except FileNotFoundError:
            continue
    return found


def test_slow_and_stuck_clients_hold_nobody_up(origin_and_fleet: tuple[Registry, Fleet], figure: Figure) -> None:
    """Beside clients that take nothing, and others that take a little all the time, one is as fast as alone."""
    registry, fleet = origin_and_fleet
    agent = fleet.agents[0]
    blob = pushed(registry, "slow", 64 * MIB)
    assert fetch_blob(agent, REPOSITORY, blob).is_whole(blob)
    alone = min(fetch_blob(agent, REPOSITORY, blob).seconds for _ in range(5))
    with clients(agent, blob, STUCK, 4096), clients(agent, blob, SLOW) as slow:
        began = time.monotonic()
        beside = []
        for _ in range(5):
            fetched = fetch_blob(agent, REPOSITORY, blob)
            assert fetched.is_whole(blob)
            beside.append(fetched.seconds)
            take_slowly(slow, (time.monotonic() - began) * SLOW_BYTES_PER_SECOND)
        first = min(fetch_blob(agent, REPOSITORY, blob).first_byte_seconds for _ in range(5))
    figure("time of a client beside 48 stuck and 48 slow ones", min(beside) / alone, "x alone", at_most=3)
    figure("first byte of it", first * 1000, "ms", at_most=100)


def take_slowly(crowd: list[Client], goal_bytes: float) -> None:
    """Have each of them take what it lacks to `goal_bytes`."""
    buffer = memoryview(bytearray(64 * 1024))
    for client in crowd:
        while client.body_bytes < goal_bytes:
            try:
                client.take(buffer)
            except BlockingIOError:
                break
