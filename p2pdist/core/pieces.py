"""A blob cut into pieces, sets of pieces, and the hash of a piece.

A piece's hash is the root of the SHA-256 Merkle tree over its 16 KiB blocks (BEP 52, "piece layers"), so that the hash
that vouches for a piece in a relay is the one that the blob's torrent lists.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from p2pdist.core.errors import InvalidInput

BLOCK_BYTES = 16 * 1024
MIN_PIECE_BYTES = 32 * 1024
MAX_PIECE_BYTES = 4 * 1024 * 1024
MAX_BLOB_BYTES = 1 << 42
_WANTED_PIECES = 2000
_HASH_BYTES = 32


def choose_piece_length(size_bytes: int) -> int:
    """The piece length in bytes for a blob of this size: a power of two that gives about 2,000 pieces at most."""
    length = MIN_PIECE_BYTES
    while length < MAX_PIECE_BYTES and size_bytes > length * _WANTED_PIECES * 3 // 2:
        length *= 2
    return length


@dataclass(frozen=True, slots=True)
class PieceLayout:
    """How a blob of `size_bytes` is cut: every piece has `piece_bytes`, the last one what remains."""

    size_bytes: int
    piece_bytes: int

    def __post_init__(self) -> None:
        if not 0 <= self.size_bytes <= MAX_BLOB_BYTES:
            raise InvalidInput(f"a blob of {self.size_bytes} bytes is outside 0..{MAX_BLOB_BYTES}")
        if not BLOCK_BYTES <= self.piece_bytes <= MAX_PIECE_BYTES or self.piece_bytes & (self.piece_bytes - 1):
            raise InvalidInput(
                f"a piece length of {self.piece_bytes} bytes isn't a power of two in {BLOCK_BYTES}..{MAX_PIECE_BYTES}"
            )

    @classmethod
    def for_size(cls, size_bytes: int) -> "PieceLayout":
        """The layout that we choose for a blob of this size."""
        return cls(size_bytes, choose_piece_length(size_bytes))

    @property
    def count(self) -> int:
        """How many pieces there are; none for an empty blob."""
        return -(-self.size_bytes // self.piece_bytes)

    def offset(self, index: int) -> int:
        """Where piece `index` starts, in bytes."""
        return index * self.piece_bytes

    def length(self, index: int) -> int:
        """How long piece `index` is, in bytes; raises `InvalidInput` when there is no such piece."""
        left = self.size_bytes - index * self.piece_bytes
        if index < 0 or left <= 0:
            raise InvalidInput(f"piece {index} of a blob that has {self.count}")
        return left if left < self.piece_bytes else self.piece_bytes

    def index_at(self, offset: int) -> int:
        """The piece that holds the byte at `offset`."""
        return offset // self.piece_bytes


class PieceSet:
    """A set of piece numbers below `count`, one byte each; knows its first gap in O(1) amortised."""

    __slots__ = ("_bits", "_first_missing", "count", "size")

    def __init__(self, count: int, members: Iterable[int] = ()) -> None:
        self.count = count
        self.size = 0
        self._bits = bytearray(count)
        self._first_missing = 0
        for index in members:
            self.add(index)

    def add(self, index: int) -> bool:
        """Put `index` in; True when it wasn't there before. Raises `InvalidInput` when no piece has that number."""
        if not 0 <= index < self.count:
            raise InvalidInput(f"piece {index} of a blob that has {self.count}")
        if self._bits[index]:
            return False
        self._bits[index] = 1
        self.size += 1
        if index == self._first_missing:
            after = self._bits.find(0, index)
            self._first_missing = self.count if after < 0 else after
        return True

    def discard(self, index: int) -> None:
        """Take `index` out, if it is there."""
        if index in self:
            self._bits[index] = 0
            self.size -= 1
            self._first_missing = min(self._first_missing, index)

    def __contains__(self, index: int) -> bool:
        return 0 <= index < self.count and self._bits[index] == 1

    def __iter__(self) -> Iterator[int]:
        return (index for index, bit in enumerate(self._bits) if bit)

    def __len__(self) -> int:
        return self.size

    @property
    def first_missing(self) -> int:
        """The smallest number that isn't in the set; `count` when all are."""
        return self._first_missing

    def first_missing_from(self, index: int) -> int:
        """The smallest number from `index` on that isn't in the set; `count` when all are."""
        if index < self._first_missing:
            return self._first_missing
        found = self._bits.find(0, index)
        return self.count if found < 0 else found

    def copy(self) -> "PieceSet":
        """A set of its own with the same members."""
        other = PieceSet(0)
        other.count, other.size = self.count, self.size
        other._bits, other._first_missing = bytearray(self._bits), self._first_missing
        return other

    @property
    def complete(self) -> bool:
        """Whether every piece is in."""
        return self.size == self.count

    def missing(self) -> list[int]:
        """The numbers that aren't in the set, ascending."""
        return [index for index, bit in enumerate(self._bits) if not bit]

    def to_bytes(self) -> bytes:
        """The bitmap as BitTorrent sends it: most significant bit first (BEP 3, "bitfield")."""
        number = int("".join("1" if bit else "0" for bit in self._bits) or "0", 2)
        octets = -(-self.count // 8)
        return (number << (octets * 8 - self.count)).to_bytes(octets, "big")

    @classmethod
    def from_bytes(cls, count: int, data: bytes) -> "PieceSet":
        """The set that `to_bytes` wrote; raises `InvalidInput` for a wrong length or bits beyond the last piece."""
        if len(data) != -(-count // 8):
            raise InvalidInput(f"a bitmap of {len(data)} bytes for {count} pieces")
        bits = bin(int.from_bytes(b"\1" + data, "big"))[3:]
        if "1" in bits[count:]:
            raise InvalidInput("a bitmap names a piece behind the last one")
        return cls(count, (index for index, bit in enumerate(bits[:count]) if bit == "1"))


def _pad_hash(height: int) -> bytes:
    """The root of a tree of `height` levels whose leaves are all missing (BEP 52: 32 zero bytes a leaf)."""
    node = bytes(_HASH_BYTES)
    for _ in range(height):
        node = hashlib.sha256(node + node).digest()
    return node


_PADS = [_pad_hash(height) for height in range(40)]


def merkle_root(leaves: list[bytes], width: int, leaf_height: int = 0) -> bytes:
    """The root over `leaves`, padded to `width` (a power of two); `leaf_height` is the height that a leaf stands at."""
    sha256 = hashlib.sha256
    level, height = leaves, leaf_height
    while width > 1:
        if len(level) % 2:
            level = [*level, _PADS[height]]
        level = [sha256(level[i] + level[i + 1]).digest() for i in range(0, len(level), 2)]
        width //= 2
        height += 1
    return level[0] if level else _PADS[height]


def _power_of_two_at_least(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()


def piece_hash(layout: PieceLayout, data: bytes | bytearray | memoryview) -> bytes:
    """The 32-byte hash of one piece's `data` (BEP 52).

    A blob that fits into one piece has a tree only as wide as its own blocks need; every other piece, the short last
    one too, is padded to the full width. Raises `InvalidInput` for more data than a piece has, which a tree of that
    width would ignore.
    """
    view = memoryview(data)
    if len(view) > layout.piece_bytes:
        raise InvalidInput(f"{len(view)} bytes for a piece that has at most {layout.piece_bytes}")
    sha256 = hashlib.sha256
    if len(view) == layout.piece_bytes == 2 * BLOCK_BYTES:
        # Most pieces are of the smallest length, where what happens once a piece counts most.
        return sha256(sha256(view[:BLOCK_BYTES]).digest() + sha256(view[BLOCK_BYTES:]).digest()).digest()
    leaves = [sha256(view[i : i + BLOCK_BYTES]).digest() for i in range(0, len(view), BLOCK_BYTES)]
    if layout.size_bytes <= layout.piece_bytes:
        width = _power_of_two_at_least(len(leaves))
    else:
        width = layout.piece_bytes // BLOCK_BYTES
    return merkle_root(leaves, width)


def pieces_root(layout: PieceLayout, hashes: list[bytes]) -> bytes:
    """The `pieces root` of the blob's file tree entry (BEP 52), from the hashes of all its pieces."""
    if len(hashes) != layout.count or not hashes:
        raise InvalidInput(f"{len(hashes)} piece hashes for a blob of {layout.count} pieces")
    height = (layout.piece_bytes // BLOCK_BYTES).bit_length() - 1
    return merkle_root(hashes, _power_of_two_at_least(len(hashes)), height)
