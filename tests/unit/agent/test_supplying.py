"""An agent that deals what it holds, by the tracker's order, over real relay nodes."""

import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio.testing

from p2pdist.core.pieces import PieceSet
from p2pdist.pki.vouch import MAX_BATCH, BlobContext, Verifier
from p2pdist.relay.node import RelayNode
from p2pdist.relay.spans import Ring
from p2pdist.relay.switchboard import NodeAddress
from p2pdist.relay.transfer import Counts, TransferSpec
from p2pdist.relay.whole import sign_whole
from p2pdist.store import BlobStore
from p2pdist.store.errors import StoreFull
from p2pdist.wire.messages import (
    Began,
    Deal,
    DealsDone,
    Ended,
    Fill,
    Inventory,
    Left,
    RingInfo,
    Supply,
    Table,
    members_bitmap,
)
from tests.unit.relay.test_node import File

from .bench import NODE, PIECE_BYTES, Bench, Blob, running
from .scripted_tracker import SECRET, member

GENERATION = 7
BLOB = Blob((MAX_BATCH + 6) * PIECE_BYTES + 77)
ALL = range(BLOB.layout.count)
RING = Ring(1, ["member"], NODE)


def put(store: BlobStore, blob: Blob, *, torrent: bool = True) -> None:
    with store.begin(blob.digest, blob.layout) as partial:
        for index in range(blob.layout.count):
            partial.write_piece(index, blob.piece(index))
        if torrent:
            store.save_metainfo(blob.digest, blob.metainfo)
        partial.commit()


def supply(bench: Bench, blob: Blob = BLOB, generation: int = GENERATION) -> Supply:
    size, piece = blob.layout.size_bytes, blob.layout.piece_bytes
    signer = bench.dealer.signer
    signatures = sign_whole(signer, BlobContext(blob.digest, size, piece, generation), blob.hashes)
    return Supply(generation, str(blob.digest), size, piece, 4, False, signer.key_id, signatures)


def info(ring: Ring) -> RingInfo:
    """Of a ring over the member, which has slot 1."""
    return RingInfo(ring.epoch, members_bitmap([1] * len(ring)), ring.dealer)


def deal(pieces: Iterable[int], ring: Ring = RING, *, share: int = 1, by_offer: bool = False) -> Deal:
    return Deal(GENERATION, share, info(ring), PieceSet(BLOB.layout.count, pieces).to_bytes(), by_offer)


class Wanting:
    """Another node of the fleet, which wants the blob."""

    def __init__(self, stack: ExitStack, bench: Bench) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self.port = int(listener.getsockname()[1])
        key = bench.dealer.signer
        self.node = stack.enter_context(
            RelayNode("member", [listener], Verifier({key.key_id: key.public_key}), lambda _: None)
        )
        self.node.set_secrets([SECRET])
        self.node.set_nodes({NODE: NodeAddress("127.0.0.1", bench.relay_port)})
        self.file = stack.enter_context(closing(File(BLOB.layout)))

    async def enter(self, bench: Bench, *rings: Ring) -> Counts:
        """Take part, after the agent has heard of us."""
        counts = self.node.open(TransferSpec(GENERATION, BLOB.digest, BLOB.layout, self.file)).counts
        for ring in rings:
            self.node.add_ring(GENERATION, ring)
        await bench.line.say(Table(False, (member(1, "member", self.port),)))
        return counts


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def changed(order: Supply, **changes: Any) -> Supply:
    return msgspec.structs.replace(order, **changes)


async def test_a_blob_that_is_here_is_dealt(root: Path, stack: ExitStack) -> None:
    async with running(root) as bench:
        put(bench.store, BLOB)
        wanting = Wanting(stack, bench)
        counts = await wanting.enter(bench, RING)
        await bench.line.say(supply(bench), deal(ALL))
        assert await bench.line.next(Began) == Began(GENERATION, 1, PieceSet(BLOB.layout.count).to_bytes())
        await bench.until(wanting.file.whole.is_set)
        assert wanting.file.content() == BLOB.data
        assert await bench.line.next(DealsDone) == DealsDone(GENERATION)
        assert (counts.relayed_bytes, counts.dealt_bytes) == (len(BLOB.data), 0)
        assert bench.relays.totals().sent_bytes == len(BLOB.data)


async def test_only_the_pieces_of_a_share_are_dealt(root: Path, stack: ExitStack) -> None:
    async with running(root) as bench:
        put(bench.store, BLOB)
        wanting = Wanting(stack, bench)
        fill = Ring(2, ["member"], NODE)
        await wanting.enter(bench, RING, fill)
        await bench.line.say(supply(bench), deal([0, 2, MAX_BATCH + 1]))
        await bench.line.next(DealsDone)
        assert [*wanting.file.pieces] == [0, 2, MAX_BATCH + 1]
        # The share goes on over the next ring; what was dealt before is said.
        after = Ring(3, ["member"], NODE)
        wanting.node.add_ring(GENERATION, after)
        await bench.line.say(deal([0, 2, MAX_BATCH + 1], after))
        began = [await bench.line.next(Began) for _ in range(2)]
        assert [(each.epoch, [*PieceSet.from_bytes(BLOB.layout.count, each.dealt)]) for each in began] == [
            (1, []),
            (3, [0, 2, MAX_BATCH + 1]),
        ]
        # A fill brings the rest.
        rest = PieceSet(BLOB.layout.count, set(ALL) - {0, 2, MAX_BATCH + 1}).to_bytes()
        await bench.line.say(Fill(GENERATION, info(fill), rest))
        await bench.until(wanting.file.whole.is_set)
        assert wanting.file.content() == BLOB.data


