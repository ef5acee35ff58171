"""More of the relay under suspicion: leaves, strangers, names for addresses, stalled disks."""

import socket
import threading
from contextlib import closing

from p2pdist.relay.frames import Kind, encode_tag
from p2pdist.relay.spans import Ring
from p2pdist.relay.switchboard import NodeAddress
from tests.unit.relay.fleet import DEALER
from tests.unit.relay.fleet import GENERATION as ENGINES
from tests.unit.relay.fleet import Fleet as Engines
from tests.unit.relay.test_engine import names
from tests.unit.relay.test_node import GENERATION, SECRET, Stranger, fleet_of

SECONDS = 5.0


def test_leaves_get_what_is_dealt_by_offer() -> None:
    fleet = Engines(10, names(6), leaves=("n6",)) if "leaves" in Engines.__dataclass_fields__ else None
    assert fleet is not None
    for index in range(10):
        fleet.engines[DEALER].deal(ENGINES, 1, index, by_offer=True)
    fleet.run()
    assert {node: fleet.lacking(node) for node in fleet.engines} == {node: [] for node in fleet.engines}


def test_a_fill_says_nothing_of_who_is_slow() -> None:
    fleet = Engines(1, names(6))
    engine = fleet.engines["n1"]
    engine.add_ring(ENGINES, Ring(2, ["n0", "n1", "n2"], DEALER, ["n3"]))
    engine.add_ring(ENGINES, Ring(3, ["n5"], "n1"))
    assert engine._generations[ENGINES].slow == {"n3"}


def test_strangers_do_not_lock_members_out() -> None:
    with fleet_of(1, 65536, 32768) as fleet:
        address = fleet.addresses["n0"]
        fleet.addresses["member"] = NodeAddress("127.0.0.1", 1)
        fleet.announce()
        for _ in range(300):
            fleet.stack.enter_context(closing(socket.create_connection((address.host, address.port))))
        member = Stranger(address, "member", SECRET)
        with closing(member.sock):
            member.sock.settimeout(SECONDS)
            member.greet()
            assert member.handshake.peer == "n0"


def test_a_name_for_an_address_is_not_looked_up_in_the_relays_thread() -> None:
    with fleet_of(1, 65536, 32768) as fleet:
        server = fleet.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        fleet.addresses["named"] = NodeAddress("localhost", server.getsockname()[1])
        fleet.announce()
        fleet.open("tracker", fleet.data)
        dealer = fleet.nodes["tracker"]
        dealer.start_dealing(GENERATION, 1, Ring(1, ["named"], "tracker"))
        server.settimeout(1.0)
        try:
            sock, _ = server.accept()
        except TimeoutError:
            return
        sock.close()
        raise AssertionError("the name was looked up")


def test_a_lease_that_ends_during_a_handshake_counts() -> None:
    with fleet_of(1, 65536, 32768) as fleet:
        fleet.addresses["leaving"] = NodeAddress("127.0.0.1", 1)
        fleet.announce()
        peer = Stranger(fleet.addresses["n0"], "leaving", SECRET)
        with closing(peer.sock):
            peer.sock.settimeout(SECONDS)
            kinds = []
            proof = b""
            while Kind.PROOF not in kinds:
                kind, meta = peer.frame()
                kinds.append(kind)
                answer = peer.handshake.receive(kind, memoryview(meta))
                proof = proof or answer
            del fleet.addresses["leaving"]
            fleet.announce()
            done = threading.Event()
            fleet.nodes["n0"]._reactor.post(done.set)
            assert done.wait(SECONDS)
            peer.sock.sendall(proof + encode_tag(Kind.PING, 1))
            assert peer.is_hung_up_on()
