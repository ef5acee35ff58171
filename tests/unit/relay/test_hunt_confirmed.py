"""What was suspected of the relay and holds: slow wires, bursts inside TLS, a dealer that is its own member."""

import socket
from contextlib import ExitStack, closing
from pathlib import Path

from p2pdist.pki import contexts
from p2pdist.pki.contexts import Credentials
from p2pdist.relay.frames import Kind, PieceFrame, encode_piece, encode_tag
from p2pdist.relay.handshake import Handshake
from p2pdist.relay.spans import Ring
from p2pdist.relay.switchboard import NodeAddress
from tests.unit.relay import fleet as engines
from tests.unit.relay.test_node import GENERATION, SECRET, WAIT_SECONDS, Fleet, Stranger, fleet_of
from tests.unit.relay.test_private import PrivateFleet

ODD_BYTES = 9973


def frames_of(fleet: Fleet, part_bytes: int) -> bytes:
    """Every piece of the fleet's blob as a dealer sends it to the only member of epoch 1."""
    sent = b""
    for index, hashed, vouch in fleet.vouched():
        frame = PieceFrame(GENERATION, 1, index, 0, 0, 0, index + 1, False, hashed, vouch)
        start, length = fleet.layout.offset(index), fleet.layout.length(index)
        for at in range(0, length, part_bytes):
            data = fleet.data[start + at : start + min(at + part_bytes, length)]
            sent += encode_piece(frame._replace(offset=at), len(data)) + data
    return sent


def await_acknowledgements(peer: Stranger, count: int) -> None:
    tags = set[bytes]()
    while len(tags) < count:
        kind, meta = peer.frame()
        if kind is Kind.ACK:
            tags.add(meta)


def test_a_small_frame_after_a_large_one_is_seen_byte_by_byte() -> None:
    """The low-water mark of a large frame doesn't outlive it."""
    with fleet_of(1, 1 << 19, 1 << 18) as fleet:
        fleet.addresses["dealer"] = NodeAddress("127.0.0.1", 1)
        fleet.announce()
        fleet.open("n0")
        fleet.nodes["n0"].add_ring(GENERATION, Ring(1, ["n0"], "dealer"))
        peer = Stranger(fleet.addresses["n0"], "dealer", SECRET).greeted()
        with closing(peer.sock):
            peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sent = frames_of(fleet, 65536)
            for at in range(0, len(sent), ODD_BYTES):
                peer.sock.sendall(sent[at : at + ODD_BYTES])
            await_acknowledgements(peer, fleet.layout.count)
            for byte in encode_tag(Kind.PING, 3):
                peer.sock.sendall(bytes([byte]))
            while peer.frame()[0] is not Kind.PONG:
                pass
        assert fleet.files["n0"].content() == fleet.data


def test_encrypted_frames_that_come_in_one_burst_are_all_seen(tmp_path: Path) -> None:
    """More than a turn's bytes, in records that end in the middle of frames: nothing stays inside TLS."""
    with ExitStack() as stack:
        fleet = PrivateFleet(stack, tmp_path, 2)
        agent, dealer = fleet.names
        fleet.open(agent)
        fleet.nodes[agent].add_ring(GENERATION, Ring(1, [agent], dealer))
        where = fleet.directory / next(name for name, node in fleet.ids.items() if node == dealer)
        credentials = Credentials(where / "certificate.pem", where / "key.pem", where / "ca.pem")
        peer = Stranger.__new__(Stranger)
        raw = socket.create_connection(("127.0.0.1", fleet.addresses[agent].port), timeout=WAIT_SECONDS)
        peer.sock = stack.enter_context(closing(contexts.relay_client(credentials).wrap_socket(raw)))
        peer.handshake = Handshake(dealer, [SECRET], dialled=True, accept=lambda _: True)
        peer.sock.sendall(peer.handshake.hello())
        peer.greet()
        peer.sock.sendall(frames_of(fleet, 65536))
        await_acknowledgements(peer, fleet.layout.count)
        assert fleet.files[agent].content() == fleet.data


def test_a_dealer_in_its_own_ring_deals_everything_to_the_others() -> None:
    fleet = engines.Fleet(30, ["n0", "n1", "n2"])
    ring = Ring(5, fleet.members, "n1")
    for index in range(30):
        fleet.held["n1"].add(index)
    for node in fleet.members:
        fleet.engines[node].add_ring(engines.GENERATION, ring)
    fleet.engines["n1"].start_dealing(engines.GENERATION, ring)
    for index in range(30):
        fleet.engines["n1"].deal(engines.GENERATION, 5, index)
    fleet.run()
    assert fleet.lacking("n0") == fleet.lacking("n2") == []
    assert fleet.engines["n1"].undealt(engines.GENERATION) == 0
