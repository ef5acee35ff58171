"""A pull into the real store: commit, serve, evict, all under a swarm that works on the same file."""

import os
from pathlib import Path

import trio

from p2pdist.store import BlobStore
from p2pdist.swarm import DiskBackend, SeedFailed
from tests.swarm.blobs import Blob
from tests.swarm.conftest import OpenSwarm, until, within

MIB = 1024 * 1024


async def test_a_blob_goes_from_store_to_store(open_swarm: OpenSwarm, disk: DiskBackend, tmp_path: Path) -> None:
    blob = Blob.of_size(2 * MIB + 1)
    first_piece = blob.data[: blob.layout.length(0)]
    with BlobStore.open(tmp_path / "store") as store:
        partial = store.begin(blob.digest, blob.layout)
        partial.write_piece(0, first_piece)
        async with open_swarm(disk=disk) as holder, open_swarm(disk=disk) as puller, open_swarm(disk=disk) as later:
            await holder.seed(blob.whole_in(tmp_path / "holder"), blob.metainfo)
            async with puller.pull(partial, blob.metainfo, holder.addresses) as pull:
                with within(20):
                    await pull.wait_finished()
                assert pull.received_bytes == len(blob.data) - len(first_piece)
                await trio.to_thread.run_sync(partial.commit)
            with store.committed(blob.digest) as committed:
                assert os.pread(committed.fd, len(blob.data) + 1, 0) == blob.data
                path = committed.path
            copy = blob.partial_in(tmp_path / "later")
            async with later.pull(copy, blob.metainfo, puller.addresses) as pull:
                with within(20):
                    await pull.wait_finished()
            assert copy.path.read_bytes() == blob.data
            await puller.unload(blob.digest)
            await puller.seed(path, blob.metainfo)


async def test_a_seed_whose_file_is_evicted_is_given_up(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    blob = Blob.of_size(MIB)
    async with open_swarm() as holder, open_swarm() as puller:
        path = blob.whole_in(tmp_path / "holder")
        await holder.seed(path, blob.metainfo)
        path.unlink()
        async with puller.pull(blob.partial_in(tmp_path / "puller"), blob.metainfo, holder.addresses):
            with within(10):
                failed = await holder.events.receive()
            assert isinstance(failed, SeedFailed)
            assert "No such file" in failed.reason
            await until(lambda: not holder.loaded)
