import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.core.digest import Digest
from p2pdist.core.errors import DigestInvalid, InvalidInput
from p2pdist.core.metainfo import file_name
from p2pdist.core.pieces import PieceLayout
from p2pdist.store import BlobDiscarded, BlobStore, PiecesMissing
from p2pdist.store.files import SharedFile
from p2pdist.store.partial import PartialBlob

from .samples import PIECE, content, layout_of, piece, put, read, write_all

DATA = content(1, 5 * PIECE + 1000)
DIGEST = Digest.of(DATA)


def begin(store: BlobStore, data: bytes = DATA) -> PartialBlob:
    return store.begin(Digest.of(data), layout_of(data))


def test_it_is_a_sparse_file_of_full_size_at_its_final_place(store: BlobStore) -> None:
    partial = begin(store, content(2, 64 * PIECE))
    assert partial.path == store.save_path / file_name(partial.digest)
    status = partial.path.stat()
    assert (status.st_size, status.st_blocks) == (64 * PIECE, 0)
    assert os.fstat(partial.fd).st_ino == status.st_ino


def test_it_stays_the_same_file_when_it_is_committed(store: BlobStore) -> None:
    partial = begin(store)
    inode = partial.path.stat().st_ino
    with partial.held() as fd:
        write_all(partial, DATA)
        partial.commit()
        assert os.pread(fd, len(DATA), 0) == DATA
        with store.committed(DIGEST) as blob:
            assert blob.path == partial.path
            assert os.fstat(blob.fd).st_ino == inode


def test_progress_as_pieces_come_in_any_order(store: BlobStore) -> None:
    partial = begin(store)
    assert (partial.contiguous_bytes, partial.present_bytes, partial.complete) == (0, 0, False)
    assert partial.write_piece(2, piece(DATA, 2))
    assert not partial.write_piece(2, piece(DATA, 2))
    assert (partial.contiguous_bytes, partial.present_bytes) == (0, PIECE)
    assert partial.available_from(2 * PIECE + 5) == 3 * PIECE
    assert partial.available_from(5) == 5
    assert partial.write_piece(5, piece(DATA, 5))
    assert partial.present_bytes == PIECE + 1000
    assert partial.write_piece(0, piece(DATA, 0))
    assert partial.contiguous_bytes == PIECE
    assert partial.write_piece(1, piece(DATA, 1))
    assert partial.contiguous_bytes == partial.available_from(0) == 3 * PIECE
    assert partial.pieces.missing() == [3, 4]
    assert partial.has(2)
    assert not partial.has(3)
    assert partial.write_piece(3, memoryview(piece(DATA, 3)))
    assert partial.write_piece(4, bytearray(piece(DATA, 4)))
    assert partial.complete
    assert partial.contiguous_bytes == partial.available_from(17) == partial.present_bytes == len(DATA)


def test_offsets_at_and_behind_the_end_have_nothing(store: BlobStore) -> None:
    partial = begin(store)
    write_all(partial, DATA)
    assert partial.available_from(len(DATA)) == len(DATA)
    assert partial.available_from(len(DATA) + 7) == len(DATA) + 7
    with pytest.raises(InvalidInput, match="below zero"):
        partial.available_from(-1)


