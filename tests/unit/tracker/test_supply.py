"""Bytes in, pieces and torrents out: however the bytes are cut."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2pdist.core.digest import Digest
from p2pdist.core.errors import DigestInvalid, ProtocolError
from p2pdist.core.pieces import PieceLayout, piece_hash
from p2pdist.pki.vouch import Signer, Verifier, Vouch
from p2pdist.store import BlobStore
from p2pdist.tracker.supply import STORE_BATCH, Pipeline, context_of, vouched

PIECE = 32768
SIGNER = Signer(Ed25519PrivateKey.generate())
DATA = random.Random(3).randbytes(5 * PIECE + 17)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlobStore]:
    with BlobStore.open(tmp_path) as store:
        yield store


Dealt = list[tuple[int, bytes, bytes]]


def pipeline(
    store: BlobStore, data: bytes, said: Digest | None = None, size: int | None = None
) -> tuple[Pipeline, Dealt]:
    dealt: Dealt = []
    layout = PieceLayout(len(data) if size is None else size, PIECE)
    return Pipeline(store.begin(said or Digest.of(data), layout), 7, SIGNER, dealt.extend), dealt


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, len(DATA)), st.lists(st.integers(1, len(DATA) - 1), max_size=20))
def test_any_cut_gives_the_same_pieces(store: BlobStore, size: int, cuts: list[int]) -> None:
    blob = DATA[:size]
    digest, layout = Digest.of(blob), PieceLayout(size, PIECE)
    one, dealt = pipeline(store, blob)
    ends = sorted({*(cut for cut in cuts if cut < size), size})
    for start, end in zip([0, *ends], ends, strict=False):
        one.feed(memoryview(bytearray(blob))[start:end])
    hashes = [piece_hash(layout, blob[i : i + PIECE]) for i in range(0, size, PIECE)]
    assert [(index, hash_) for index, hash_, _ in dealt] == list(enumerate(hashes))[: len(dealt)]
    assert one.metainfo().hashes == tuple(hashes)
    one.commit()
    assert [(index, hash_) for index, hash_, _ in dealt] == list(enumerate(hashes))
    verifier = Verifier({SIGNER.key_id: SIGNER.public_key})
    for index, hash_, vouch in dealt:
        verifier.check(context_of(digest, layout, 7), index, hash_, Vouch.decode(vouch))
    with store.committed(digest) as committed:
        assert committed.path.read_bytes() == blob
    store.remove(digest)


def test_a_piece_is_dealt_as_soon_as_it_is_whole(store: BlobStore) -> None:
    one, dealt = pipeline(store, DATA)
    one.feed(memoryview(DATA)[: PIECE - 1])
    assert dealt == []
    one.feed(memoryview(DATA)[PIECE - 1 : PIECE])
    assert [index for index, _, _ in dealt] == [0]


def test_more_bytes_than_the_blob_has_are_refused(store: BlobStore) -> None:
    one, _ = pipeline(store, DATA)
    one.feed(memoryview(DATA))
    with pytest.raises(ProtocolError, match="more than"):
        one.feed(memoryview(b"x"))


def test_fewer_bytes_than_the_blob_has_make_no_torrent(store: BlobStore) -> None:
    one, _ = pipeline(store, DATA)
    one.feed(memoryview(DATA)[:-1])
    with pytest.raises(ProtocolError, match=f"sent {len(DATA) - 1} bytes"):
        one.metainfo()


def test_other_bytes_are_not_committed(store: BlobStore) -> None:
    digest = Digest.of(b"something else")
    one, dealt = pipeline(store, DATA, digest)
    one.feed(memoryview(DATA))
    before = len(dealt)
    with pytest.raises(DigestInvalid):
        one.commit()
    assert len(dealt) == before
    assert not store.has(digest)


def test_a_stored_blob_is_vouched_for_in_batches() -> None:
    layout = PieceLayout(len(DATA), PIECE)
    hashes = [piece_hash(layout, DATA[i : i + PIECE]) for i in range(0, len(DATA), PIECE)]
    context = context_of(Digest.of(DATA), layout, 9)
    verifier = Verifier({SIGNER.key_id: SIGNER.public_key})
    pieces = vouched(SIGNER, context, 0, hashes * 6, STORE_BATCH)
    assert [index for index, _, _ in pieces] == list(range(36))
    for index, hash_, vouch in pieces:
        verifier.check(context, index, hash_, Vouch.decode(vouch))
    assert {Vouch.decode(vouch).count for _, _, vouch in pieces} == {STORE_BATCH, 36 % STORE_BATCH}
