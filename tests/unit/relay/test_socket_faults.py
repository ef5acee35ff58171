"""The relay's thread where it was suspected, with scripted peers over real sockets."""

import errno
import os
import socket
import threading
import time
from contextlib import ExitStack, closing

import pytest

from p2pdist.core.errors import StoreError
from p2pdist.relay import parking
from p2pdist.relay.frames import Kind, PieceFrame, decode_tag, encode_piece, encode_tag
from p2pdist.relay.handshake import Handshake
from p2pdist.relay.notices import DealsDone, PeerRejected
from p2pdist.relay.spans import Ring
from p2pdist.relay.switchboard import NodeAddress
from p2pdist.relay.transfer import TransferSpec
from tests.unit.relay.test_node import GENERATION, SECRET, File, Fleet, Stranger, fleet_of

SECONDS = 5.0


class Listening:
    """A node by hand that is dialled: it greets when told to."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.server = fleet.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.server.settimeout(SECONDS)
        self.name = name
        fleet.addresses[name] = NodeAddress("127.0.0.1", self.server.getsockname()[1])

    def accept(self) -> Stranger:
        sock, _ = self.server.accept()
        sock.settimeout(SECONDS)
        stranger = Stranger.__new__(Stranger)
        stranger.sock = sock
        stranger.handshake = Handshake(self.name, [SECRET], dialled=False, accept=lambda _: True)
        sock.sendall(stranger.handshake.hello())
        return stranger


def stranger(fleet: Fleet, to: str, name: str) -> Stranger:
    peer = Stranger(fleet.addresses[to], name, SECRET).greeted()
    fleet.stack.enter_context(closing(peer.sock))
    peer.sock.settimeout(SECONDS)
    return peer


def mailbox_done(fleet: Fleet, name: str) -> None:
    """Until the relay's thread has done what it was told so far."""
    done = threading.Event()
    fleet.nodes[name]._reactor.post(done.set)
    assert done.wait(SECONDS)


def piece_of(fleet: Fleet, index: int, **changes: object) -> tuple[PieceFrame, bytes]:
    _, hashed, vouch = fleet.vouched()[index]
    frame = PieceFrame(GENERATION, 1, index, 0, 0, 0, 5, False, hashed, vouch)._replace(**changes)
    start = fleet.layout.offset(index)
    return frame, fleet.data[start : start + fleet.layout.length(index)]


def parts(frame: PieceFrame, data: bytes) -> list[bytes]:
    return [
        encode_piece(frame._replace(offset=at), len(data[at : at + 65536])) + data[at : at + 65536]
        for at in range(0, len(data), 65536)
    ]


def next_of(peer: Stranger, *kinds: Kind) -> tuple[Kind, bytes]:
    until = time.monotonic() + SECONDS
    while True:
        assert time.monotonic() < until, f"none of {kinds} came"
        kind, meta = peer.frame()
        if kind in kinds:
            return kind, meta
        if kind is Kind.PING:
            peer.sock.sendall(encode_tag(Kind.PONG, 0))


def lone(fleet: Fleet, dealer: str = "liar") -> None:
    """n0 as the only member of a ring that a scripted peer deals to."""
    fleet.addresses[dealer] = NodeAddress("127.0.0.1", 1)
    fleet.announce()
    fleet.open("n0")


def test_what_waits_for_a_connection_goes_with_its_generation() -> None:
    """A push waits for a dial; its generation ends, and its descriptor's number gets another file."""
    with fleet_of(1, 65536, 32768) as fleet:
        late = Listening(fleet, "late")
        fleet.announce()
        fleet.open("tracker", fleet.data)
        dealer = fleet.nodes["tracker"]
        dealer.start_dealing(GENERATION, 1, Ring(1, ["late"], "tracker"))
        dealer.deal(GENERATION, fleet.vouched())
        mailbox_done(fleet, "tracker")
        dealer.close(GENERATION)
        mailbox_done(fleet, "tracker")
        # Whoever opens a file now gets the number of the one that was closed.
        secret = File(fleet.layout, b"\x42" * fleet.layout.size_bytes)
        fleet.stack.enter_context(closing(secret))
        spec = TransferSpec(GENERATION + 1, fleet.digest, fleet.layout, secret, private=True)
        dealer.open(spec)
        mailbox_done(fleet, "tracker")
        peer = late.accept()
        with closing(peer.sock):
            peer.greet()
            peer.sock.sendall(encode_tag(Kind.PING, 7))
            kind, meta = peer.frame()
            assert kind is Kind.PONG, (kind, meta[-8:])


