"""One generation of a blob as a node has it: the file, the vouches, and what was received from whom.

Owned by the relay's thread. Bytes reach the file through one door, the `PieceFile`; nothing is written that isn't
vouched for.
"""

import os
from collections import defaultdict
from collections.abc import Container
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from p2pdist.core.digest import Digest
from p2pdist.core.errors import DigestInvalid, InvalidInput, ProtocolError
from p2pdist.core.pieces import PieceLayout, piece_hash
from p2pdist.pki.vouch import BlobContext, Verifier, signer_of
from p2pdist.relay.engine import Push
from p2pdist.relay.frames import MAX_DATA_BYTES, PieceFrame
from p2pdist.relay.spans import DEFAULT_FAN


class PieceFile(Protocol):
    """Where the bytes of a blob are kept; the store's partial blob is one."""

    @property
    def layout(self) -> PieceLayout:
        """How the blob is cut."""

    @property
    def fd(self) -> int:
        """The open file; byte n of the blob stands at offset n."""

    def has(self, index: int) -> bool:
        """Whether the piece is there and right."""

    def write_piece(self, index: int, data: bytes | bytearray | memoryview) -> bool:
        """Write a verified piece; False when it was there."""


@dataclass(frozen=True, slots=True)
class TransferSpec:
    """What a node must know to take part in a generation."""

    generation: int
    digest: Digest
    layout: PieceLayout
    file: PieceFile
    private: bool = False
    fan: int = DEFAULT_FAN

    @property
    def context(self) -> BlobContext:
        """What the tracker's signatures are about."""
        return BlobContext(self.digest, self.layout.size_bytes, self.layout.piece_bytes, self.generation)


@dataclass(slots=True)
class Counts:
    """Payload bytes of one transfer; read from other threads, written by the relay's.

    `received_from`: bytes that were new, by who sent them. `taken_over`: spans that we handed to an heir.
    """

    dealt_bytes: int = 0
    relayed_bytes: int = 0
    duplicate_bytes: int = 0
    sent_bytes: int = 0
    bad_pieces: int = 0
    taken_over: int = 0
    received_from: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))


class Outgoing(NamedTuple):
    """A piece that waits to be sent, the numbers that travel with it, and the node that it is for."""

    transfer: "Transfer"
    frame: PieceFrame
    to: str


