"""A rescue by two: this agent, with all its parts, and a member that the test plays, whose tracker has gone."""

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2pdist.agent.stripes import Stripes
from p2pdist.core.errors import BlobUnknown, DigestInvalid
from p2pdist.core.pieces import piece_hash
from p2pdist.pki.peers import id_of
from p2pdist.pki.vouch import BlobContext, Signer, Verifier
from p2pdist.relay.node import RelayNode
from p2pdist.relay.spans import Ring
from p2pdist.relay.switchboard import NodeAddress
from p2pdist.relay.transfer import TransferSpec
from p2pdist.store import BlobStore
from p2pdist.wire.messages import Endpoint, Join, Member, RelayPlan, RingInfo, Table, members_bitmap
from tests.fakes.origin_server import OriginServer, Reply, oci_error

from .bench import NODE, PIECE_BYTES, Bench, Blob, running
from .scripted_tracker import SECRET
from .test_pull import REPOSITORY, Reader

KEY = Ed25519PrivateKey.generate()
FELLOW = id_of(KEY.public_key())
GENERATION = 7
SEGMENT = 256 * 1024 // PIECE_BYTES
BLOB = Blob(8 * SEGMENT * PIECE_BYTES)
PATH = f"/v2/{REPOSITORY}/blobs/{BLOB.digest}"


class Fellow:
    """The other member of the ring, with a store of its own and no tracker."""

    def __init__(self, stack: ExitStack, root: Path) -> None:
        self.store = stack.enter_context(BlobStore.open(root))
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self.port = int(listener.getsockname()[1])
        self.signer = Signer(KEY, agent=True)
        self.node = stack.enter_context(RelayNode(FELLOW, [listener], Verifier({}), lambda notice: None))
        self.node.set_secrets([SECRET])
        self.node.set_alone(True)
        self.partial = stack.enter_context(self.store.begin(BLOB.digest, BLOB.layout))
        self.node.open(TransferSpec(GENERATION, BLOB.digest, BLOB.layout, self.partial))

    def meet(self, agent_port: int) -> None:
        self.node.set_nodes({NODE: NodeAddress("127.0.0.1", agent_port)})
        self.node.add_ring(GENERATION, Ring(1, [NODE, FELLOW], "tracker"))

    def rescue(self, indices: Iterable[int], data: bytes = BLOB.data) -> None:
        """Pass on these pieces as if they came from the origin."""
        layout = BLOB.layout
        context = BlobContext(BLOB.digest, layout.size_bytes, layout.piece_bytes, GENERATION)
        pieces = []
        for index in indices:
            part = data[layout.offset(index) :][: layout.length(index)]
            hashed = piece_hash(layout, part)
            (vouch,) = self.signer.vouch(context, index, [hashed])
            self.partial.write_piece(index, part)
            pieces.append((index, hashed, vouch.encode()))
        self.node.inject(GENERATION, 1, pieces)

    def content(self) -> bytes:
        return os.pread(self.partial.fd, len(BLOB.data), 0)


@contextmanager
def fellow(root: Path) -> Iterator[Fellow]:
    with ExitStack() as stack:
        yield Fellow(stack, root.parent / "fellow")


async def lose_the_tracker(bench: Bench, other: Fellow) -> None:
    """Begin a relay over both, of which nothing is dealt, and lose the tracker."""
    there = Endpoint("127.0.0.1", other.port)
    await bench.line.say(Table(False, (Member(1, FELLOW, "fellow", "", there, Endpoint("127.0.0.1", 1)),)))
    other.meet(bench.relay_port)
    join = await bench.line.next(Join)
    rings = (RingInfo(1, members_bitmap([0, 1]), "tracker"),)
    await bench.line.say(RelayPlan(join.id, str(BLOB.digest), len(BLOB.data), PIECE_BYTES, GENERATION, 4, False, rings))
    await bench.until(lambda: bench.relay.peers == 1)
    await bench.tracker.close()
    await bench.line.drop()