def test_a_member_whose_disk_is_full_swallows_no_span() -> None:
    """It acknowledges what it doesn't serve, at once and for ever: the dealer's favourite root."""
    with fleet_of(4, 6 << 20, 32768) as fleet:
        ring = Ring(1, fleet.names, "tracker")
        fleet.open("tracker", fleet.data)
        for name in fleet.names:
            fleet.open(name)
            fleet.nodes[name].add_ring(GENERATION, ring)

        def full(index: int, data: object) -> bool:
            raise StoreError("no space left on device")

        fleet.files["n1"].write_piece = full  # type: ignore[method-assign]
        dealer = fleet.nodes["tracker"]
        dealer.start_dealing(GENERATION, 1, ring)
        dealer.deal(GENERATION, fleet.vouched())
        dealer.watch(GENERATION)
        fleet.await_notice("tracker", lambda notice: isinstance(notice, DealsDone))
        for name in ("n0", "n2", "n3"):
            assert fleet.files[name].whole.wait(3.0), (name, len(fleet.files[name].pieces.missing()))


def test_a_generation_that_ends_in_the_middle_of_a_piece_is_answered() -> None:
    """The first part came before the end, the others after it: somebody must tell the parent."""
    with fleet_of(1, 1 << 20, 1 << 18) as fleet:
        lone(fleet)
        fleet.nodes["n0"].add_ring(GENERATION, Ring(1, ["n0"], "liar"))
        peer = stranger(fleet, "n0", "liar")
        first, *rest = parts(*piece_of(fleet, 0))
        peer.sock.sendall(first + encode_tag(Kind.PING, 1))
        assert next_of(peer, Kind.PONG)
        fleet.nodes["n0"].close(GENERATION)
        mailbox_done(fleet, "n0")
        peer.sock.sendall(b"".join(rest) + encode_tag(Kind.PING, 2))
        kind, meta = next_of(peer, Kind.ACK, Kind.REFUSE, Kind.PONG)
        assert kind in (Kind.ACK, Kind.REFUSE)
        assert decode_tag(memoryview(meta)) == 5


def test_a_parked_piece_leaves_another_that_is_half_here_alone() -> None:
    """Epoch 2's piece came before its ring; the ring comes while a piece of epoch 1 is half here."""
    with fleet_of(1, 1 << 20, 1 << 18) as fleet:
        lone(fleet)
        fleet.nodes["n0"].add_ring(GENERATION, Ring(1, ["n0"], "liar"))
        peer = stranger(fleet, "n0", "liar")
        parked = parts(*piece_of(fleet, 1, epoch=2, tag=6))
        first, *rest = parts(*piece_of(fleet, 0))
        peer.sock.sendall(b"".join(parked) + first + encode_tag(Kind.PING, 1))
        assert next_of(peer, Kind.PONG)
        fleet.nodes["n0"].add_ring(GENERATION, Ring(2, ["n0"], "liar"))
        mailbox_done(fleet, "n0")
        peer.sock.sendall(b"".join(rest))
        assert {next_of(peer, Kind.ACK)[1], next_of(peer, Kind.ACK)[1]}
        assert fleet.files["n0"].has(0)
        assert fleet.files["n0"].has(1)


