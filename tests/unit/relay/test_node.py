"""Relay nodes with real sockets: a dealer and agents as threads of one process, on loopback."""

import hashlib
import os
import random
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2pdist.core.digest import Digest
from p2pdist.core.pieces import PieceLayout, PieceSet, piece_hash
from p2pdist.pki.vouch import BlobContext, Signer, Verifier
from p2pdist.relay.frames import Kind, PieceFrame, encode, encode_piece, read_prefix
from p2pdist.relay.handshake import Handshake
from p2pdist.relay.node import RelayNode
from p2pdist.relay.notices import BadPiece, DealsDone, EpochBegan, Notice, PeerRejected, PeerSilent
from p2pdist.relay.spans import Ring
from p2pdist.relay.switchboard import NodeAddress
from p2pdist.relay.transfer import Counts, TransferSpec
from p2pdist.telemetry.events import EventLog

GENERATION = 99
SECRET = b"s" * 32
WAIT_SECONDS = 20


class File:
    """A blob's file as the relay needs it; says when it is whole."""

    def __init__(self, layout: PieceLayout, data: bytes = b"") -> None:
        self.layout = layout
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._file.truncate(layout.size_bytes)
        self.fd = self._file.fileno()
        self.pieces = PieceSet(layout.count)
        self.whole = threading.Event()
        if data:
            os.pwrite(self.fd, data, 0)
            self.pieces = PieceSet(layout.count, range(layout.count))

    def has(self, index: int) -> bool:
        return index in self.pieces

    def write_piece(self, index: int, data: bytes | bytearray | memoryview) -> bool:
        if index in self.pieces:
            return False
        os.pwrite(self.fd, data, self.layout.offset(index))
        new = self.pieces.add(index)
        if self.pieces.complete:
            self.whole.set()
        return new

    def content(self) -> bytes:
        return os.pread(self.fd, self.layout.size_bytes, 0)

    def close(self) -> None:
        self._file.close()


class Fleet:
    """A dealer named `tracker` and agents, with one blob."""

    def __init__(
        self, stack: ExitStack, agents: int, size_bytes: int, piece_bytes: int, names: Sequence[str] = ()
    ) -> None:
        self.stack = stack
        self.data = random.Random(1).randbytes(size_bytes)
        self.layout = PieceLayout(size_bytes, piece_bytes)
        self.digest = Digest.of(self.data)
        self.signer = Signer(Ed25519PrivateKey.generate())
        self.names = [*names] or [f"n{number}" for number in range(agents)]
        self.notices: dict[str, list[Notice]] = {}
        self.noticed = threading.Condition()
        self.nodes: dict[str, RelayNode] = {}
        self.addresses: dict[str, NodeAddress] = {}
        self.files: dict[str, File] = {}
        self.counts: dict[str, Counts] = {}
        for name in ["tracker", *self.names]:
            self.start(name)
        self.announce()

    def start(self, name: str) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self.addresses[name] = NodeAddress("127.0.0.1", listener.getsockname()[1])
        verifier = Verifier({self.signer.key_id: self.signer.public_key})
        self.notices[name] = []

        def notify(notice: Notice) -> None:
            with self.noticed:
                self.notices[name].append(notice)
                self.noticed.notify_all()

        node = RelayNode(name, [listener], verifier, notify, events=self.log_of(name))
        self.nodes[name] = self.stack.enter_context(node)

    def log_of(self, name: str) -> EventLog | None:
        """Where this node notes what it does; nowhere."""
        return None

    def announce(self) -> None:
        for name, node in self.nodes.items():
            node.set_secrets([SECRET])
            node.set_nodes(self.addresses, keep=[] if name == "tracker" else ["tracker"])

    def open(self, name: str, data: bytes = b"") -> None:
        file = self.files[name] = self.stack.enter_context(closing(File(self.layout, data)))
        self.counts[name] = self.nodes[name].open(TransferSpec(GENERATION, self.digest, self.layout, file)).counts

    def vouched(self) -> list[tuple[int, bytes, bytes]]:
        context = BlobContext(self.digest, self.layout.size_bytes, self.layout.piece_bytes, GENERATION)
        pieces = []
        for index in range(self.layout.count):
            start = self.layout.offset(index)
            hashed = piece_hash(self.layout, self.data[start : start + self.layout.length(index)])
            (vouch,) = self.signer.vouch(context, index, [hashed])
            pieces.append((index, hashed, vouch.encode()))
        return pieces

    def await_notice(self, name: str, wanted: Callable[[Notice], bool]) -> Notice:
        with self.noticed:
            assert self.noticed.wait_for(lambda: any(map(wanted, self.notices[name])), WAIT_SECONDS)
            return next(filter(wanted, self.notices[name]))


@contextmanager
def fleet_of(agents: int, size_bytes: int, piece_bytes: int) -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(stack, agents, size_bytes, piece_bytes)


