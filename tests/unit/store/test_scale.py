import json
import subprocess
import sys
from pathlib import Path

from p2pdist.core.digest import Digest
from p2pdist.core.metainfo import Metainfo
from p2pdist.core.pieces import PieceLayout
from p2pdist.store import BlobStore

BLOBS = 2000
MEASURE = """
import json, sys, time
from pathlib import Path
from p2pdist.store import BlobStore

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

before, start = resident(), time.perf_counter()
store = BlobStore.open(Path(sys.argv[1]))
seconds = time.perf_counter() - start
held = sum(1 for _ in store.digests())
print(json.dumps({"seconds": seconds, "bytes": resident() - before, "blobs": held}))
store.close()
"""


def test_two_thousand_blobs_open_quickly_and_stay_small(root: Path, figure: object) -> None:
    layout = PieceLayout(50 * 32 * 1024, 32 * 1024)
    with BlobStore.open(root) as store:
        for number in range(BLOBS):
            digest = Digest("sha256", f"{number:064x}")
            partial = store.begin(digest, layout, metainfo=Metainfo(digest, layout, (bytes(32),) * layout.count))
            for index in range(layout.count):
                partial.mark_piece(index)
            partial.commit(digest)
    run = subprocess.run([sys.executable, "-c", MEASURE, root], capture_output=True, check=True, timeout=60)
    found = json.loads(run.stdout)
    assert found["blobs"] == BLOBS
    assert callable(figure)
    figure("opening 2,000 blobs", found["seconds"], "s", at_most=1.0)
    figure("memory of 2,000 blobs", found["bytes"] / 2**20, "MiB", at_most=8)
