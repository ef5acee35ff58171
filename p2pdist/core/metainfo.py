"""The torrent of a blob: a v2 metainfo (BEP 52) whose one file is named by the blob's digest.

Every tracker and agent that knows a blob's piece hashes computes the same info-hash.
"""

import hashlib
from dataclasses import dataclass
from typing import Union

from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput
from p2pdist.core.pieces import PieceLayout, pieces_root

Bencodable = Union[int, bytes, "list[Bencodable]", "dict[bytes, Bencodable]"]


def bencode(value: Bencodable) -> bytes:
    """`value` in bencoding (BEP 3); dictionary keys are sorted as raw bytes."""
    match value:
        case int():
            return b"i%de" % value
        case bytes():
            return b"%d:%b" % (len(value), value)
        case list():
            return b"l%be" % b"".join(map(bencode, value))
        case dict():
            return b"d%be" % b"".join(bencode(key) + bencode(value[key]) for key in sorted(value))


def file_name(digest: Digest) -> str:
    """The name of a blob's file, in its torrent and in the store."""
    return f"{digest.algorithm}-{digest.hex}"


@dataclass(frozen=True, slots=True)
class Metainfo:
    """A blob's torrent: what it is, how it is cut, and the hash of every piece (none for an empty blob)."""

    digest: Digest
    layout: PieceLayout
    hashes: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if len(self.hashes) != self.layout.count or any(len(piece) != 32 for piece in self.hashes):
            raise InvalidInput(f"{len(self.hashes)} piece hashes for {self.digest}, which has {self.layout.count}")

    @property
    def info(self) -> bytes:
        """The bencoded info dictionary."""
        entry: dict[bytes, Bencodable] = {b"length": self.layout.size_bytes}
        if self.hashes:
            entry[b"pieces root"] = pieces_root(self.layout, list(self.hashes))
        name = file_name(self.digest).encode()
        return bencode(
            {
                b"file tree": {name: {b"": entry}},
                b"meta version": 2,
                b"name": name,
                b"piece length": self.layout.piece_bytes,
            }
        )

    @property
    def info_hash(self) -> bytes:
        """The 32-byte v2 info-hash."""
        return hashlib.sha256(self.info).digest()

    def torrent(self) -> bytes:
        """The bencoded metainfo file, piece layers included."""
        layers = b"de"
        if len(self.hashes) > 1:
            layers = bencode({pieces_root(self.layout, list(self.hashes)): b"".join(self.hashes)})
        return b"d4:info%b12:piece layers%be" % (self.info, layers)