def test_a_piece_of_which_half_was_parked_too_long_is_refused_not_its_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first parts have been refused when the ring comes; the others belong to nothing."""
    monkeypatch.setattr(parking, "_MAX_SECONDS", 0.15)
    with fleet_of(1, 1 << 20, 1 << 18) as fleet:
        lone(fleet)
        peer = stranger(fleet, "n0", "liar")
        first, *rest = parts(*piece_of(fleet, 0))
        peer.sock.sendall(first)
        assert next_of(peer, Kind.REFUSE)
        fleet.nodes["n0"].add_ring(GENERATION, Ring(1, ["n0"], "liar"))
        mailbox_done(fleet, "n0")
        peer.sock.sendall(b"".join(rest) + encode_tag(Kind.PING, 2))
        assert next_of(peer, Kind.PONG)


def test_parked_frames_are_bounded_while_they_come() -> None:
    with fleet_of(1, 1 << 20, 1 << 18) as fleet:
        lone(fleet)
        peer = stranger(fleet, "n0", "liar")
        frame, data = piece_of(fleet, 0, generation=12345)
        one = parts(frame, data)[0]
        lot = fleet.nodes["n0"]._reactor._parking
        most = 0
        add = lot.add

        def count(parked: parking.Parked, now: float) -> list[parking.Parked]:
            nonlocal most
            late = list(add(parked, now))
            most = max(most, lot._bytes)
            return late

        lot.add = count  # type: ignore[method-assign]
        for _ in range(16):
            peer.sock.sendall(one * 64)
        peer.sock.sendall(encode_tag(Kind.PING, 1))
        assert next_of(peer, Kind.PONG)
        assert most <= parking._MAX_BYTES + 2 * 65536


def test_a_dead_connection_gives_way_to_a_living_one() -> None:
    """The first connection went dark without a word (a firewall forgot it); the node has come again over another."""
    with fleet_of(1, 1 << 18, 32768) as fleet:
        fleet.addresses["twice"] = NodeAddress("127.0.0.1", 1)
        fleet.announce()
        fleet.open("tracker", fleet.data)
        dark = stranger(fleet, "tracker", "twice")
        alive = stranger(fleet, "tracker", "twice")
        assert dark
        dealer = fleet.nodes["tracker"]
        dealer.start_dealing(GENERATION, 1, Ring(1, ["twice"], "tracker"))
        dealer.deal(GENERATION, fleet.vouched())
        until = time.monotonic() + SECONDS
        alive.sock.settimeout(0.2)
        kind = None
        while kind not in (Kind.PIECE, Kind.OFFER) and time.monotonic() < until:
            alive.sock.sendall(encode_tag(Kind.PING, 1))
            try:
                kind, _ = alive.frame()
            except TimeoutError:
                continue
        assert kind in (Kind.PIECE, Kind.OFFER)


def test_a_node_that_went_dark_is_dialled_again() -> None:
    """Its connection is open and silent; a new one would do."""
    with fleet_of(1, 1 << 18, 32768) as fleet:
        listening = Listening(fleet, "dark")
        fleet.announce()
        fleet.open("tracker", fleet.data)
        dark = stranger(fleet, "tracker", "dark")
        assert dark
        dealer = fleet.nodes["tracker"]
        dealer.start_dealing(GENERATION, 1, Ring(1, ["dark"], "tracker"))
        dealer.deal(GENERATION, fleet.vouched())
        listening.server.settimeout(8.0)
        with closing(listening.accept().sock) as sock:
            assert sock


def test_an_acknowledgement_that_dies_with_a_second_connection_is_missed() -> None:
    """Either end may send over another of two connections; the one that the acknowledgement was on breaks."""
    with fleet_of(2, 32768, 32768) as fleet:
        fleet.addresses["twice"] = NodeAddress("127.0.0.1", 1)
        fleet.announce()
        fleet.open("tracker", fleet.data)
        first = stranger(fleet, "tracker", "twice")
        second = stranger(fleet, "tracker", "twice")
        dealer = fleet.nodes["tracker"]
        dealer.start_dealing(GENERATION, 1, Ring(1, ["twice"], "tracker"))
        dealer.deal(GENERATION, fleet.vouched())
        dealer.watch(GENERATION)
        assert next_of(first, Kind.PIECE)
        second.sock.close()
        kind, _ = next_of(first, Kind.OFFER, Kind.PIECE)
        assert kind


def test_a_node_that_our_table_lacks_as_yet_may_wait_for_it() -> None:
    """Tables reach two nodes at different moments; the first to know dials the other."""
    with fleet_of(1, 65536, 32768) as fleet:
        peer = Stranger(fleet.addresses["n0"], "newcomer", SECRET)
        fleet.stack.enter_context(closing(peer.sock))
        kind, meta = peer.frame()
        peer.sock.sendall(peer.handshake.receive(kind, memoryview(meta)))
        mailbox_done(fleet, "n0")
        time.sleep(0.05)
        fleet.addresses["newcomer"] = NodeAddress("127.0.0.1", 1)
        fleet.announce()
        peer.greet()
        assert peer.handshake.peer == "n0"


def test_an_offer_of_what_the_file_has_already_brings_no_bytes() -> None:
    with fleet_of(1, 1 << 20, 32768) as fleet:
        fleet.open("n0", fleet.data)
        file = fleet.files["tracker"] = fleet.stack.enter_context(closing(File(fleet.layout, fleet.data)))
        dealer = fleet.nodes["tracker"]
        dealer.open(TransferSpec(GENERATION, fleet.digest, fleet.layout, file))
        ring = Ring(1, ["n0"], "tracker")
        fleet.nodes["n0"].add_ring(GENERATION, ring)
        dealer.start_dealing(GENERATION, 1, ring, by_offer=True)
        dealer.deal(GENERATION, fleet.vouched())
        dealer.watch(GENERATION)
        fleet.await_notice("tracker", lambda notice: isinstance(notice, DealsDone))
        assert fleet.counts["n0"].duplicate_bytes == 0


def test_a_mailbox_closed_writes_into_nobody_elses_file() -> None:
    with ExitStack() as stack, fleet_of(1, 65536, 32768) as fleet:
        node = fleet.nodes["n0"]
        wake = node._reactor._wake
        node.__exit__()
        read, write = os.pipe2(os.O_NONBLOCK)
        stack.callback(os.close, read)
        stack.callback(os.close, write)
        if wake not in (read, write):
            os.dup2(write, wake)
            stack.callback(os.close, wake)
        node.close(GENERATION)
        with pytest.raises(BlockingIOError):
            os.read(read, 8)


class NoDescriptors:
    """A listening socket in a process that has no descriptor left."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.tries = 0

    def accept(self) -> None:
        self.tries += 1
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def __getattr__(self, name: str) -> object:
        return getattr(self.sock, name)