@dataclass(slots=True)
class Transfer:
    """The state of one generation: which pieces are vouched for, and the proofs that travel on with them.

    `deals`: whether this node is a dealer; `fills` are the epochs of the fills that it deals. `agents` are those whose
    word counts besides the tracker's; `provisional` says for which pieces it was one of theirs, and whose.
    """

    spec: TransferSpec
    fd: int
    hashes: list[bytes | None]
    vouches: list[bytes | None]
    counts: Counts = field(default_factory=Counts)
    deals: bool = False
    fills: set[int] = field(default_factory=set)
    agents: Container[str] = frozenset()
    provisional: dict[int, str] = field(default_factory=dict)
    context: BlobContext = field(init=False)

    def __post_init__(self) -> None:
        self.context = self.spec.context

    @classmethod
    def begin(cls, spec: TransferSpec) -> "Transfer":
        """Start with nothing vouched for. The file's descriptor is duplicated, so that the owner may close its own."""
        count = spec.layout.count
        return cls(spec, os.dup(spec.file.fd), [None] * count, [None] * count)

    def end(self) -> None:
        """Close our descriptor."""
        os.close(self.fd)

    def __contains__(self, index: object) -> bool:
        """Whether the piece can be passed on: it is here and vouched for."""
        return isinstance(index, int) and 0 <= index < len(self.vouches) and self.vouches[index] is not None

    @property
    def left_bytes(self) -> int:
        """About how much is yet to be received; what the file had before counts as left."""
        if self.deals:
            return 0
        return self.spec.layout.size_bytes - self.counts.dealt_bytes - self.counts.relayed_bytes

    def check_part(self, frame: PieceFrame, data_bytes: int) -> int:
        """The length of the piece that a frame is of; raises `ProtocolError` when it doesn't fit the layout."""
        if frame.piece >= len(self.vouches):
            raise ProtocolError(f"piece {frame.piece} of {self.spec.digest}, which has {len(self.vouches)}")
        length = self.spec.layout.length(frame.piece)
        if frame.offset + data_bytes > length or frame.offset % MAX_DATA_BYTES:
            raise ProtocolError(f"bytes {frame.offset}+{data_bytes} of piece {frame.piece} of {self.spec.digest}")
        return length

    def accept(self, verifier: Verifier, frame: PieceFrame, data: memoryview | bytearray) -> bool:
        """Verify a whole piece and write it; False when it was here. Raises `ProtocolError` for wrong bytes or vouch.

        A piece that the file has from elsewhere (a rescue, an earlier generation) still brings its vouch, with which
        it can be passed on. Raises `DigestInvalid` when the file has other bytes: somebody vouched for wrong ones.
        """
        index = frame.piece
        if self.vouches[index] is not None:
            self.counts.duplicate_bytes += len(data)
            return False
        verifier.check_encoded(self.context, index, frame.hash, frame.vouch, self.agents)
        if piece_hash(self.spec.layout, data) != frame.hash:
            raise ProtocolError(f"piece {index} of {self.spec.digest} has other bytes than its hash says")
        if signer := signer_of(frame.vouch):
            self.provisional.setdefault(index, signer)
        new = self.spec.file.write_piece(index, data)
        if not new:
            self.counts.duplicate_bytes += len(data)
            if not self._is_here(index, frame.hash):
                raise DigestInvalid(f"piece {index} of {self.spec.digest} is here with other bytes than it came with")
        self.hashes[index], self.vouches[index] = frame.hash, frame.vouch
        return new

    def adopt(self, verifier: Verifier, index: int, hash_: bytes, vouch: bytes) -> None:
        """Learn who vouches for a piece that the file has from elsewhere, if its bytes are the ones; else do nothing.

        It came by another generation, or from the origin, where nobody vouched for it: so it is read and hashed.
        Raises `ProtocolError` for a wrong vouch.
        """
        if index in self or not self.spec.file.has(index):
            return
        verifier.check_encoded(self.context, index, hash_, vouch, self.agents)
        if self._is_here(index, hash_):
            self.hashes[index], self.vouches[index] = hash_, vouch

    def _is_here(self, index: int, hash_: bytes) -> bool:
        """Whether the file has these bytes for a piece."""
        layout = self.spec.layout
        return piece_hash(layout, os.pread(self.fd, layout.length(index), layout.offset(index))) == hash_

    def vouch_for(self, index: int, hash_: bytes, vouch: bytes) -> None:
        """Learn the proof of a piece that the file has: what a dealer does before it deals."""
        if not self.spec.file.has(index):
            raise InvalidInput(f"piece {index} of {self.spec.digest} isn't in the file that is to be dealt from")
        if self.vouches[index] is None:
            self.hashes[index], self.vouches[index] = hash_, vouch

    def proofs(self, index: int) -> tuple[bytes, bytes]:
        """The hash and the vouch of a piece that can be passed on."""
        hash_, vouch = self.hashes[index], self.vouches[index]
        if hash_ is None or vouch is None:
            raise InvalidInput(f"piece {index} of {self.spec.digest} has nobody who vouches for it")
        return hash_, vouch

    def outgoing(self, push: Push) -> Outgoing:
        """The piece that a push is about, with its proofs."""
        hash_, vouch = self.proofs(push.index)
        generation, index, tag = push.generation, push.index, push.tag
        frame = PieceFrame(generation, push.epoch, index, 0, push.root, push.span, tag, push.offered, hash_, vouch)
        return Outgoing(self, frame, push.to)
