"""A holder in a process of its own: `python -m tests.swarm.holder DIRECTORY SIZE...` prints where it listens.

It seeds a blob of each size, then prints its resident memory in bytes, and stays until its standard input ends.
"""

import re
import sys
from pathlib import Path

import trio

from p2pdist.swarm import Endpoint, Swarm, SwarmSettings
from tests.swarm.blobs import Blob


def resident_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    match = re.search(r"VmRSS:\s*(\d+) kB", status)
    assert match is not None
    return int(match[1]) * 1024


async def main(directory: Path, sizes: list[int]) -> None:
    async with Swarm.open(SwarmSettings(listen=(Endpoint("127.0.0.1", 0),))) as swarm:
        swarm.allow_peers({"127.0.0.1"})
        for number, size_bytes in enumerate(sizes):
            blob = Blob.of_size(size_bytes, number)
            await swarm.seed(blob.whole_in(directory), blob.metainfo)
        print(swarm.addresses[0], resident_bytes(), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), [int(size) for size in sys.argv[2:]])