@given(st.sets(st.integers(0, 9)), st.integers(0, 10 * PIECE))
def test_available_from_is_the_end_of_the_run(present: set[int], offset: int) -> None:
    layout = PieceLayout(9 * PIECE + 5, PIECE)
    file = SharedFile(os.open(os.devnull, os.O_RDWR), os.devnull)  # type: ignore[arg-type]
    partial = PartialBlob(DIGEST, layout, file, keep=lambda _: None, drop=lambda _: True)
    for index in present:
        partial.mark_piece(index)
    there = [byte // PIECE in present for byte in range(layout.size_bytes)]
    end = offset
    while end < layout.size_bytes and there[end]:
        end += 1
    assert partial.available_from(offset) == end
    assert partial.present_bytes == sum(there)
    partial.discard()


def test_the_copy_of_the_pieces_is_a_copy(store: BlobStore) -> None:
    partial = begin(store)
    before = partial.pieces
    partial.write_piece(0, piece(DATA, 0))
    assert 0 not in before
    partial.pieces.add(1)
    assert not partial.has(1)


@pytest.mark.parametrize(("index", "size"), [(6, PIECE), (-1, PIECE), (0, PIECE - 1), (5, PIECE), (5, 0)])
def test_a_piece_that_cannot_be_one_is_refused(store: BlobStore, index: int, size: int) -> None:
    partial = begin(store)
    with pytest.raises(InvalidInput, match="piece"):
        partial.write_piece(index, bytes(size))
    assert partial.present_bytes == 0


def test_marking_a_piece_that_does_not_exist_is_refused(store: BlobStore) -> None:
    with pytest.raises(InvalidInput, match="piece 6 of a blob that has 6"):
        begin(store).mark_piece(6)


def test_libtorrent_writes_by_path_and_we_mark(store: BlobStore) -> None:
    partial = begin(store)
    with partial.path.open("r+b") as other:
        other.write(DATA)
    for index in range(6):
        assert partial.mark_piece(index)
        assert not partial.mark_piece(index)
        assert not partial.write_piece(index, piece(DATA, index))
    partial.commit()
    assert read(store, DIGEST) == DATA


def test_progress_is_told_once_per_piece_and_at_the_end(store: BlobStore) -> None:
    partial = begin(store)
    seen: list[int] = []
    partial.on_progress(lambda: seen.append(partial.contiguous_bytes))
    partial.write_piece(1, piece(DATA, 1))
    partial.write_piece(1, piece(DATA, 1))
    partial.write_piece(0, piece(DATA, 0))
    assert seen == [0, 2 * PIECE]
    write_all(partial, DATA)
    partial.commit()
    assert len(seen) == 7


def test_discarding_is_told(store: BlobStore) -> None:
    partial = begin(store)
    seen: list[bool] = []
    partial.on_progress(lambda: seen.append(partial.discarded))
    partial.discard()
    partial.discard()
    assert seen == [True]


def test_a_listener_may_stop_itself_and_others_still_hear(store: BlobStore) -> None:
    partial = begin(store)
    heard: list[str] = []

    def once() -> None:
        heard.append("once")
        stop()

    def always() -> None:
        heard.append("always")

    stop = partial.on_progress(once)
    partial.on_progress(always)
    also = partial.on_progress(always)
    also()
    partial.write_piece(0, piece(DATA, 0))
    partial.write_piece(1, piece(DATA, 1))
    assert heard == ["once", "always", "always"]


def test_commit_refuses_while_pieces_are_missing_and_can_be_tried_again(store: BlobStore) -> None:
    partial = begin(store)
    for index in (0, 1, 3, 5):
        partial.write_piece(index, piece(DATA, index))
    with pytest.raises(PiecesMissing, match="2 of 6 pieces are missing, the first is 2"):
        partial.commit()
    assert not store.has(DIGEST)
    write_all(partial, DATA)
    partial.commit()
    partial.commit()
    assert partial.committed
    assert read(store, DIGEST) == DATA


def test_a_verified_blob_is_not_held_yet(store: BlobStore) -> None:
    partial = begin(store)
    partial.write_piece(0, piece(DATA, 0))
    with pytest.raises(PiecesMissing):
        partial.verify()
    write_all(partial, DATA)
    assert not partial.verified
    partial.verify()
    partial.verify()
    assert (partial.verified, partial.committed, store.has(DIGEST)) == (True, False, False)
    partial.commit()
    partial.verify()
    assert (partial.verified, partial.committed, store.has(DIGEST)) == (True, True, True)


def test_wrong_bytes_are_never_verified(store: BlobStore) -> None:
    partial = begin(store)
    write_all(partial, DATA[:-1] + b"?")
    for attempt in (partial.verify, partial.verify, partial.commit):
        with pytest.raises(DigestInvalid):
            attempt()
    assert not partial.verified


def test_wrong_bytes_are_never_committed(store: BlobStore) -> None:
    partial = begin(store)
    write_all(partial, DATA[:-1] + b"?")
    for proof in (None, DIGEST):
        with pytest.raises(DigestInvalid, match="have the digest sha256:"):
            partial.commit(proof)
    assert not store.has(DIGEST)
    assert not partial.committed
    partial.discard()
    assert put(store, DATA) == DIGEST


def test_a_writer_that_hashed_everything_proves_it(store: BlobStore) -> None:
    partial = begin(store)
    write_all(partial, DATA)
    partial.commit(Digest.of(DATA))
    assert partial.hash_prefix() == 0
    assert store.has(DIGEST)


def test_a_wrong_proof_refutes_the_blob(store: BlobStore) -> None:
    partial = begin(store)
    write_all(partial, DATA)
    for proof in (Digest.of(b"other"), DIGEST, None):
        with pytest.raises(DigestInvalid):
            partial.commit(proof)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1])
