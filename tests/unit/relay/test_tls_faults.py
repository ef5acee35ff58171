"""Encrypted and plain links of one node side by side."""

import threading
from contextlib import ExitStack, closing
from pathlib import Path

from p2pdist.relay.frames import Kind
from p2pdist.relay.spans import Ring
from p2pdist.relay.switchboard import NodeAddress
from p2pdist.relay.transfer import TransferSpec
from tests.unit.relay.test_node import GENERATION, SECRET, File, Stranger
from tests.unit.relay.test_private import PrivateFleet


def test_a_node_without_encryption_still_gets_public_blobs(tmp_path: Path) -> None:
    """Its encrypted link can't be had; its plain one stands, and must not be given up for that."""
    with ExitStack() as stack:
        fleet = PrivateFleet(stack, tmp_path, 1)
        tracker = fleet.ids["tracker"]
        fleet.addresses["plain"] = NodeAddress("127.0.0.1", 9)
        fleet.announce()
        plain = Stranger(fleet.addresses[tracker], "plain", SECRET).greeted()
        stack.enter_context(closing(plain.sock))
        plain.sock.settimeout(3)
        fleet.open(tracker, fleet.data)
        dealer = fleet.nodes[tracker]
        ring = Ring(1, ["plain"], tracker)
        dealer.start_dealing(GENERATION, 1, ring)
        done = threading.Event()

        def refused() -> None:
            if "plain" in dealer._reactor.engine._down:
                done.set()

        for _ in range(200):
            dealer._reactor.post(refused)
            if done.wait(0.01):
                break
        public = stack.enter_context(closing(File(fleet.layout, fleet.data)))
        dealer.open(TransferSpec(GENERATION + 1, fleet.digest, fleet.layout, public))
        dealer.start_dealing(GENERATION + 1, 1, ring)
        dealer.deal(GENERATION + 1, fleet.vouched())
        kind, _ = plain.frame()
        assert kind is Kind.PIECE