def relay(fleet: Fleet) -> None:
    ring = Ring(1, fleet.names, "tracker")
    fleet.open("tracker", fleet.data)
    for name in fleet.names:
        fleet.open(name)
        fleet.nodes[name].add_ring(GENERATION, ring)
    dealer = fleet.nodes["tracker"]
    dealer.start_dealing(GENERATION, 1, ring)
    dealer.deal(GENERATION, fleet.vouched())
    dealer.watch(GENERATION)


SIZES = [(1, 70_001, 32768), (5, 3 << 20, 32768), (6, (5 << 20) + 7, 1 << 20)]


@pytest.mark.parametrize(("agents", "size_bytes", "piece_bytes"), SIZES)
def test_a_blob_reaches_every_agent_once(agents: int, size_bytes: int, piece_bytes: int) -> None:
    with fleet_of(agents, size_bytes, piece_bytes) as fleet:
        relay(fleet)
        for name in fleet.names:
            assert fleet.files[name].whole.wait(WAIT_SECONDS)
            assert hashlib.sha256(fleet.files[name].content()).hexdigest() == fleet.digest.hex
        fleet.await_notice("tracker", lambda notice: isinstance(notice, DealsDone))
        assert sum(count.dealt_bytes for count in fleet.counts.values()) == size_bytes
        assert sum(count.relayed_bytes for count in fleet.counts.values()) == size_bytes * (agents - 1)
        assert sum(count.duplicate_bytes for count in fleet.counts.values()) == 0


def test_a_late_member_is_filled_by_a_holder() -> None:
    with fleet_of(4, 1 << 20, 32768) as fleet:
        relay(fleet)
        for name in fleet.names:
            assert fleet.files[name].whole.wait(WAIT_SECONDS)
        fleet.start("late")
        fleet.announce()
        fleet.open("late")
        fill = Ring(2, ["late"], "n2")
        for name in ("late", "n2"):
            fleet.nodes[name].add_ring(GENERATION, fill)
        fleet.nodes["n2"].start_fill(GENERATION, fill, range(fleet.layout.count))
        assert fleet.files["late"].whole.wait(WAIT_SECONDS)
        assert fleet.files["late"].content() == fleet.data
        assert fleet.counts["late"].dealt_bytes == 0


def test_two_dealers_share_a_blob_and_a_third_gets_both_halves() -> None:
    """Each deals its pieces over a ring of its own, with proofs of all; a share ends with a ring without members."""
    with fleet_of(3, 1 << 20, 32768) as fleet:
        count = fleet.layout.count
        rings = {"n0": Ring(1, ["n2"], "n0"), "n1": Ring(2, ["n2"], "n1")}
        fleet.open("n2")
        for number, (name, ring) in enumerate(rings.items()):
            fleet.open(name, fleet.data)
            fleet.nodes["n2"].add_ring(GENERATION, ring)
            fleet.nodes[name].deal(GENERATION, fleet.vouched())
            fleet.nodes[name].start_dealing(GENERATION, 1, ring, range(number, count, 2))
            fleet.nodes[name].watch(GENERATION)
        assert fleet.files["n2"].whole.wait(WAIT_SECONDS)
        assert fleet.files["n2"].content() == fleet.data
        for name, ring in rings.items():
            fleet.await_notice(name, lambda notice: isinstance(notice, DealsDone))
            began = fleet.await_notice(name, lambda notice: isinstance(notice, EpochBegan))
            assert began == EpochBegan(GENERATION, ring.epoch, ())
            assert fleet.counts[name].sent_bytes == len(fleet.data) // 2
        fleet.nodes["n0"].start_dealing(GENERATION, 1, Ring(3, (), "n0"), range(0, count, 2))
        ended = fleet.await_notice("n0", lambda notice: isinstance(notice, EpochBegan) and notice.epoch == 3)
        assert ended == EpochBegan(GENERATION, 3, tuple(range(0, count, 2)))


def test_a_piece_that_overtakes_its_announcement_waits_for_it() -> None:
    with fleet_of(2, 200_000, 32768) as fleet:
        ring = Ring(1, fleet.names, "tracker")
        fleet.open("tracker", fleet.data)
        dealer = fleet.nodes["tracker"]
        dealer.start_dealing(GENERATION, 1, ring)
        dealer.deal(GENERATION, fleet.vouched())
        for name in fleet.names:
            fleet.open(name)
            fleet.nodes[name].add_ring(GENERATION, ring)
        for name in fleet.names:
            assert fleet.files[name].whole.wait(WAIT_SECONDS)


def test_a_dead_agent_costs_the_others_nothing() -> None:
    with fleet_of(6, 4 << 20, 32768) as fleet:
        relay(fleet)
        fleet.nodes["n3"].__exit__()
        for name in set(fleet.names) - {"n3"}:
            assert fleet.files[name].whole.wait(WAIT_SECONDS)
            assert fleet.files[name].content() == fleet.data