def test_sizes_and_algorithms(store: BlobStore, algorithm: str, size: int) -> None:
    data = content(size, size)
    digest = put(store, data, algorithm)
    assert read(store, digest) == data
    assert list(store.digests()) == [(digest, size)]


def test_an_empty_blob_with_another_digest_is_refused(store: BlobStore) -> None:
    partial = store.begin(DIGEST, PieceLayout(0, PIECE))
    assert partial.complete
    with pytest.raises(DigestInvalid):
        partial.commit()


def test_the_prefix_is_hashed_while_it_grows_and_only_once(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = begin(store)
    hashed: list[tuple[int, int]] = []
    preadv = os.preadv

    def counting(fd: int, buffers: list[memoryview], offset: int) -> int:
        count = preadv(fd, buffers, offset)
        hashed.append((offset, count))
        return count

    monkeypatch.setattr(os, "preadv", counting)
    assert partial.hash_prefix() == 0
    partial.write_piece(0, piece(DATA, 0))
    partial.write_piece(2, piece(DATA, 2))
    assert partial.hash_prefix() == PIECE
    assert partial.hash_prefix() == PIECE
    partial.write_piece(1, piece(DATA, 1))
    partial.write_piece(3, piece(DATA, 3))
    assert partial.hash_prefix() == 4 * PIECE
    write_all(partial, DATA)
    partial.commit()
    assert hashed == [(0, PIECE), (PIECE, 3 * PIECE), (4 * PIECE, PIECE + 1000)]
    assert partial.hash_prefix() == len(DATA)


def test_after_discard_nothing_is_written(store: BlobStore) -> None:
    partial = begin(store)
    partial.write_piece(0, piece(DATA, 0))
    with partial.held():
        partial.discard()
        assert not partial.path.exists()
        with pytest.raises(BlobDiscarded, match="given up"):
            partial.write_piece(1, piece(DATA, 1))
    for attempt in (lambda: partial.write_piece(1, piece(DATA, 1)), partial.commit, partial.hash_prefix):
        with pytest.raises(BlobDiscarded):
            attempt()
    with pytest.raises(BlobDiscarded):
        partial.mark_piece(1)


def test_leaving_the_block_discards_what_was_not_committed(store: BlobStore) -> None:
    with begin(store) as partial:
        partial.write_piece(0, piece(DATA, 0))
    assert partial.discarded
    assert list(store.save_path.iterdir()) == []
    assert store.partial(DIGEST) is None


def test_the_descriptor_closes_with_its_last_holder(store: BlobStore) -> None:
    partial = begin(store)
    fd = partial.fd
    with partial.held():
        partial.discard()
        os.fstat(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_many_threads_write_mark_hash_and_listen(store: BlobStore) -> None:
    data = content(3, 400 * PIECE + 77)
    partial = begin(store, data)
    added = []
    calls: list[int] = []
    partial.on_progress(lambda: calls.append(1))
    stop = threading.Event()

    def write(seed: int) -> int:
        order = list(range(partial.layout.count))
        random.Random(seed).shuffle(order)
        return sum(partial.write_piece(index, piece(data, index)) for index in order)

    def hash_along() -> int:
        hashed = 0
        while not stop.is_set():
            now = partial.hash_prefix()
            assert hashed <= now
            hashed = now
        return hashed

    with ThreadPoolExecutor(6) as pool:
        hashing = pool.submit(hash_along)
        added = list(pool.map(write, range(4)))
        stop.set()
        hashing.result()
    assert sum(added) == len(calls) == partial.layout.count
    partial.commit()
    assert read(store, Digest.of(data)) == data


def test_commit_and_discard_at_once_agree(store: BlobStore) -> None:
    for _ in range(50):
        partial = begin(store)
        write_all(partial, DATA)
        barrier = threading.Barrier(2)

        def commit(partial: PartialBlob = partial, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            try:
                partial.commit()
            except BlobDiscarded:
                return False
            return True

        def discard(partial: PartialBlob = partial, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            partial.discard()

        with ThreadPoolExecutor(2) as pool:
            committed, _ = pool.submit(commit), pool.submit(discard)
        assert committed.result() == partial.committed == store.has(DIGEST) == (not partial.discarded)
        store.remove(DIGEST)