def theirs() -> list[int]:
    """The pieces of the fellow's column."""
    return [index for index in range(BLOB.layout.count) if index // SEGMENT % 2]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pdist.agent.sources.ORPHAN_SECONDS", 0.5)


async def test_each_fetches_its_stripe_and_gives_it_to_the_other(root: Path) -> None:
    with OriginServer() as origin, fellow(root) as other:
        origin.put_blob(REPOSITORY, BLOB.data)
        async with running(root, origin=origin.url) as bench, trio.open_nursery() as readers:
            reader = Reader(bench, BLOB.digest, readers)
            await lose_the_tracker(bench, other)
            other.rescue(theirs())
            assert await reader.finished() == BLOB.data
            step = SEGMENT * PIECE_BYTES
            assert [seen.headers["range"] for seen in origin.seen(PATH)] == [
                f"bytes={start}-{start + step - 1}" for start in range(0, len(BLOB.data), 2 * step)
            ]
            assert bench.library.origin_bytes == len(BLOB.data) // 2
            await bench.until(lambda: other.partial.complete)
            assert other.content() == BLOB.data
            await bench.until(lambda: bench.store.has(BLOB.digest))


async def test_what_the_other_does_not_bring_is_fetched_too(root: Path) -> None:
    with OriginServer() as origin, fellow(root) as other:
        origin.put_blob(REPOSITORY, BLOB.data)
        async with running(root, origin=origin.url) as bench, trio.open_nursery() as readers:
            reader = Reader(bench, BLOB.digest, readers)
            await lose_the_tracker(bench, other)
            other.rescue(theirs()[:SEGMENT])
            assert await reader.finished() == BLOB.data
            assert bench.library.origin_bytes == len(BLOB.data) - SEGMENT * PIECE_BYTES
            await bench.until(lambda: other.partial.complete)


async def test_a_liar_costs_one_failed_pull(root: Path) -> None:
    wrong = bytes(byte ^ 1 for byte in BLOB.data)
    with OriginServer() as origin, fellow(root) as other:
        origin.put_blob(REPOSITORY, BLOB.data)
        async with running(root, origin=origin.url) as bench, trio.open_nursery() as readers:
            reader = Reader(bench, BLOB.digest, readers)
            await lose_the_tracker(bench, other)
            other.rescue(theirs(), wrong)
            with pytest.raises(DigestInvalid):
                await reader.finished()
            assert len(reader.received) < len(BLOB.data)
            await bench.until(lambda: not bench.library.pulls)
            assert [each.digest for each in bench.store.quarantined()] == [BLOB.digest]
            again = Reader(bench, BLOB.digest, readers)
            assert await again.finished() == BLOB.data


async def test_who_gets_nothing_from_the_origin_takes_it_from_the_other(root: Path) -> None:
    with OriginServer() as origin, fellow(root) as other:
        origin.put(PATH, oci_error(403, "DENIED"))
        async with running(root, origin=origin.url) as bench, trio.open_nursery() as readers:
            reader = Reader(bench, BLOB.digest, readers)
            await lose_the_tracker(bench, other)
            other.rescue(range(BLOB.layout.count))
            assert await reader.finished() == BLOB.data


async def test_who_gets_nothing_from_anybody_says_what_the_origin_said(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pdist.agent.together.HELPLESS_SECONDS", 0.5)
    with OriginServer() as origin, fellow(root) as other:
        origin.put(PATH, oci_error(404, "BLOB_UNKNOWN"))
        async with running(root, origin=origin.url) as bench, trio.open_nursery() as readers:
            reader = Reader(bench, BLOB.digest, readers)
            await lose_the_tracker(bench, other)
            with pytest.raises(BlobUnknown):
                await reader.finished()


async def test_an_origin_without_ranges_is_asked_for_the_rest_alone(root: Path) -> None:
    with OriginServer() as origin, fellow(root) as other:
        origin.put(PATH, Reply(200, {}, BLOB.data))
        async with running(root, origin=origin.url) as bench, trio.open_nursery() as readers:
            reader = Reader(bench, BLOB.digest, readers)
            await lose_the_tracker(bench, other)
            assert await reader.finished() == BLOB.data
            assert len(origin.seen(PATH)) == 2


async def test_a_tracker_that_is_back_is_asked_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(Stripes, "own", lambda self, pieces: asked.append(pieces))
    monkeypatch.setattr(Stripes, "inherited", lambda self, pieces: None)
    with OriginServer() as origin, fellow(root) as other:
        async with running(root, origin=origin.url) as bench, trio.open_nursery() as readers:
            reader = Reader(bench, BLOB.digest, readers)
            await lose_the_tracker(bench, other)
            await bench.until(lambda: bool(asked))
            (membership,) = next(iter(bench.library.pulls)).memberships
            bench.relays.abandon(membership, "the tracker is back, and knows nothing of it")
            origin.put_blob(REPOSITORY, BLOB.data)
            # Nobody answers the next join, so it ends alone at the origin.
            assert await reader.finished() == BLOB.data
            assert len(origin.seen(PATH)) == 1
