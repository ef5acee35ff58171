"""Private blobs: only over mutual TLS between members whose certificate names them."""

import hashlib
import socket
from contextlib import ExitStack, closing
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2pdist.pki import certificates, contexts, files
from p2pdist.pki.authority import Authority
from p2pdist.pki.contexts import Credentials
from p2pdist.pki.peers import PeerKind
from p2pdist.pki.vouch import Verifier
from p2pdist.relay.frames import PieceFrame, encode_piece
from p2pdist.relay.node import RelayNode
from p2pdist.relay.notices import DealsDone, Notice, PeerRejected
from p2pdist.relay.session import TlsContexts
from p2pdist.relay.spans import Ring
from p2pdist.relay.switchboard import NodeAddress
from p2pdist.relay.transfer import TransferSpec
from tests.unit.relay.test_node import GENERATION, SECRET, WAIT_SECONDS, File, Fleet, Stranger, fleet_of


class PrivateFleet(Fleet):
    """A fleet whose nodes have certificates and are named by them; the blob is private."""

    def __init__(self, stack: ExitStack, directory: Path, agents: int) -> None:
        self.authority = Authority.create(directory / "ca", "tracker")
        self.directory = directory
        self.tls: dict[str, TlsContexts] = {}
        self.ids: dict[str, str] = {}
        super().__init__(stack, agents, 2 << 20, 32768)
        self.names = [self.ids[name] for name in self.names]

    def start(self, name: str) -> None:
        where = self.directory / name
        files.make_private_directory(where)
        key = Ed25519PrivateKey.generate()
        kind = PeerKind.TRACKER if name == "tracker" else PeerKind.AGENT
        issued = self.authority.issue(kind, key.public_key(), name)
        files.write(where / "key.pem", certificates.key_to_pem(key), files.PRIVATE)
        files.write(where / "certificate.pem", issued.pem)
        files.write(where / "ca.pem", self.authority.pem)
        credentials = Credentials(where / "certificate.pem", where / "key.pem", where / "ca.pem")
        tls = TlsContexts(contexts.relay_server(credentials), contexts.relay_client(credentials))
        node = self.ids[name] = issued.peer.id
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self.addresses[node] = NodeAddress("127.0.0.1", listener.getsockname()[1])
        self.notices[node] = []

        def notify(notice: Notice) -> None:
            with self.noticed:
                self.notices[node].append(notice)
                self.noticed.notify_all()

        verifier = Verifier({self.signer.key_id: self.signer.public_key})
        self.nodes[node] = self.stack.enter_context(RelayNode(node, [listener], verifier, notify, tls))

    def announce(self) -> None:
        tracker = self.ids["tracker"]
        for name, node in self.nodes.items():
            node.set_secrets([SECRET])
            node.set_nodes(self.addresses, keep=[] if name == tracker else [tracker])

    def open(self, name: str, data: bytes = b"") -> None:
        file = self.files[name] = self.stack.enter_context(closing(File(self.layout, data)))
        spec = TransferSpec(GENERATION, self.digest, self.layout, file, private=True)
        self.counts[name] = self.nodes[name].open(spec).counts


def test_a_private_blob_travels_over_mutual_tls(tmp_path: Path) -> None:
    with ExitStack() as stack:
        fleet = PrivateFleet(stack, tmp_path, 4)
        tracker = fleet.ids["tracker"]
        ring = Ring(1, fleet.names, tracker)
        fleet.open(tracker, fleet.data)
        for name in fleet.names:
            fleet.open(name)
            fleet.nodes[name].add_ring(GENERATION, ring)
        fleet.nodes[tracker].start_dealing(GENERATION, 1, ring)
        fleet.nodes[tracker].deal(GENERATION, fleet.vouched())
        fleet.nodes[tracker].watch(GENERATION)
        for name in fleet.names:
            assert fleet.files[name].whole.wait(WAIT_SECONDS)
            assert hashlib.sha256(fleet.files[name].content()).hexdigest() == fleet.digest.hex
        fleet.await_notice(tracker, lambda notice: isinstance(notice, DealsDone))


def test_bytes_of_a_private_blob_on_a_plain_connection_are_refused(tmp_path: Path) -> None:
    with ExitStack() as stack:
        fleet = PrivateFleet(stack, tmp_path, 1)
        (agent,), tracker = fleet.names, fleet.ids["tracker"]
        fleet.open(agent)
        fleet.nodes[agent].add_ring(GENERATION, Ring(1, [agent], tracker))
        plain = Stranger(fleet.addresses[agent], tracker, SECRET)
        with closing(plain.sock):
            plain.greet()
            index, hashed, vouch = fleet.vouched()[0]
            frame = PieceFrame(GENERATION, 1, index, 0, 0, 0, 5, False, hashed, vouch)
            plain.sock.sendall(encode_piece(frame, 32768) + fleet.data[:32768])
            notice = fleet.await_notice(agent, lambda notice: isinstance(notice, PeerRejected))
            assert "isn't TLS" in str(notice)
        assert not fleet.files[agent].has(0)


def test_a_certificate_of_another_fleet_is_refused(tmp_path: Path) -> None:
    with ExitStack() as stack:
        ours = PrivateFleet(stack, tmp_path / "ours", 1)
        theirs = PrivateFleet(stack, tmp_path / "theirs", 1)
        (agent,), (intruder,) = ours.names, theirs.names
        theirs.addresses[agent] = ours.addresses[agent]
        ours.addresses[intruder] = theirs.addresses[intruder]
        ours.announce()
        theirs.announce()
        theirs.open(intruder, theirs.data)
        theirs.nodes[intruder].start_dealing(GENERATION, 1, Ring(1, [agent], intruder))
        notice = ours.await_notice(agent, lambda notice: isinstance(notice, PeerRejected))
        assert "another fleet" in str(notice)


def test_a_node_without_certificate_cannot_take_private_connections() -> None:
    with fleet_of(1, 100_000, 32768) as fleet:
        address = fleet.addresses["n0"]
        with socket.create_connection((address.host, address.port), timeout=WAIT_SECONDS) as sock:
            sock.sendall(b"\x16\x03\x01\x00\x05hello")
            notice = fleet.await_notice("n0", lambda notice: isinstance(notice, PeerRejected))
            assert "no certificate" in str(notice)
