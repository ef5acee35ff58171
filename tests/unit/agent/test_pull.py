"""One pull with a real store, a real relay, a real swarm, and a tracker and an origin that the test plays."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from p2pdist.agent import sources
from p2pdist.agent.arrival import READER_SECONDS, Arrival, run_bytes
from p2pdist.agent.commit import commit
from p2pdist.core.digest import Digest
from p2pdist.core.errors import DigestInvalid, P2PDistError, StoreError, Unavailable
from p2pdist.core.pieces import PieceSet
from p2pdist.http.interrupt import Interrupt
from p2pdist.oci.credentials import Credentials
from p2pdist.oci.origin import OriginClient, Upstream
from p2pdist.oci.reference import Tag
from p2pdist.store import BlobStore, PartialBlob
from p2pdist.store.catalogue import Catalogue
from p2pdist.swarm import Endpoint, Swarm, SwarmSettings
from p2pdist.wire.messages import (
    Dealt,
    Distrusted,
    Ended,
    Epoch,
    Expect,
    Failed,
    Inventory,
    Join,
    Lacking,
    Left,
    ManifestIs,
    ManifestWanted,
    RingInfo,
    SwarmPlan,
    members_bitmap,
)
from p2pdist.wire.messages import Endpoint as WireEndpoint
from tests.fakes.origin_server import MANIFEST_TYPE, OriginServer, basic_guard, image_manifest

from .bench import PIECE_BYTES, Bench, Blob, running

UPSTREAM, REPOSITORY = "registry.example", "library/app"


class Reader:
    """Reads a blob through the library as the shim does, in a task of its own."""

    def __init__(self, bench: Bench, digest: Digest, nursery: trio.Nursery, offset: int = 0) -> None:
        self.received = bytearray()
        self.error: P2PDistError | None = None
        self.done = trio.Event()
        self.scope = trio.CancelScope()
        nursery.start_soon(self._read, bench, digest, offset)

    async def _read(self, bench: Bench, digest: Digest, at: int) -> None:
        with self.scope:
            try:
                async with bench.library.blob(UPSTREAM, REPOSITORY, digest) as view:
                    while at < view.size_bytes:
                        end = await view.available(at)
                        self.received += os.pread(view.fd, end - at, at)
                        at = end
                    assert view.committed or not view.size_bytes
            except P2PDistError as error:
                self.error = error
        self.done.set()

    async def finished(self) -> bytes:
        with trio.fail_after(15):
            await self.done.wait()
        if self.error is not None:
            raise self.error
        return bytes(self.received)


async def relayed(bench: Bench, blob: Blob, generation: int = 7, data: bytes | None = None) -> None:
    """Answer the next join with a relay; nothing is dealt yet."""
    bench.dealer.open(blob, bench.relay_port, generation, data=data)
    join = await bench.line.next(Join)
    await bench.line.say(blob.plan(join.id, generation))


async def test_readers_share_one_pull_and_one_that_hangs_up_ends_nothing(root: Path) -> None:
    blob = Blob(20 * PIECE_BYTES + 77)
    async with running(root) as bench, trio.open_nursery() as readers:
        first = Reader(bench, blob.digest, readers)
        second = Reader(bench, blob.digest, readers)
        await relayed(bench, blob)
        bench.dealer.deal(blob, range(10))
        await bench.until(lambda: len(first.received) == len(second.received) == 10 * PIECE_BYTES)
        first.scope.cancel()
        far = Reader(bench, blob.digest, readers, offset=15 * PIECE_BYTES)
        bench.dealer.deal(blob, range(15, 18))
        await bench.until(lambda: len(far.received) == 3 * PIECE_BYTES)
        bench.dealer.deal(blob, [*range(10, 15), 18, 19, 20])
        assert await second.finished() == blob.data
        assert await far.finished() == blob.data[15 * PIECE_BYTES :]
        held = await bench.line.next(Inventory)
        while not held.added:
            held = await bench.line.next(Inventory)
        assert held.added[0].digest == str(blob.digest)
        assert (await bench.line.next(Left)).reason == ""
        assert sum(isinstance(message, Join) for message in bench.line.heard) == 1
        assert bench.store.metainfo(blob.digest) == blob.metainfo
        assert bench.value("pulls_total", outcome="done", source="relay") == 1
        assert bench.relays.totals().dealt_bytes == len(blob.data)
        assert bench.relays.live == 1
        await bench.line.say(Ended(7))
        await bench.until(lambda: bench.relays.live == 0)
        assert bench.relays.totals().dealt_bytes == len(blob.data)


async def test_a_reader_gets_the_first_bytes_at_once_and_the_others_by_runs(root: Path) -> None:
    run = run_bytes(21 * PIECE_BYTES)
    assert run == 2 * PIECE_BYTES
    blob = Blob(21 * PIECE_BYTES)
    async with running(root) as bench, trio.open_nursery() as readers:
        Reader(bench, blob.digest, readers)
        await relayed(bench, blob)
        await bench.until(lambda: bool(bench.library.pulls))
        async with bench.library.blob(UPSTREAM, REPOSITORY, blob.digest) as view:
            bench.dealer.deal(blob, [0])
            assert await view.available(0) == PIECE_BYTES
            assert await view.available(0) == PIECE_BYTES, "what was told and not taken is told again at once"
            began = trio.current_time()
            bench.dealer.deal(blob, [1])
            assert await view.available(PIECE_BYTES) == 2 * PIECE_BYTES
            assert trio.current_time() - began >= READER_SECONDS, "a part of a run is for the patient"
            bench.dealer.deal(blob, [2, 3, 5])
            assert await view.available(2 * PIECE_BYTES) == 4 * PIECE_BYTES
            bench.dealer.deal(blob, [4, *range(6, 21)])
            assert await view.available(4 * PIECE_BYTES) >= 6 * PIECE_BYTES


async def test_the_last_piece_is_shown_when_the_digest_held(root: Path) -> None:
    blob = Blob(3 * PIECE_BYTES)
    wrong = blob.data[:-1] + bytes([blob.data[-1] ^ 1])
    async with running(root) as bench, trio.open_nursery() as readers:
        reader = Reader(bench, blob.digest, readers)
        await relayed(bench, blob, data=wrong)
        bench.dealer.deal(blob, range(2), data=wrong)
        await bench.until(lambda: len(reader.received) == 2 * PIECE_BYTES)
        bench.dealer.deal(blob, [2], data=wrong)
        with pytest.raises(DigestInvalid, match="have the digest"):
            await reader.finished()
        assert bytes(reader.received) == blob.data[: 2 * PIECE_BYTES]
        assert (await bench.line.next(Left)).reason
        assert (await bench.line.next(Distrusted)).generation == 7
        await bench.until(lambda: not bench.library.pulls)
        assert [quarantined.digest for quarantined in bench.store.quarantined()] == [blob.digest]
        assert bench.value("quarantined_total") == 1
        # The next pull begins anew and succeeds.
        again = Reader(bench, blob.digest, readers)
        await relayed(bench, blob, generation=8)
        bench.dealer.deal(blob, range(3), generation=8)
        assert await again.finished() == blob.data


async def test_the_last_bytes_are_shown_before_the_record_is_written(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = Blob(3 * PIECE_BYTES)
    shown = threading.Event()
    keep = Catalogue.add_blob

    def keep_late(*args: Any) -> None:
        assert shown.wait(10), "nobody saw the last bytes before the record was written"
        keep(*args)

    monkeypatch.setattr(Catalogue, "add_blob", keep_late)
    async with running(root) as bench, trio.open_nursery() as readers:
        reader = Reader(bench, blob.digest, readers)
        await relayed(bench, blob)
        bench.dealer.deal(blob, range(3))
        assert await reader.finished() == blob.data
        # Whoever comes now is served by the pull too.
        assert not bench.store.has(blob.digest)
        assert await Reader(bench, blob.digest, readers).finished() == blob.data
        shown.set()
        await bench.until(lambda: bench.store.has(blob.digest))
        assert await Reader(bench, blob.digest, readers).finished() == blob.data


@pytest.mark.parametrize("closed", [False, True], ids=["file open", "file closed"])
async def test_who_asks_while_a_blob_is_being_committed_gets_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    blob = Blob(20 * PIECE_BYTES)
    there, goes_on = threading.Event(), threading.Event()

    def slowly(arrival: Arrival, partial: PartialBlob) -> None:
        commit(arrival, partial)
        there.set()
        assert goes_on.wait(10)

    monkeypatch.setattr("p2pdist.agent.pull.commit", slowly)
    async with running(root) as bench, trio.open_nursery() as readers:
        first = Reader(bench, blob.digest, readers)
        await relayed(bench, blob)
        await bench.until(lambda: bool(bench.library.pulls))
        bench.dealer.deal(blob, range(20))
        await bench.until(there.is_set)
        assert bench.store.has(blob.digest)
        if closed:
            assert await first.finished() == blob.data
        late = Reader(bench, blob.digest, readers)
        await wait_all_tasks_blocked()
        goes_on.set()
        assert await late.finished() == blob.data


async def test_an_empty_blob(root: Path) -> None:
    blob = Blob(0)
    async with running(root) as bench, trio.open_nursery() as readers:
        reader = Reader(bench, blob.digest, readers)
        join = await bench.line.next(Join)
        await bench.line.say(blob.plan(join.id))
        assert await reader.finished() == b""
        await bench.until(lambda: bench.store.has(blob.digest))


async def test_a_tracker_that_goes_in_the_middle_is_made_up_for_by_the_origin(root: Path) -> None:
    blob = Blob(40 * PIECE_BYTES)
    with OriginServer() as origin:
        origin.put_blob(REPOSITORY, blob.data)
        async with running(root, origin=origin.url) as bench, trio.open_nursery() as readers:
            reader = Reader(bench, blob.digest, readers)
            await relayed(bench, blob)
            bench.dealer.deal(blob, range(12))
            await bench.until(lambda: len(reader.received) == 12 * PIECE_BYTES)
            await bench.tracker.close()
            await bench.line.drop()
            began = trio.current_time()
            assert await reader.finished() == blob.data
            assert trio.current_time() - began < 5
            (asked,) = origin.seen(f"/v2/{REPOSITORY}/blobs/{blob.digest}")
            assert asked.headers["range"] == f"bytes={12 * PIECE_BYTES}-{len(blob.data) - 1}"
            assert bench.library.origin_bytes == 28 * PIECE_BYTES
            await bench.until(lambda: not bench.library.pulls)
            assert bench.library.origin_bytes == 28 * PIECE_BYTES
            assert bench.value("rescues_total") == 1


async def test_who_is_fed_by_a_rescue_of_others_takes_part_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "ORPHAN_SECONDS", 3600.0)
    blob = Blob(40 * PIECE_BYTES)
    with OriginServer() as origin:
        origin.put_blob(REPOSITORY, blob.data)
        async with running(root, origin=origin.url) as bench, trio.open_nursery() as readers:
            reader = Reader(bench, blob.digest, readers)
            await relayed(bench, blob)
            bench.dealer.deal(blob, range(12))
            await bench.until(lambda: len(reader.received) == 12 * PIECE_BYTES)
            (pull,) = bench.library.pulls
            (membership,) = pull.memberships
            provisional = cast(dict[int, str], membership.ticket.provisional)
            provisional[11] = "another member"
            await bench.tracker.close()
            await bench.line.drop()
            assert await reader.finished() == blob.data


async def test_a_tracker_that_restarts_is_asked_again_and_not_the_origin(root: Path) -> None:
    blob = Blob(8 * PIECE_BYTES)
    async with running(root) as bench, trio.open_nursery() as readers:
        reader = Reader(bench, blob.digest, readers)
        await relayed(bench, blob)
        bench.dealer.deal(blob, range(5))
        await bench.until(lambda: len(reader.received) == 5 * PIECE_BYTES)
        await bench.line.drop()
        bench.line = await bench.tracker.welcome()
        # It knows nothing of generation 7: the question about it says so, and the pull joins anew.
        asked = await bench.line.next(Lacking)
        assert (asked.generation, asked.missing) == (7, b"\0")
        await bench.line.say(Ended(7, "BLOB_UNKNOWN", 404, "this distribution is over"))
        join = await bench.line.next(Join)
        held = PieceSet.from_bytes(8, join.held)
        assert [*held] == [0, 1, 2, 3, 4]
        bench.dealer.open(blob, bench.relay_port, 9)
        await bench.line.say(blob.plan(join.id, 9))
        bench.dealer.deal(blob, range(5, 8), generation=9)
        assert await reader.finished() == blob.data
        assert bench.value("rescues_total") == 0


async def test_a_generation_that_fails_is_made_up_for_by_the_origin(root: Path) -> None:
    blob = Blob(4 * PIECE_BYTES)
    with OriginServer() as origin:
        origin.put_blob(REPOSITORY, blob.data)
        async with running(root, origin=origin.url) as bench, trio.open_nursery() as readers:
            reader = Reader(bench, blob.digest, readers)
            await relayed(bench, blob)
            await bench.line.say(Ended(7, "UNAVAILABLE", 503, "the origin is slow"))
            assert await reader.finished() == blob.data
            await bench.until(lambda: bench.value("pulls_total", outcome="done", source="origin") == 1)


@pytest.mark.parametrize("code", ["BLOB_UNKNOWN", "DENIED"])
async def test_a_clear_no_is_final(root: Path, code: str) -> None:
    blob = Blob(10)
    with OriginServer() as origin:
        origin.put_blob(REPOSITORY, blob.data)
        async with running(root, origin=origin.url) as bench, trio.open_nursery() as readers:
            reader = Reader(bench, blob.digest, readers)
            join = await bench.line.next(Join)
            await bench.line.say(Failed(join.id, code, 404, "no such thing"))
            with pytest.raises(P2PDistError, match="no such thing"):
                await reader.finished()
            assert not origin.requests


async def test_missing_pieces_are_asked_for(root: Path) -> None:
    blob = Blob(4 * PIECE_BYTES)
    async with running(root) as bench, trio.open_nursery() as readers:
        reader = Reader(bench, blob.digest, readers)
        await relayed(bench, blob)
        bench.dealer.deal(blob, [0, 3])
        await bench.line.say(Dealt(7))
        lacking = await bench.line.next(Lacking)
        assert [*PieceSet.from_bytes(4, lacking.missing)] == [1, 2]
        bench.dealer.deal(blob, [1, 2])
        assert await reader.finished() == blob.data


async def test_a_full_store_fails_the_pull_and_asks_no_origin(root: Path) -> None:
    blob = Blob(4 * PIECE_BYTES)
    with OriginServer() as origin:
        origin.put_blob(REPOSITORY, blob.data)
        async with running(root, origin=origin.url, quota_bytes=PIECE_BYTES) as bench, trio.open_nursery() as readers:
            reader = Reader(bench, blob.digest, readers)
            await relayed(bench, blob)
            with pytest.raises(StoreError, match="quota"):
                await reader.finished()
            left = await bench.line.next(Left)
            assert (left.generation, "quota" in left.reason) == (7, True)
            assert bench.relays.live == 0
            assert not origin.requests


async def test_a_bug_fails_one_pull(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = Blob(PIECE_BYTES)
    async with running(root) as bench, trio.open_nursery() as readers:
        monkeypatch.setattr(BlobStore, "begin", _raise(ZeroDivisionError("a bug")))
        reader = Reader(bench, blob.digest, readers)
        await relayed(bench, blob)
        with pytest.raises(Unavailable, match="bug"):
            await reader.finished()
        monkeypatch.undo()
        again = Reader(bench, blob.digest, readers)
        await relayed(bench, blob, generation=8)
        bench.dealer.deal(blob, [0], generation=8)
        assert await again.finished() == blob.data


async def test_a_store_that_fails_while_a_pull_gives_up_ends_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = Blob(PIECE_BYTES)
    async with running(root) as bench, trio.open_nursery() as readers:
        monkeypatch.setattr(BlobStore, "quarantine", _raise(StoreError("the disk is gone")))
        reader = Reader(bench, blob.digest, readers)
        wrong = bytes(PIECE_BYTES)
        await relayed(bench, blob, data=wrong)
        bench.dealer.deal(blob, [0], data=wrong)
        with pytest.raises(DigestInvalid):
            await reader.finished()
        await bench.until(lambda: not bench.library.pulls)


def _raise(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


class _Secret:
    def get(self, host: str, interrupt: Interrupt) -> Credentials | None:
        return Credentials("me", "secret")


async def test_what_the_origin_gives_for_credentials_only_is_private(root: Path) -> None:
    blob = Blob(2 * PIECE_BYTES)
    with OriginServer() as origin:
        origin.put_blob(REPOSITORY, blob.data)
        async with running(root, origin=origin.url) as bench, trio.open_nursery() as readers:
            origin.guard = basic_guard("me", "secret")
            upstream = Upstream(UPSTREAM, origin.url, None, _Secret())
            with OriginClient(upstream) as client:
                object.__setattr__(bench.library._means, "origin", lambda name: client)
                reader = Reader(bench, blob.digest, readers)
                join = await bench.line.next(Join)
                await bench.line.say(Failed(join.id, "UNAVAILABLE", 503, "try the origin"))
                assert await reader.finished() == blob.data
            record = bench.store.record(blob.digest)
            assert record is not None
            assert record.private
            # Nobody gets it by swarm.
            await bench.line.say(Expect(str(blob.digest), (WireEndpoint("127.0.0.1", 1),)))
            await wait_all_tasks_blocked(0.05)
            assert not bench.swarm.loaded


async def test_a_blob_by_swarm_then_seeded_after_a_restart(root: Path) -> None:
    blob = Blob(30 * PIECE_BYTES + 5)
    holder = root.parent / "holder"
    with BlobStore.open(holder) as store:
        with store.begin(blob.digest, blob.layout, metainfo=blob.metainfo) as partial:
            for index in range(blob.layout.count):
                partial.write_piece(index, blob.piece(index))
            partial.commit()
        async with running(root) as bench, Swarm.open(SwarmSettings(listen=(Endpoint("127.0.0.1", 0),))) as other:
            other.allow_peers({"127.0.0.1"})
            with store.committed(blob.digest) as held:
                await other.seed(held.path, blob.metainfo)
            async with trio.open_nursery() as readers:
                reader = Reader(bench, blob.digest, readers)
                join = await bench.line.next(Join)
                (there,) = other.addresses
                neighbours = (WireEndpoint("no.address.example", 1), WireEndpoint(there.address, there.port))
                hashes = b"".join(blob.hashes)
                plan = SwarmPlan(join.id, str(blob.digest), len(blob.data), PIECE_BYTES, hashes, neighbours)
                await bench.line.say(plan)
                assert await reader.finished() == blob.data
            await bench.until(lambda: not bench.library.pulls)
            assert bench.library.swarm_bytes == len(blob.data)
    async with running(root) as bench, Swarm.open(SwarmSettings(listen=(Endpoint("127.0.0.1", 0),))) as other:
        assert not bench.swarm.loaded
        held_now = await bench.line.next(Inventory)
        assert [each.digest for each in held_now.added] == [str(blob.digest)]
        other.allow_peers({"127.0.0.1"})
        with BlobStore.open(root.parent / "late") as late, late.begin(blob.digest, blob.layout) as partial:
            async with other.pull(partial, blob.metainfo, bench.swarm.addresses) as pulling:
                (there,) = other.addresses
                await bench.line.say(Expect(str(blob.digest), (WireEndpoint(there.address, there.port),)))
                with trio.fail_after(15):
                    await pulling.wait_finished()
            partial.commit()


async def test_a_swarm_that_brings_nothing_ends_at_the_origin(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pdist.agent.sources.SWARM_IDLE_SECONDS", 0.2)
    blob = Blob(4 * PIECE_BYTES)
    with OriginServer() as origin:
        origin.put_blob(REPOSITORY, blob.data)
        async with running(root, origin=origin.url) as bench, trio.open_nursery() as readers:
            reader = Reader(bench, blob.digest, readers)
            for _ in range(3):
                join = await bench.line.next(Join)
                hashes = b"".join(blob.hashes)
                await bench.line.say(SwarmPlan(join.id, str(blob.digest), len(blob.data), PIECE_BYTES, hashes, ()))
            assert await reader.finished() == blob.data
            assert not bench.swarm.loaded


async def test_evicted_blobs_are_taken_back(root: Path) -> None:
    blob = Blob(10)
    async with running(root) as bench:
        with bench.store.begin(blob.digest, blob.layout, metainfo=blob.metainfo) as partial:
            partial.write_piece(0, blob.data)
            partial.commit()
        await trio.to_thread.run_sync(bench.store.remove, blob.digest)
        while True:
            told = await bench.line.next(Inventory)
            if told.removed:
                break
        assert told.removed == (str(blob.digest),)


async def test_a_plan_that_nobody_waits_for_is_declined(root: Path) -> None:
    blob = Blob(10)
    async with running(root) as bench:
        await bench.line.say(blob.plan(4711, 5))
        left = await bench.line.next(Left)
        assert left.generation == 5


async def test_slots_that_the_table_lacks_end_the_connection_only(root: Path) -> None:
    blob = Blob(2 * PIECE_BYTES)
    async with running(root) as bench, trio.open_nursery() as readers:
        reader = Reader(bench, blob.digest, readers)
        await relayed(bench, blob)
        await bench.until(lambda: bench.relays.live == 1)
        await bench.line.say(Epoch(7, (RingInfo(2, members_bitmap([0, 99]), "tracker"),)))
        bench.line = await bench.tracker.welcome()
        join = await bench.line.next(Join)
        await bench.line.say(blob.plan(join.id))
        bench.dealer.deal(blob, range(2))
        assert await reader.finished() == blob.data


async def test_manifests_are_checked_and_kept(root: Path) -> None:
    body = image_manifest(b"layer")
    digest = Digest.of(body)
    async with running(root) as bench:
        got = []

        async def ask(reference: Tag | Digest) -> None:
            try:
                got.append(await bench.library.manifest(UPSTREAM, REPOSITORY, reference))
            except P2PDistError as error:
                got.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, Tag("1"))
            wanted = await bench.line.next(ManifestWanted)
            await bench.line.say(ManifestIs(wanted.id, str(digest), MANIFEST_TYPE, body, False))
        await ask(digest)
        assert [each.digest for each in got] == [digest, digest]
        assert await bench.library.blob_size(UPSTREAM, REPOSITORY, Digest.of(b"layer")) == 5
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, Tag("2"))
            wanted = await bench.line.next(ManifestWanted)
            await bench.line.say(ManifestIs(wanted.id, str(digest), MANIFEST_TYPE, body + b" ", False))
        assert isinstance(got[-1], DigestInvalid)


async def test_layers_that_follow_are_begun_before_they_are_asked_for(root: Path) -> None:
    layers = [Blob(PIECE_BYTES, seed) for seed in range(3)]
    body = image_manifest(*(layer.data for layer in layers))
    digest = Digest.of(body)
    async with running(root) as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.library.manifest, UPSTREAM, REPOSITORY, Tag("1"))
        wanted = await bench.line.next(ManifestWanted)
        await bench.line.say(ManifestIs(wanted.id, str(digest), MANIFEST_TYPE, body, False))
        await bench.until(lambda: bench.store.manifest(digest) is not None)
        bench.library.asked(UPSTREAM, REPOSITORY, layers[1].digest, whole=False)
        assert not bench.library.pulls
        bench.library.asked(UPSTREAM, REPOSITORY, layers[1].digest, whole=True)
        assert [pull.wanted.digest for pull in bench.library.pulls] == [layers[2].digest]
        assert bench.value("ahead_bytes_total") == PIECE_BYTES
        assert bench.value("ahead_asked_bytes_total") == 0
        await relayed(bench, layers[2])
        bench.dealer.deal(layers[2], [0])
        await bench.until(lambda: bench.store.has(layers[2].digest) and not bench.library.pulls)
        bench.library.asked(UPSTREAM, REPOSITORY, layers[2].digest, whole=True)
        assert bench.value("ahead_asked_bytes_total") == PIECE_BYTES
        assert not bench.library.pulls


async def test_blobs_that_outlived_a_crash_are_verified_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = Blob(PIECE_BYTES)
    async with running(root) as bench:
        with bench.store.begin(blob.digest, blob.layout, metainfo=blob.metainfo) as partial:
            partial.write_piece(0, blob.data)
            partial.commit()
        entry = bench.store._index.get(blob.digest)
        assert entry is not None
        entry.verified = False
        verified = []
        verify = BlobStore.verify

        def counted(store: BlobStore, digest: Digest) -> bool:
            verified.append(digest)
            return verify(store, digest)

        monkeypatch.setattr(BlobStore, "verify", counted)
        async with trio.open_nursery() as readers:
            both = [Reader(bench, blob.digest, readers), Reader(bench, blob.digest, readers)]
            for reader in both:
                assert await reader.finished() == blob.data
        assert verified == [blob.digest]
