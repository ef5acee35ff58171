"""Rescues against a registry that misbehaves by script, into a real store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pdist.agent.rescue import Source, gaps, rescue
from p2pdist.core.errors import BlobUnknown, P2PDistError, ProtocolError
from p2pdist.core.pieces import PieceLayout, PieceSet
from p2pdist.oci.origin import OriginClient, Upstream
from p2pdist.store import BlobStore, PartialBlob
from tests.fakes.origin_server import OriginServer, Reply, cut, oci_error

from .bench import PIECE_BYTES, Blob

REPOSITORY = "library/app"
FAR = 256 * 1024 // PIECE_BYTES + 1


class Bench:
    def __init__(self, store: BlobStore, origin: OriginServer) -> None:
        self.store, self.origin = store, origin
        self.partial: PartialBlob | None = None
        self.counted = 0
        self.private = 0

    def have(self, blob: Blob, indices: range) -> PartialBlob:
        self.partial = self.store.begin(blob.digest, blob.layout)
        for index in indices:
            self.partial.write_piece(index, blob.piece(index))
        return self.partial

    async def rescue(self, blob: Blob) -> None:
        def begin(size_bytes: int) -> None:
            self.partial = self.store.begin(blob.digest, PieceLayout(size_bytes, PIECE_BYTES))

        def count(size_bytes: int) -> None:
            self.counted += size_bytes

        def on_private() -> None:
            self.private += 1

        with OriginClient(Upstream("registry.example", self.origin.url), max_wait_seconds=0.1) as client:
            source = Source(client, REPOSITORY, blob.digest, count, on_private)
            await rescue(source, lambda: self.partial, begin)

    def ranges(self, blob: Blob) -> list[str]:
        return [seen.headers.get("range", "") for seen in self.origin.seen(path_of(blob))]


def path_of(blob: Blob) -> str:
    return f"/v2/{REPOSITORY}/blobs/{blob.digest}"


@pytest.fixture
def bench(root: Path) -> Iterator[Bench]:
    with BlobStore.open(root) as store, OriginServer() as origin:
        yield Bench(store, origin)


async def test_a_whole_blob_in_one_request(bench: Bench) -> None:
    blob = Blob(3 * PIECE_BYTES + 1)
    bench.origin.put_blob(REPOSITORY, blob.data)
    await bench.rescue(blob)
    assert bench.partial is not None
    bench.partial.commit()
    assert (bench.ranges(blob), bench.counted, bench.private) == ([""], len(blob.data), 0)


@pytest.mark.parametrize("size_bytes", [0, 1])
async def test_tiny_blobs(bench: Bench, size_bytes: int) -> None:
    blob = Blob(size_bytes)
    bench.origin.put_blob(REPOSITORY, blob.data)
    await bench.rescue(blob)
    assert bench.partial is not None
    bench.partial.commit()


async def test_only_what_is_missing_is_fetched(bench: Bench) -> None:
    blob = Blob((3 * FAR + 2) * PIECE_BYTES + 9)
    bench.origin.put_blob(REPOSITORY, blob.data)
    partial = bench.have(blob, range(2, FAR + 2))
    for index in range(FAR + 4, 3 * FAR + 2):
        partial.write_piece(index, blob.piece(index))
    await bench.rescue(blob)
    partial.commit()
    first, second, third = bench.ranges(blob)
    assert first == f"bytes=0-{2 * PIECE_BYTES - 1}"
    assert second == f"bytes={(FAR + 2) * PIECE_BYTES}-{(FAR + 4) * PIECE_BYTES - 1}"
    assert third == f"bytes={(3 * FAR + 2) * PIECE_BYTES}-{len(blob.data) - 1}"
    assert bench.counted == 4 * PIECE_BYTES + 9


def test_gaps_close_to_each_other_are_one_request_and_others_may_fill_them_meanwhile() -> None:
    pieces = PieceSet(40, [1, 3, 10, *range(12, 30)])
    found = gaps(lambda: pieces, 4)
    assert next(found) == (0, 11)
    for index in range(40):
        if index != 35:
            pieces.add(index)
    assert [*found] == [(35, 35)]
    assert [*gaps(lambda: PieceSet(0), 4)] == []


async def test_a_body_that_is_cut_is_gone_on_with(bench: Bench) -> None:
    blob = Blob(10 * PIECE_BYTES)
    bench.origin.put_blob(REPOSITORY, blob.data)
    bench.origin.script(path_of(blob), cut(4 * PIECE_BYTES + 7))
    partial = bench.have(blob, range(1))
    await bench.rescue(blob)
    partial.commit()
    assert bench.ranges(blob) == [
        f"bytes={PIECE_BYTES}-{len(blob.data) - 1}",
        f"bytes={5 * PIECE_BYTES + 7}-{len(blob.data) - 1}",
    ]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, {}, bytes(5 * PIECE_BYTES)),
        Reply(200, {}, bytes(3 * PIECE_BYTES)),
        Reply(206, {"Content-Range": f"bytes {PIECE_BYTES}-{5 * PIECE_BYTES - 1}/{5 * PIECE_BYTES}"}, bytes(10)),
        Reply(206, {"Content-Range": "nonsense"}, bytes(10)),
    ],
)
async def test_another_size_is_refused(bench: Bench, reply: Reply) -> None:
    blob = Blob(4 * PIECE_BYTES)
    bench.origin.put(path_of(blob), reply)
    partial = bench.have(blob, range(1))
    with pytest.raises(ProtocolError):
        await bench.rescue(blob)
    assert [*partial.pieces] == [0]


async def test_too_much_is_refused(bench: Bench) -> None:
    blob = Blob(2 * PIECE_BYTES)
    headers = {"Content-Range": f"bytes {PIECE_BYTES}-{2 * PIECE_BYTES - 1}/{2 * PIECE_BYTES}"}
    bench.origin.put(path_of(blob), Reply(206, headers, bytes(2 * PIECE_BYTES)))
    bench.have(blob, range(1))
    with pytest.raises(P2PDistError):
        await bench.rescue(blob)


async def test_what_the_origin_does_not_have(bench: Bench) -> None:
    blob = Blob(5)
    bench.origin.put(path_of(blob), oci_error(404, "BLOB_UNKNOWN"))
    with pytest.raises(BlobUnknown):
        await bench.rescue(blob)
    assert bench.partial is None
