"""Blobs to swarm, and the part of the store that a pull needs, checking what it is told."""

import os
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from p2pdist.core.digest import Digest
from p2pdist.core.metainfo import Metainfo, file_name
from p2pdist.core.pieces import PieceLayout, PieceSet, piece_hash


@dataclass
class FilePartial:
    """A partial blob in a file; a piece that is marked must be readable from it, with the right hash."""

    metainfo: Metainfo
    path: Path
    pieces: PieceSet
    marked: list[int] = field(default_factory=list)

    @property
    def digest(self) -> Digest:
        return self.metainfo.digest

    @property
    def layout(self) -> PieceLayout:
        return self.metainfo.layout

    def has(self, index: int) -> bool:
        return index in self.pieces

    def mark_piece(self, index: int) -> bool:
        fd = os.open(self.path, os.O_RDONLY)
        try:
            found = os.pread(fd, self.layout.length(index), self.layout.offset(index))
        finally:
            os.close(fd)
        assert piece_hash(self.layout, found) == self.metainfo.hashes[index], f"piece {index} isn't in the file"
        self.marked.append(index)
        return self.pieces.add(index)


@dataclass(frozen=True)
class Blob:
    """Random bytes and their torrent."""

    data: bytes
    metainfo: Metainfo

    @classmethod
    def of_size(cls, size_bytes: int, seed: int = 0) -> "Blob":
        data = random.Random(f"{size_bytes} {seed}").randbytes(size_bytes)
        layout = PieceLayout.for_size(size_bytes)
        pieces = [data[layout.offset(index) :][: layout.length(index)] for index in range(layout.count)]
        return cls(data, Metainfo(Digest.of(data), layout, tuple(piece_hash(layout, piece) for piece in pieces)))

    @property
    def digest(self) -> Digest:
        return self.metainfo.digest

    @property
    def layout(self) -> PieceLayout:
        return self.metainfo.layout

    def whole_in(self, directory: Path) -> Path:
        """The blob's file, whole."""
        path = directory / file_name(self.digest)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(self.data)
        return path

    def partial_in(self, directory: Path, present: Iterable[int] = ()) -> FilePartial:
        """The blob's file with zeroes where a piece isn't `present`, as the store makes it."""
        path = directory / file_name(self.digest)
        path.parent.mkdir(exist_ok=True)
        pieces = PieceSet(self.layout.count, present)
        with path.open("wb") as file:
            file.truncate(self.layout.size_bytes)
            for index in pieces:
                file.seek(self.layout.offset(index))
                file.write(self.data[self.layout.offset(index) :][: self.layout.length(index)])
        return FilePartial(self.metainfo, path, pieces)