class Stranger:
    """A peer that speaks the protocol by hand."""

    def __init__(self, address: NodeAddress, name: str, secret: bytes) -> None:
        self.sock = socket.create_connection((address.host, address.port), timeout=WAIT_SECONDS)
        self.handshake = Handshake(name, [secret], dialled=True, accept=lambda _: True)
        self.sock.sendall(self.handshake.hello())

    def greet(self) -> None:
        while self.handshake.peer is None:
            kind, meta = self.frame()
            self.sock.sendall(self.handshake.receive(kind, memoryview(meta)))

    def greeted(self) -> "Stranger":
        self.greet()
        return self

    def frame(self) -> tuple[Kind, bytes]:
        prefix = read_prefix(bytearray(self.exactly(8)), 0)
        return prefix.kind, self.exactly(prefix.meta_bytes + prefix.data_bytes)

    def exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.sock.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def is_hung_up_on(self) -> bool:
        try:
            while True:
                self.exactly(1)
        except (EOFError, ConnectionResetError):
            return True


def test_a_member_that_freezes_loses_its_span_and_locks_nobody() -> None:
    """A peer that shook hands, holds its connections open and never says another word."""
    with fleet_of(2, 3 << 20, 32768) as fleet:
        listener = fleet.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        fleet.addresses["frozen"] = NodeAddress("127.0.0.1", listener.getsockname()[1])
        fleet.announce()
        held = [
            fleet.stack.enter_context(closing(Stranger(fleet.addresses[name], "frozen", SECRET).greeted().sock))
            for name in ("tracker", "n0", "n1")
        ]
        assert len(held) == 3
        ring = Ring(1, ["n0", "frozen", "n1"], "tracker")
        fleet.open("tracker", fleet.data)
        for name in fleet.names:
            fleet.open(name)
            fleet.nodes[name].add_ring(GENERATION, ring)
        dealer = fleet.nodes["tracker"]
        dealer.start_dealing(GENERATION, 1, ring)
        dealer.deal(GENERATION, fleet.vouched())
        dealer.watch(GENERATION)
        for name in fleet.names:
            assert fleet.files[name].whole.wait(WAIT_SECONDS)
            assert fleet.files[name].content() == fleet.data
        fleet.await_notice("tracker", lambda notice: isinstance(notice, DealsDone))
        assert dealer.takeovers > 0
        fleet.await_notice("tracker", lambda notice: notice == PeerSilent("frozen"))


@pytest.mark.parametrize(("name", "secret"), [("unknown", SECRET), ("n1", b"x" * 32)])
def test_a_stranger_is_not_read(name: str, secret: bytes) -> None:
    with fleet_of(2, 100_000, 32768) as fleet:
        stranger = Stranger(fleet.addresses["n0"], name, secret)
        with closing(stranger.sock):
            if name == "n1":
                kind, meta = stranger.frame()
                stranger.sock.sendall(stranger.handshake.receive(kind, memoryview(meta)))
            notice = fleet.await_notice("n0", lambda notice: isinstance(notice, PeerRejected))
            assert "lease" in str(notice) or "secret" in str(notice)
            assert stranger.is_hung_up_on()


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x03\x00\xff\xff\xff\xff\xff\xff",
        encode(Kind.HELLO, b"junk"),
        encode(Kind.ACK, b"\0\0\0\1"),
    ],
)
def test_garbage_ends_the_connection_with_a_reason(garbage: bytes) -> None:
    with fleet_of(1, 100_000, 32768) as fleet:
        address = fleet.addresses["n0"]
        with socket.create_connection((address.host, address.port), timeout=WAIT_SECONDS) as sock:
            sock.sendall(garbage)
            fleet.await_notice("n0", lambda notice: isinstance(notice, PeerRejected))


def lying_piece(fleet: Fleet, **changes: object) -> PieceFrame:
    index, hashed, vouch = fleet.vouched()[0]
    frame = PieceFrame(GENERATION, 1, index, 0, 0, 0, 5, False, hashed, vouch)
    return frame._replace(**changes)


@pytest.mark.parametrize("lie", ["bytes", "signature", "span", "index"])
def test_a_piece_that_lies_is_refused_and_its_sender_dropped(lie: str) -> None:
    with fleet_of(1, 100_000, 32768) as fleet:
        fleet.open("n0")
        fleet.addresses["liar"] = NodeAddress("127.0.0.1", 1)
        fleet.announce()
        fleet.nodes["n0"].add_ring(GENERATION, Ring(1, ["n0"], "liar"))
        liar = Stranger(fleet.addresses["n0"], "liar", SECRET)
        with closing(liar.sock):
            liar.greet()
            data = fleet.data[:32768]
            frame = lying_piece(fleet)
            if lie == "bytes":
                data = data[:-1] + bytes([data[-1] ^ 1])
            elif lie == "signature":
                frame = lying_piece(fleet, vouch=frame.vouch[:-1] + bytes([frame.vouch[-1] ^ 1]))
            elif lie == "span":
                frame = lying_piece(fleet, span=3)
            else:
                frame = lying_piece(fleet, piece=77)
            liar.sock.sendall(encode_piece(frame, len(data)) + data)
            fleet.await_notice("n0", lambda notice: isinstance(notice, PeerRejected))
            if lie in ("bytes", "signature"):
                fleet.await_notice("n0", lambda notice: isinstance(notice, BadPiece))
            assert liar.is_hung_up_on()
        assert not fleet.files["n0"].has(0)
