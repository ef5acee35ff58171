"""Blobs pulled from agents that hold them, by real sessions on loopback."""

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from p2pdist.core.errors import StoreError
from p2pdist.core.pieces import BLOCK_BYTES, MIN_PIECE_BYTES, PieceLayout
from p2pdist.swarm import DiskBackend, PieceRejected, SeedFailed, SwarmError, SwarmStorageError
from tests.swarm.blobs import Blob, FilePartial
from tests.swarm.conftest import OpenSwarm, events_so_far, eventually, until, within

MIB = 1024 * 1024
SIZES = [
    1,
    BLOCK_BYTES - 1,
    BLOCK_BYTES,
    BLOCK_BYTES + 1,
    MIN_PIECE_BYTES,
    MIN_PIECE_BYTES + 1,
    3 * MIN_PIECE_BYTES + BLOCK_BYTES + 1,
    2 * MIB + 12345,
]


@pytest.mark.parametrize("size_bytes", SIZES)
async def test_one_holder_to_one_puller(
    open_swarm: OpenSwarm, disk: DiskBackend, tmp_path: Path, size_bytes: int
) -> None:
    blob = Blob.of_size(size_bytes)
    partial = blob.partial_in(tmp_path / "puller")
    async with open_swarm(disk=disk) as holder, open_swarm(disk=disk) as puller:
        await holder.seed(blob.whole_in(tmp_path / "holder"), blob.metainfo)
        with within(20):
            async with puller.pull(partial, blob.metainfo, holder.addresses) as pull:
                await pull.wait_finished()
        assert pull.finished
        assert partial.path.read_bytes() == blob.data
        assert sorted(partial.marked) == list(range(blob.layout.count))
        assert pull.received_bytes == size_bytes
        assert puller.loaded == [blob.digest]
        assert (await puller.stats()).redundant_bytes == 0