async def test_what_a_member_has_is_offered_and_not_sent(root: Path, stack: ExitStack) -> None:
    async with running(root) as bench:
        put(bench.store, BLOB)
        wanting = Wanting(stack, bench)
        for index in range(10):
            wanting.file.write_piece(index, BLOB.piece(index))
        counts = await wanting.enter(bench, RING)
        await bench.line.say(supply(bench), deal(ALL, by_offer=True))
        await bench.until(wanting.file.whole.is_set)
        assert counts.relayed_bytes == len(BLOB.data) - 10 * PIECE_BYTES
        assert counts.duplicate_bytes == 0


async def test_it_cannot_be_evicted_until_the_generation_ends(root: Path) -> None:
    async with running(root, quota_bytes=len(BLOB.data) + PIECE_BYTES) as bench:
        put(bench.store, BLOB)
        other = Blob(2 * PIECE_BYTES, seed=1)
        await bench.line.say(supply(bench))
        await bench.until(lambda: bench.relays.live == 1)
        with pytest.raises(StoreFull):
            bench.store.begin(other.digest, other.layout)
        await bench.line.say(Ended(GENERATION))
        await bench.until(lambda: bench.relays.live == 0)
        await bench.until(lambda: evicts(bench.store, other))
        assert not bench.store.has(BLOB.digest)
        while not (word := await bench.line.next(Inventory)).removed:
            pass
        assert word.removed == (str(BLOB.digest),)


def evicts(store: BlobStore, blob: Blob) -> bool:
    try:
        with store.begin(blob.digest, blob.layout) as partial:
            partial.discard()
    except StoreFull:
        return False
    return True


async def test_two_generations_of_a_blob_end_one_by_one(root: Path) -> None:
    async with running(root, quota_bytes=len(BLOB.data) + PIECE_BYTES) as bench:
        put(bench.store, BLOB)
        other = Blob(2 * PIECE_BYTES, seed=1)
        await bench.line.say(supply(bench), supply(bench, generation=8))
        await bench.until(lambda: bench.relays.live == 2)
        await bench.line.say(Ended(GENERATION))
        await bench.until(lambda: bench.relays.live == 1)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert not evicts(bench.store, other)
        await bench.line.say(Ended(8))
        await bench.until(lambda: evicts(bench.store, other))


async def test_a_generation_that_ends_while_the_blob_is_opened_is_over(root: Path) -> None:
    async with running(root, quota_bytes=len(BLOB.data) + PIECE_BYTES) as bench:
        put(bench.store, BLOB)
        await bench.line.say(Table(False, (member(1, "member"),)))
        await bench.line.say(supply(bench), deal(ALL), Ended(GENERATION))
        other = Blob(2 * PIECE_BYTES, seed=1)
        await bench.until(lambda: not bench.relays._planned and bench.relays.live == 0)
        await bench.until(lambda: evicts(bench.store, other))
        assert not any(isinstance(message, Left) for message in bench.line.heard)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("absent", "has no blob"),
        ("without torrent", "isn't here with its torrent"),
        ("other layout", "here it has"),
        ("other signatures", "signatures for"),
    ],
)
async def test_what_cannot_be_dealt_is_said_to_the_tracker(root: Path, case: str, reason: str) -> None:
    async with running(root) as bench:
        order = supply(bench)
        if case != "absent":
            put(bench.store, BLOB, torrent=case != "without torrent")
        if case == "other layout":
            order = changed(order, piece_bytes=2 * PIECE_BYTES)
        elif case == "other signatures":
            order = changed(order, signatures=order.signatures[:1])
        await bench.line.say(order)
        left = await bench.line.next(Left)
        assert left.generation == GENERATION
        assert str(BLOB.digest) in left.reason or case == "other signatures"
        assert reason in left.reason
        assert bench.relays.live == 0
        # The connection stands, and what is still said of it is nobody's business any more.
        await bench.line.say(deal([0]), Ended(GENERATION))
        await bench.line.say(supply(bench, Blob(1, seed=3), 8))
        assert (await bench.line.next(Left)).generation == 8


async def test_an_order_that_means_nothing_ends_the_connection(root: Path) -> None:
    async with running(root) as bench:
        put(bench.store, BLOB)
        await bench.line.say(changed(supply(bench), digest="sha256:nonsense"))
        bench.line = await bench.tracker.welcome()
        await bench.line.say(supply(bench, generation=8))
        await bench.until(lambda: bench.relays.live == 1)


async def test_a_member_passes_on_what_a_holder_dealt(root: Path, stack: ExitStack) -> None:
    """The vouches travel with the pieces, so that who never spoke to the holder can check them, too."""
    async with running(root) as bench:
        put(bench.store, BLOB)
        wanting = Wanting(stack, bench)
        await wanting.enter(bench, RING)
        await bench.line.say(supply(bench), deal(ALL))
        await bench.until(wanting.file.whole.is_set)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        third = NodeAddress("127.0.0.1", int(listener.getsockname()[1]))
        key = bench.dealer.signer
        node = stack.enter_context(
            RelayNode("third", [listener], Verifier({key.key_id: key.public_key}), lambda _: None)
        )
        node.set_secrets([SECRET])
        node.set_nodes({"member": NodeAddress("127.0.0.1", wanting.port)})
        wanting.node.set_nodes({NODE: NodeAddress("127.0.0.1", bench.relay_port), "third": third})
        file = stack.enter_context(closing(File(BLOB.layout)))
        node.open(TransferSpec(GENERATION, BLOB.digest, BLOB.layout, file))
        fill = Ring(2, ["third"], "member")
        node.add_ring(GENERATION, fill)
        wanting.node.start_fill(GENERATION, fill, ALL)
        await bench.until(file.whole.is_set)
        assert file.content() == BLOB.data
