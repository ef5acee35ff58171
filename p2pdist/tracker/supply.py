"""The bytes of a blob on the tracker: fetched from the origin or read from the store, hashed, signed, dealt.

Hashing, writing and signing happen in the worker thread that reads the origin's body, piece by piece as they get whole:
nothing is read twice. A piece is dealt as soon as it is signed, and signatures are for batches: every agent verifies
each of them once, at 60-150 us, which for a signature a piece of 32 KiB was half of all its CPU. The first batches are
short, so that the first byte doesn't wait; later ones take what comes within BATCH_SECONDS, and the last goes at once.
While the origin stands still, whoever started the fetch calls `deal_stale` from another thread.
"""

import threading
import time
from collections.abc import Callable

from p2pdist.core.digest import Digest
from p2pdist.core.errors import ProtocolError
from p2pdist.core.metainfo import Metainfo
from p2pdist.core.pieces import PieceLayout, piece_hash
from p2pdist.pki.vouch import MAX_BATCH, BlobContext, Signer
from p2pdist.store import PartialBlob

Deal = Callable[[list[tuple[int, bytes, bytes]]], None]
STORE_BATCH = 32
BATCH_SECONDS = 0.03


class Pipeline:
    """Takes a blob's bytes in order; writes, hashes, signs and deals them.

    Lives in the worker thread that reads the origin, but for `is_stale` and `deal_stale`.
    """

    def __init__(self, partial: PartialBlob, generation: int, signer: Signer, deal: Deal) -> None:
        self._partial = partial
        self._layout = partial.layout
        self._context = context_of(partial.digest, partial.layout, generation)
        self._signer = signer
        self._deal = deal
        self._whole = partial.digest.hasher()
        self._piece = bytearray()
        self._hashes: list[bytes] = []
        self._signed = 0
        self._waiting_since = 0.0
        self._signing = threading.Lock()
        self.received_bytes = 0

    def feed(self, data: memoryview) -> None:
        """The next bytes; raises `ProtocolError` when they are more than the blob has."""
        self.received_bytes += len(data)
        if self.received_bytes > self._layout.size_bytes:
            raise ProtocolError(
                f"the origin sends more than the {self._layout.size_bytes} bytes that {self._partial.digest} has"
            )
        self._whole.update(data)
        while data:
            wanted = self._layout.length(len(self._hashes)) - len(self._piece)
            part, data = data[:wanted], data[wanted:]
            if not self._piece and len(part) == wanted:
                self._take_piece(part)
                continue
            self._piece += part
            if len(part) == wanted:
                self._take_piece(self._piece)
                self._piece = bytearray()
        if len(self._hashes) - self._signed >= min(STORE_BATCH, 1 + self._signed) or self.is_stale:
            self._deal_unsigned()

    @property
    def is_stale(self) -> bool:
        """Whether pieces have waited for their batch long enough."""
        return len(self._hashes) > self._signed and time.monotonic() - self._waiting_since >= BATCH_SECONDS

    def deal_stale(self) -> None:
        """Deal what waits, though the batch isn't full: for the thread of somebody who watches the fetch."""
        if self.is_stale:
            self._deal_unsigned()

    def metainfo(self) -> Metainfo:
        """The torrent of the whole blob; raises `ProtocolError` when bytes are missing."""
        if self.received_bytes != self._layout.size_bytes:
            raise ProtocolError(
                f"the origin sent {self.received_bytes} bytes of {self._partial.digest},"
                f" which has {self._layout.size_bytes}"
            )
        return Metainfo(self._partial.digest, self._layout, tuple(self._hashes))

    def commit(self) -> None:
        """Deal what is left and commit; raises `DigestInvalid` for other bytes, whose last pieces are never dealt."""
        found = Digest(self._partial.digest.algorithm, self._whole.hexdigest())
        if found == self._partial.digest:
            self._deal_unsigned()
        self._partial.commit(found)

    def _take_piece(self, data: memoryview | bytearray) -> None:
        self._partial.write_piece(len(self._hashes), data)
        if self._signed == len(self._hashes):
            self._waiting_since = time.monotonic()
        self._hashes.append(piece_hash(self._layout, data))

    def _deal_unsigned(self) -> None:
        first, self._signed = self._signed, len(self._hashes)
        if first == len(self._hashes):
            return
        self._deal(vouched(self._signer, self._context, first, self._hashes[first:], MAX_BATCH))


def vouched(
    signer: Signer, context: BlobContext, first: int, hashes: list[bytes], batch: int
) -> list[tuple[int, bytes, bytes]]:
    """Index, hash and encoded vouch of successive pieces, signed in batches."""
    pieces = []
    for start in range(0, len(hashes), batch):
        part = hashes[start : start + batch]
        vouches = signer.vouch(context, first + start, part)
        for number, (hash_, vouch) in enumerate(zip(part, vouches, strict=True)):
            pieces.append((first + start + number, hash_, vouch.encode()))
    return pieces


def context_of(digest: Digest, layout: PieceLayout, generation: int) -> BlobContext:
    """What the signatures of one generation are about."""
    return BlobContext(digest, layout.size_bytes, layout.piece_bytes, generation)