async def test_an_empty_blob_needs_no_peer(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    blob = Blob.of_size(0)
    async with open_swarm() as swarm:
        await swarm.seed(blob.whole_in(tmp_path / "holder"), blob.metainfo)
        async with swarm.pull(blob.partial_in(tmp_path / "puller"), blob.metainfo) as pull:
            await pull.wait_finished()
            assert (await pull.stats()).downloaded_bytes == 0
        assert not swarm.loaded


async def test_a_blob_of_which_nothing_is_missing_needs_no_peer(
    open_swarm: OpenSwarm, disk: DiskBackend, tmp_path: Path
) -> None:
    blob = Blob.of_size(MIB + 1)
    partial = blob.partial_in(tmp_path / "puller", range(blob.layout.count))
    async with open_swarm(disk=disk) as swarm:
        with within(10):
            async with swarm.pull(partial, blob.metainfo) as pull:
                await pull.wait_finished()
        assert partial.marked == []
        assert swarm.loaded == [blob.digest]


async def test_two_holders_to_two_pullers(open_swarm: OpenSwarm, disk: DiskBackend, tmp_path: Path) -> None:
    blob = Blob.of_size(8 * MIB + 1)
    partials = [blob.partial_in(tmp_path / name) for name in ("c", "d")]
    async with (
        open_swarm(disk=disk) as a,
        open_swarm(disk=disk) as b,
        open_swarm(disk=disk) as c,
        open_swarm(disk=disk) as d,
    ):
        for holder, name in ((a, "a"), (b, "b")):
            await holder.seed(blob.whole_in(tmp_path / name), blob.metainfo)
        neighbours = [*a.addresses, *b.addresses, *c.addresses, *d.addresses]
        async with (
            c.pull(partials[0], blob.metainfo, neighbours) as first,
            d.pull(partials[1], blob.metainfo, neighbours) as second,
        ):
            with within(30):
                await first.wait_finished()
                await second.wait_finished()
        for partial, swarm in zip(partials, (c, d), strict=True):
            assert partial.path.read_bytes() == blob.data
            assert (await swarm.stats()).redundant_bytes <= 0.05 * len(blob.data)


async def test_only_what_is_missing_is_downloaded(open_swarm: OpenSwarm, disk: DiskBackend, tmp_path: Path) -> None:
    blob = Blob.of_size(4 * MIB + 5)
    present = range(0, blob.layout.count, 2)
    missing_bytes = sum(map(blob.layout.length, set(range(blob.layout.count)) - set(present)))
    partial = blob.partial_in(tmp_path / "puller", present)
    async with open_swarm(disk=disk) as holder, open_swarm(disk=disk) as puller:
        await holder.seed(blob.whole_in(tmp_path / "holder"), blob.metainfo)
        async with puller.pull(partial, blob.metainfo, holder.addresses) as pull:
            with within(20):
                await pull.wait_finished()
        assert partial.path.read_bytes() == blob.data
        assert pull.received_bytes == missing_bytes
        assert (await puller.stats()).downloaded_bytes == missing_bytes
        assert not set(partial.marked) & set(present)


async def test_pieces_that_are_claimed_are_not_read(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    blob = Blob.of_size(MIB)
    partial = blob.partial_in(tmp_path / "puller")
    partial.pieces.add(3)
    async with open_swarm() as holder, open_swarm() as puller:
        await holder.seed(blob.whole_in(tmp_path / "holder"), blob.metainfo)
        async with puller.pull(partial, blob.metainfo, holder.addresses) as pull:
            with within(20):
                await pull.wait_finished()
    assert pull.received_bytes == MIB - MIN_PIECE_BYTES
    assert partial.path.read_bytes()[3 * MIN_PIECE_BYTES :][:MIN_PIECE_BYTES] == bytes(MIN_PIECE_BYTES)


async def test_a_finished_pull_seeds_on(open_swarm: OpenSwarm, disk: DiskBackend, tmp_path: Path) -> None:
    blob = Blob.of_size(MIB)
    async with open_swarm(disk=disk) as second, open_swarm(disk=disk) as third:
        async with open_swarm(disk=disk) as first:
            await first.seed(blob.whole_in(tmp_path / "first"), blob.metainfo)
            with within(20):
                async with second.pull(blob.partial_in(tmp_path / "second"), blob.metainfo, first.addresses) as pull:
                    await pull.wait_finished()
        partial = blob.partial_in(tmp_path / "third")
        with within(20):
            async with third.pull(partial, blob.metainfo, second.addresses) as pull:
                await pull.wait_finished()
        assert partial.path.read_bytes() == blob.data

        async def uploaded() -> int:
            return (await second.stats()).uploaded_bytes

        await eventually(uploaded, MIB)


async def test_peers_can_come_later(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    blob = Blob.of_size(MIB)
    async with open_swarm() as holder, open_swarm() as puller:
        await holder.seed(blob.whole_in(tmp_path / "holder"), blob.metainfo)
        assert not puller.add_peers(blob.digest, holder.addresses)
        async with puller.pull(blob.partial_in(tmp_path / "puller"), blob.metainfo) as pull:
            assert not pull.peers
            assert puller.add_peers(blob.digest, holder.addresses)
            with within(20):
                await pull.wait_finished()


async def test_a_holder_can_be_the_one_who_connects(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    blob = Blob.of_size(MIB)
    async with open_swarm() as holder, open_swarm() as puller:
        await holder.seed(blob.whole_in(tmp_path / "holder"), blob.metainfo)
        async with puller.pull(blob.partial_in(tmp_path / "puller"), blob.metainfo) as pull:
            holder.add_peers(blob.digest, puller.addresses)
            with within(20):
                await pull.wait_finished()


async def test_the_window_comes_first(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    """How far from its place in the file a piece arrives: a third of the blob at random, less within the window."""
    blob = Blob.of_size(6 * MIB)
    count = blob.layout.count
    displacement = {}
    async with open_swarm() as holder, open_swarm() as puller:
        await holder.seed(blob.whole_in(tmp_path / "holder"), blob.metainfo)
        for window_pieces in (0, count // 6):
            partial = blob.partial_in(tmp_path / "puller")
            async with puller.pull(partial, blob.metainfo, holder.addresses, window_pieces=window_pieces) as pull:
                with within(20):
                    await pull.wait_finished()
            await puller.unload(blob.digest)
            displacement[window_pieces] = sum(abs(index - place) for place, index in enumerate(partial.marked)) / count
    assert displacement[0] > 0.25 * count
    assert displacement[count // 6] < 0.15 * count


async def test_a_cancelled_pull_leaves_what_it_had_and_can_be_resumed(
    open_swarm: OpenSwarm, disk: DiskBackend, tmp_path: Path
) -> None:
    blob = Blob.of_size(4 * MIB)
    partial = blob.partial_in(tmp_path / "puller")
    async with (
        open_swarm(disk=disk, upload_limit_bps=16 * MIB) as slow,
        open_swarm(disk=disk) as fast,
        open_swarm(disk=disk) as puller,
    ):
        await slow.seed(blob.whole_in(tmp_path / "slow"), blob.metainfo)
        await fast.seed(blob.whole_in(tmp_path / "fast"), blob.metainfo)
        with trio.CancelScope() as scope:
            async with puller.pull(partial, blob.metainfo, slow.addresses) as pull:
                await until(lambda: len(partial.marked) >= 10)
                scope.cancel()
                await pull.wait_finished()
        assert scope.cancelled_caught
        assert not puller.loaded
        had = list(partial.marked)
        assert len(had) < blob.layout.count
        async with puller.pull(partial, blob.metainfo, fast.addresses) as pull:
            with within(20):
                await pull.wait_finished()
        assert partial.path.read_bytes() == blob.data
        assert sorted(partial.marked) == list(range(blob.layout.count))
        assert pull.received_bytes == 4 * MIB - len(had) * MIN_PIECE_BYTES


async def test_peers_on_loopback_obey_the_limits(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    blob = Blob.of_size(MIB)
    async with open_swarm(upload_limit_bps=4 * MIB) as holder, open_swarm() as puller:
        await holder.seed(blob.whole_in(tmp_path / "holder"), blob.metainfo)
        began = trio.current_time()
        async with puller.pull(blob.partial_in(tmp_path / "puller"), blob.metainfo, holder.addresses) as pull:
            with within(20):
                await pull.wait_finished()
        assert trio.current_time() - began > 1.0


async def test_a_liar_is_found_out_and_its_piece_fetched_elsewhere(
    open_swarm: OpenSwarm, disk: DiskBackend, tmp_path: Path
) -> None:
    blob = Blob.of_size(MIB)
    partial = blob.partial_in(tmp_path / "puller")
    async with (
        open_swarm(disk=disk) as honest,
        open_swarm(disk=disk) as liar,
        open_swarm(disk=disk) as puller,
    ):
        await honest.seed(blob.whole_in(tmp_path / "honest"), blob.metainfo)
        bad = blob.partial_in(tmp_path / "liar")
        async with liar.pull(bad, blob.metainfo, honest.addresses) as pull:
            with within(20):
                await pull.wait_finished()
        # It checked each piece when it arrived and doesn't again.
        with bad.path.open("r+b") as file:
            file.write(bytes(MIB))
        async with puller.pull(partial, blob.metainfo, liar.addresses) as pull:
            with within(20):
                rejected = await puller.events.receive()
            assert isinstance(rejected, PieceRejected)
            assert rejected.digest == blob.digest
            assert not partial.marked
            puller.add_peers(blob.digest, honest.addresses)
            with within(30):
                await pull.wait_finished()

            async def has_failed() -> bool:
                return (await pull.stats()).failed_bytes > 0

            await eventually(has_failed, True)
        assert partial.path.read_bytes() == blob.data


async def test_a_holder_notices_that_its_file_has_changed(
    open_swarm: OpenSwarm, disk: DiskBackend, tmp_path: Path
) -> None:
    blob = Blob.of_size(MIB)
    partial = blob.partial_in(tmp_path / "puller")
    async with (
        open_swarm(disk=disk) as bad,
        open_swarm(disk=disk) as good,
        open_swarm(disk=disk) as puller,
    ):
        damaged = blob.whole_in(tmp_path / "bad")
        damaged.write_bytes(bytes(MIB))
        await bad.seed(damaged, blob.metainfo)
        async with puller.pull(partial, blob.metainfo, bad.addresses) as pull:
            with within(20):
                failed = await bad.events.receive()
            assert isinstance(failed, SeedFailed)
            assert failed.digest == blob.digest
            assert not partial.marked
            await good.seed(blob.whole_in(tmp_path / "good"), blob.metainfo)
            puller.add_peers(blob.digest, good.addresses)
            with within(20):
                await pull.wait_finished()
        await until(lambda: not bad.loaded)
        assert damaged.read_bytes() == bytes(MIB)
        assert events_so_far(bad) == []


async def test_one_pull_of_a_blob_at_a_time(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    blob = Blob.of_size(MIB)
    partial = blob.partial_in(tmp_path / "puller")
    async with open_swarm() as swarm:
        async with swarm.pull(partial, blob.metainfo):
            with pytest.raises(SwarmError, match="being pulled"):
                async with swarm.pull(partial, blob.metainfo):
                    pass
            with pytest.raises(SwarmError, match="being pulled"):
                await swarm.unload(blob.digest)
            assert swarm.loaded == [blob.digest]
        assert not swarm.loaded


async def test_the_metainfo_must_fit_the_blob(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    blob = Blob.of_size(MIB)
    others = [Blob.of_size(MIB, 1).metainfo, replace(blob.metainfo, layout=PieceLayout(MIB - 1, MIN_PIECE_BYTES))]
    async with open_swarm() as swarm:
        for metainfo in others:
            with pytest.raises(SwarmError, match="doesn't fit sha256:"):
                async with swarm.pull(blob.partial_in(tmp_path / "puller"), metainfo):
                    pass


async def test_a_pull_whose_block_raises_does_not_seed(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    blob = Blob.of_size(MIB)
    partial = blob.partial_in(tmp_path / "puller", range(blob.layout.count))
    async with open_swarm() as swarm:
        with contextlib.suppress(KeyError):
            async with swarm.pull(partial, blob.metainfo) as pull:
                await pull.wait_finished()
                assert swarm.loaded
                raise KeyError
        assert not swarm.loaded


async def test_a_missing_file_is_an_error_and_not_a_check(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    blob = Blob.of_size(MIB)
    partial = blob.partial_in(tmp_path / "puller", [0])
    partial.path.unlink()
    async with open_swarm() as swarm:
        with pytest.raises(SwarmStorageError, match="No such file"):
            async with swarm.pull(partial, blob.metainfo):
                pass
        assert not swarm.loaded


async def test_a_file_under_another_name_is_refused(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    blob = Blob.of_size(MIB)
    partial = blob.partial_in(tmp_path / "puller")
    partial.path = partial.path.rename(tmp_path / "puller" / "blob")
    async with open_swarm() as swarm:
        with pytest.raises(SwarmStorageError, match="it would be named sha256-"):
            async with swarm.pull(partial, blob.metainfo):
                pass


async def test_a_full_disk_ends_the_pull(open_swarm: OpenSwarm, disk: DiskBackend, tmp_path: Path) -> None:
    blob = Blob.of_size(MIB)
    partial = blob.partial_in(tmp_path / "puller")
    partial.path.unlink()
    partial.path.symlink_to("/dev/full")
    async with open_swarm(disk=disk) as holder, open_swarm(disk=disk) as puller:
        await holder.seed(blob.whole_in(tmp_path / "holder"), blob.metainfo)
        async with puller.pull(partial, blob.metainfo, holder.addresses) as pull:
            with within(20), pytest.raises(SwarmStorageError, match=r"No space left|Invalid argument"):
                await pull.wait_finished()
        assert not puller.loaded


async def test_a_store_that_refuses_a_piece_ends_the_pull(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    class Discarded(FilePartial):
        def mark_piece(self, index: int) -> bool:
            raise StoreError("the blob was given up")

    blob = Blob.of_size(MIB)
    partial = blob.partial_in(tmp_path / "puller")
    refusing = Discarded(partial.metainfo, partial.path, partial.pieces)
    async with open_swarm() as holder, open_swarm() as puller:
        await holder.seed(blob.whole_in(tmp_path / "holder"), blob.metainfo)
        async with puller.pull(refusing, blob.metainfo, holder.addresses) as pull:
            with within(20), pytest.raises(StoreError, match="given up"):
                await pull.wait_finished()
        assert not pull.finished
        assert not puller.loaded


async def test_it_can_be_told_who_gave_how_much(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    blob = Blob.of_size(16 * MIB)
    partial = blob.partial_in(tmp_path / "puller")
    async with open_swarm() as first, open_swarm() as second, open_swarm() as puller:
        for name, holder in (("first", first), ("second", second)):
            await holder.seed(blob.whole_in(tmp_path / name), blob.metainfo)
        peers = [*first.addresses, *second.addresses]
        with within(20):
            async with puller.pull(partial, blob.metainfo, peers) as pull:
                await until(lambda: sum(pull.peer_bytes.values()) > 0)
                await pull.wait_finished()
        assert set(pull.peer_bytes) <= set(peers)
        assert 0 < sum(pull.peer_bytes.values()) <= pull.received_bytes
