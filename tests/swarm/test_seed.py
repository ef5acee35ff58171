"""Which torrents are loaded, and what loading one costs."""

from pathlib import Path

import pytest
import trio

from p2pdist.core.digest import Digest
from p2pdist.swarm import SwarmStorageError
from tests.swarm.blobs import Blob
from tests.swarm.conftest import OpenSwarm, events_so_far, eventually, until, within

KIB = 1024


async def test_a_restarted_holder_serves_without_having_read(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    """A check would find a file of zeroes wrong; loading doesn't, and the peer that asks still gets no wrong byte."""
    blob = Blob.of_size(300 * KIB)
    path = blob.whole_in(tmp_path / "holder")
    async with open_swarm() as holder:
        await holder.seed(path, blob.metainfo)
    path.write_bytes(bytes(300 * KIB))
    async with open_swarm() as holder, open_swarm() as puller:
        await holder.seed(path, blob.metainfo)
        assert holder.loaded == [blob.digest]
        assert events_so_far(holder) == []
        partial = blob.partial_in(tmp_path / "puller")
        async with puller.pull(partial, blob.metainfo, holder.addresses):
            with within(10):
                await holder.events.receive()
        assert partial.marked == []
        assert (await puller.stats()).downloaded_bytes == 0


async def test_a_restarted_holder_serves_what_it_pulled(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    blob = Blob.of_size(300 * KIB)
    held = blob.partial_in(tmp_path / "second")
    async with open_swarm() as first, open_swarm() as second:
        await first.seed(blob.whole_in(tmp_path / "first"), blob.metainfo)
        async with second.pull(held, blob.metainfo, first.addresses) as pull:
            with within(10):
                await pull.wait_finished()
    partial = blob.partial_in(tmp_path / "third")
    async with open_swarm() as second, open_swarm() as third:
        await second.seed(held.path, blob.metainfo)
        async with third.pull(partial, blob.metainfo, second.addresses) as pull:
            with within(10):
                await pull.wait_finished()
    assert partial.path.read_bytes() == blob.data


async def test_seeding_needs_a_file_of_the_right_size(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    blob = Blob.of_size(40 * KIB)
    path = blob.whole_in(tmp_path / "holder")
    async with open_swarm() as swarm:
        path.write_bytes(blob.data[:-1])
        with pytest.raises(SwarmStorageError, match="40959 bytes, its metainfo says 40960"):
            await swarm.seed(path, blob.metainfo)
        path.unlink()
        with pytest.raises(SwarmStorageError, match="No such file"):
            await swarm.seed(path, blob.metainfo)
        assert not swarm.loaded


async def test_idle_seeds_are_bounded_and_the_last_used_stay(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    blobs = [Blob.of_size(40 * KIB, number) for number in range(4)]
    a, b, c, d = (blob.digest for blob in blobs)
    paths = [blob.whole_in(tmp_path / "holder") for blob in blobs]
    async with open_swarm(max_idle_seeds=2) as swarm:
        for number in (0, 1, 0, 2):
            await swarm.seed(paths[number], blobs[number].metainfo)
        await until(lambda: set(swarm.loaded) == {a, c})
        await swarm.seed(paths[3], blobs[3].metainfo)
        await until(lambda: set(swarm.loaded) == {c, d})
        await swarm.unload(d)
        await swarm.unload(b)
        assert swarm.loaded == [c]
        await swarm.seed(paths[3], blobs[3].metainfo)
        assert set(swarm.loaded) == {c, d}


async def test_a_seed_with_a_peer_isnt_idle(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    busy, idle = Blob.of_size(800 * KIB), [Blob.of_size(40 * KIB, number) for number in range(2)]
    async with (
        open_swarm(max_idle_seeds=1, upload_limit_bps=800 * KIB) as holder,
        open_swarm() as puller,
    ):
        await holder.seed(busy.whole_in(tmp_path / "holder"), busy.metainfo)
        partial = busy.partial_in(tmp_path / "puller")
        async with puller.pull(partial, busy.metainfo, holder.addresses):
            await until(lambda: bool(partial.marked))
            for blob in idle:
                await holder.seed(blob.whole_in(tmp_path / "holder"), blob.metainfo)
            await until(lambda: idle[0].digest not in holder.loaded)
            assert set(holder.loaded) == {busy.digest, idle[1].digest}
        # Its peer gone, it is the last used.
        await until(lambda: holder.loaded == [busy.digest])


async def test_simultaneous_calls_load_once(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    blob = Blob.of_size(40 * KIB)
    path = blob.whole_in(tmp_path / "holder")
    async with open_swarm() as swarm:
        for _ in range(20):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(swarm.seed, path, blob.metainfo)
            assert swarm.loaded == [blob.digest]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(swarm.unload, blob.digest)
                # The torrent is on its way out when the others ask for it.
                await trio.lowlevel.checkpoint()
                for _ in range(3):
                    nursery.start_soon(swarm.seed, path, blob.metainfo)
            assert swarm.loaded == [blob.digest]
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(swarm.unload, blob.digest)
            assert not swarm.loaded


async def test_loading_can_be_cancelled_at_any_point(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    blob = Blob.of_size(40 * KIB)
    path = blob.whole_in(tmp_path / "holder")

    async def seed_until_cancelled(scope: trio.CancelScope) -> None:
        with scope:
            await swarm.seed(path, blob.metainfo)

    async with open_swarm() as swarm:
        for checkpoints in range(12):
            scope = trio.CancelScope()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(seed_until_cancelled, scope)
                for _ in range(checkpoints):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
            assert swarm.loaded == ([] if scope.cancelled_caught else [blob.digest])
            await swarm.unload(blob.digest)
            assert not swarm.loaded
        await swarm.seed(path, blob.metainfo)
        assert swarm.loaded == [blob.digest]


async def test_figures_are_kept_by_torrent_and_in_all(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    blobs = [Blob.of_size(size) for size in (200 * KIB, 300 * KIB)]
    async with open_swarm() as holder, open_swarm() as puller:
        for blob in blobs:
            await holder.seed(blob.whole_in(tmp_path / "holder"), blob.metainfo)
            async with puller.pull(blob.partial_in(tmp_path / "puller"), blob.metainfo, holder.addresses) as pull:
                with within(10):
                    await pull.wait_finished()
        sizes = {blob.digest: len(blob.data) for blob in blobs}

        async def downloaded() -> dict[Digest, int]:
            return {digest: stats.downloaded_bytes for digest, stats in (await puller.torrent_stats()).items()}

        async def uploaded() -> int:
            return (await holder.stats()).uploaded_bytes

        await eventually(downloaded, sizes)
        await eventually(uploaded, 500 * KIB)
        assert (await puller.stats()).downloaded_bytes == 500 * KIB
        assert (await holder.stats()).downloaded_bytes == 0
        await puller.unload(blobs[0].digest)
        assert set(await puller.torrent_stats()) == {blobs[1].digest}
        assert (await puller.stats()).downloaded_bytes == 500 * KIB


async def test_a_swarm_ends_at_once_whatever_it_was_doing(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    blobs = [Blob.of_size(40 * KIB, number) for number in range(20)]
    pulled = Blob.of_size(800 * KIB)
    began = trio.current_time()
    with trio.CancelScope() as scope:
        async with (
            open_swarm(max_idle_seeds=0) as swarm,
            swarm.pull(pulled.partial_in(tmp_path / "puller"), pulled.metainfo) as pull,
        ):
            for blob in blobs:
                await swarm.seed(blob.whole_in(tmp_path / "holder"), blob.metainfo)
            scope.cancel()
            await pull.wait_finished()
    assert scope.cancelled_caught
    async with open_swarm(max_idle_seeds=0) as swarm:
        for blob in blobs:
            await swarm.seed(blob.whole_in(tmp_path / "holder"), blob.metainfo)
    assert trio.current_time() - began < 5


async def test_queues_follow_the_link(open_swarm: OpenSwarm) -> None:
    async with open_swarm() as swarm:
        swarm.set_link_rate(1_000_000_000)
        settings = await trio.to_thread.run_sync(swarm._session._session.get_settings)
        assert settings["send_buffer_watermark"] == 1_250_000
