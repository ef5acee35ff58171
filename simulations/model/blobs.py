"""A blob in the model: how it is cut, and what a host has of it. Files without bytes."""

from collections.abc import Callable
from dataclasses import dataclass

from p2pdist.core.digest import Digest
from p2pdist.core.metainfo import Metainfo
from p2pdist.core.pieces import PieceLayout, PieceSet

_HASH = bytes(32)


@dataclass(frozen=True, slots=True)
class Blob:
    """One layer."""

    digest: Digest
    layout: PieceLayout
    metainfo: Metainfo

    @classmethod
    def make(cls, layer: int, layout: PieceLayout) -> "Blob":
        """The layer of this number."""
        digest = Digest.of(f"layer {layer}".encode())
        return cls(digest, layout, Metainfo(digest, layout, (_HASH,) * layout.count))


class HeldFile:
    """What a host has of a blob; `relay.transfer.PieceFile`, and as much of `store.PartialBlob` as a relay asks of it.

    `on_piece(index)` is told of every new piece.
    """

    fd = -1

    def __init__(self, blob: Blob, whole: bool = False, on_piece: Callable[[int], None] | None = None) -> None:
        self.digest = blob.digest
        self.layout = blob.layout
        self.pieces = PieceSet(blob.layout.count, range(blob.layout.count) if whole else ())
        self._on_piece = on_piece

    def has(self, index: int) -> bool:
        """Whether the piece is there."""
        return index in self.pieces

    def write_piece(self, index: int, data: bytes | bytearray | memoryview) -> bool:
        """Have a piece; False when it was there."""
        if not self.pieces.add(index):
            return False
        if self._on_piece is not None:
            self._on_piece(index)
        return True
