"""A blob that its dealer holds whole, and the proofs that go with its pieces."""

from collections.abc import Sequence
from dataclasses import dataclass

from p2pdist.core.errors import InvalidInput
from p2pdist.core.pieces import PieceLayout
from p2pdist.pki.vouch import MAX_BATCH, BlobContext, Signer, batch_of


@dataclass(frozen=True, slots=True)
class WholeFile:
    """A committed blob as the relay reads it."""

    layout: PieceLayout
    fd: int

    def has(self, index: int) -> bool:
        """Every piece is there."""
        return 0 <= index < self.layout.count

    def write_piece(self, index: int, data: bytes | bytearray | memoryview) -> bool:
        """Nothing is missing, so nothing is written."""
        return False


def sign_whole(signer: Signer, context: BlobContext, hashes: Sequence[bytes]) -> tuple[bytes, ...]:
    """The signatures of all batches of a blob: all that a holder needs besides the hashes that it has itself."""
    return tuple(
        signer.vouch(context, first, hashes[first : first + MAX_BATCH])[0].signature
        for first in range(0, len(hashes), MAX_BATCH)
    )


def proofs(key_id: bytes, hashes: Sequence[bytes], signatures: Sequence[bytes]) -> list[tuple[int, bytes, bytes]]:
    """Index, hash and encoded vouch of every piece of a blob, from what `sign_whole` gave.

    Raises `InvalidInput` when there are other signatures than the blob has batches.
    """
    found = []
    firsts = range(0, len(hashes), MAX_BATCH)
    if len(firsts) != len(signatures):
        raise InvalidInput(f"{len(signatures)} signatures for {len(hashes)} pieces; there must be {len(firsts)}")
    for first, signature in zip(firsts, signatures, strict=True):
        part = hashes[first : first + MAX_BATCH]
        vouches = batch_of(key_id, first, part, signature)
        for number, (hash_, vouch) in enumerate(zip(part, vouches, strict=True)):
            found.append((first + number, hash_, vouch.encode()))
    return found
