"""A holder's proofs: from the tracker's signatures and the hashes that every holder has."""

import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput
from p2pdist.core.pieces import PieceLayout
from p2pdist.pki.errors import BadSignature
from p2pdist.pki.vouch import MAX_BATCH, BlobContext, Signer, Verifier, Vouch
from p2pdist.relay.whole import WholeFile, proofs, sign_whole

PIECE = 32768
SIGNER = Signer(Ed25519PrivateKey.generate())
CONTEXT = BlobContext(Digest.of(b"a blob"), 1000 * PIECE, PIECE, 7)


def hashes(count: int) -> list[bytes]:
    rng = random.Random(count)
    return [rng.randbytes(32) for _ in range(count)]


def verifier() -> Verifier:
    return Verifier({SIGNER.key_id: SIGNER.public_key})


@settings(deadline=None)
@given(st.integers(0, 3 * MAX_BATCH + 1))
def test_a_holder_proves_every_piece_with_a_signature_a_batch(count: int) -> None:
    pieces = hashes(count)
    signatures = sign_whole(SIGNER, CONTEXT, pieces)
    assert len(signatures) == -(-count // MAX_BATCH)
    found = proofs(SIGNER.key_id, pieces, signatures)
    assert [(index, hash_) for index, hash_, _ in found] == list(enumerate(pieces))
    checking = verifier()
    for index, hash_, vouch in found:
        checking.check(CONTEXT, index, hash_, Vouch.decode(vouch))


@pytest.mark.parametrize(
    ("count", "signatures"), [(0, 1), (1, 0), (1, 2), (MAX_BATCH, 2), (MAX_BATCH + 1, 1), (3 * MAX_BATCH, 4)]
)
def test_other_signatures_than_there_are_batches(count: int, signatures: int) -> None:
    with pytest.raises(InvalidInput, match=f"{signatures} signatures for {count} pieces"):
        proofs(SIGNER.key_id, hashes(count), [b"s" * 64] * signatures)


def test_hashes_that_the_tracker_did_not_sign_prove_nothing() -> None:
    pieces = hashes(MAX_BATCH + 3)
    signatures = sign_whole(SIGNER, CONTEXT, pieces)
    wrong = [*pieces]
    wrong[MAX_BATCH] = bytes(32)
    found = proofs(SIGNER.key_id, wrong, signatures)
    checking = verifier()
    checking.check(CONTEXT, 0, found[0][1], Vouch.decode(found[0][2]))
    for index, hash_, vouch in found[MAX_BATCH:]:
        with pytest.raises(BadSignature):
            checking.check(CONTEXT, index, hash_, Vouch.decode(vouch))


def test_signatures_of_another_generation_prove_nothing() -> None:
    pieces = hashes(2)
    other = BlobContext(CONTEXT.digest, CONTEXT.size_bytes, CONTEXT.piece_bytes, CONTEXT.generation + 1)
    (index, hash_, vouch), _ = proofs(SIGNER.key_id, pieces, sign_whole(SIGNER, other, pieces))
    with pytest.raises(BadSignature):
        verifier().check(CONTEXT, index, hash_, Vouch.decode(vouch))


def test_a_whole_file_lacks_nothing_and_takes_nothing() -> None:
    file = WholeFile(PieceLayout(5 * PIECE + 17, PIECE), 0)
    assert file.has(5)
    assert not file.has(6)
    assert not file.has(-1)
    assert not file.write_piece(0, b"")
