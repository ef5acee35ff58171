"""Holders in processes of their own, as agents are; and what such a process needs of memory."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2pdist.swarm import Endpoint
from tests.conftest import Figure
from tests.swarm.blobs import Blob
from tests.swarm.conftest import OpenSwarm, within

ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024


@contextmanager
def holder(directory: Path, *sizes: int) -> Iterator[tuple[Endpoint, int]]:
    """A running holder: where it listens, and its resident memory in bytes once everything is loaded."""
    command = [sys.executable, "-m", "tests.swarm.holder", str(directory), *map(str, sizes)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        address, resident = process.stdout.readline().split()
        yield Endpoint.parse(address), int(resident)
        process.stdin.close()
        assert process.wait(timeout=10) == 0


async def test_two_holders_to_two_pullers(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    size = 6 * MIB + 1
    blob = Blob.of_size(size)
    partials = [blob.partial_in(tmp_path / name) for name in ("c", "d")]
    with holder(tmp_path / "a", size) as (a, _), holder(tmp_path / "b", size) as (b, _):
        async with open_swarm() as c, open_swarm() as d:
            neighbours = [a, b, *c.addresses, *d.addresses]
            async with (
                c.pull(partials[0], blob.metainfo, neighbours) as first,
                d.pull(partials[1], blob.metainfo, neighbours) as second,
            ):
                with within(30):
                    await first.wait_finished()
                    await second.wait_finished()
            for swarm in (c, d):
                assert (await swarm.stats()).redundant_bytes <= 0.05 * size
    for partial in partials:
        assert partial.path.read_bytes() == blob.data


async def test_a_holder_that_dies_is_replaced(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    blob = Blob.of_size(4 * MIB)
    partial = blob.partial_in(tmp_path / "puller")
    async with open_swarm(download_limit_bps=32 * MIB) as puller, puller.pull(partial, blob.metainfo) as pull:
        with holder(tmp_path / "a", 4 * MIB) as (a, _):
            puller.add_peers(blob.digest, [a])
            with within(20):
                while not partial.marked:
                    await pull.stats()
        assert not pull.finished
        with holder(tmp_path / "b", 4 * MIB) as (b, _):
            puller.add_peers(blob.digest, [b])
            with within(30):
                await pull.wait_finished()
    assert partial.path.read_bytes() == blob.data


def test_memory(tmp_path: Path, figure: Figure) -> None:
    """Python, trio and libtorrent are the most of it; 300 blobs held cost what the 100 that stay loaded cost."""
    with holder(tmp_path / "idle") as (_, idle), holder(tmp_path / "many", *[40_000] * 300) as (_, many):
        figure("idle swarm, resident", idle / MIB, "MiB", at_most=60)
        figure("100 of 300 seeds loaded, more than idle", (many - idle) / MIB, "MiB", at_most=12)