def test_a_listener_without_descriptors_does_not_spin() -> None:
    with fleet_of(1, 65536, 32768) as fleet:
        listeners = fleet.nodes["n0"]._reactor.switchboard._listeners
        ((fd, sock),) = listeners.items()
        starved = NoDescriptors(sock)
        listeners[fd] = starved  # type: ignore[assignment]
        with closing(socket.create_connection((fleet.addresses["n0"].host, fleet.addresses["n0"].port))):
            time.sleep(0.5)
        assert starved.tries < 50


def test_zero_length_parts_are_refused() -> None:
    with fleet_of(1, 1 << 20, 1 << 18) as fleet:
        lone(fleet)
        fleet.nodes["n0"].add_ring(GENERATION, Ring(1, ["n0"], "liar"))
        peer = stranger(fleet, "n0", "liar")
        frame, _ = piece_of(fleet, 0)
        peer.sock.sendall(encode_piece(frame, 0))
        fleet.await_notice("n0", lambda notice: isinstance(notice, PeerRejected))


def test_nobody_waits_for_a_stopped_process_that_is_dialled() -> None:
    """Its kernel takes the connection, and nobody ever says hello."""
    with fleet_of(2, 1 << 20, 32768) as fleet:
        listener = fleet.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        fleet.addresses["stopped"] = NodeAddress("127.0.0.1", listener.getsockname()[1])
        fleet.announce()
        ring = Ring(1, ["n0", "stopped", "n1"], "tracker")
        fleet.open("tracker", fleet.data)
        for name in fleet.names:
            fleet.open(name)
            fleet.nodes[name].add_ring(GENERATION, ring)
        dealer = fleet.nodes["tracker"]
        dealer.start_dealing(GENERATION, 1, ring)
        dealer.deal(GENERATION, fleet.vouched())
        began = time.monotonic()
        for name in fleet.names:
            assert fleet.files[name].whole.wait(SECONDS)
        assert time.monotonic() - began < 4
