"""Blobs for the tests of the store, and the shortest way to get one in."""

import os
import random
from pathlib import Path

from p2pdist.core.digest import Digest
from p2pdist.core.metainfo import Metainfo
from p2pdist.core.pieces import PieceLayout, piece_hash
from p2pdist.store import BlobStore, PartialBlob

PIECE = 16 * 1024


def in_memory() -> Path | None:
    """A directory where syncing costs nothing; None for the usual one when there is none."""
    path = Path("/dev/shm")
    return path if path.is_dir() else None


def content(seed: int, size_bytes: int) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


def layout_of(data: bytes) -> PieceLayout:
    return PieceLayout(len(data), PIECE)


def piece(data: bytes, index: int) -> bytes:
    return data[index * PIECE : (index + 1) * PIECE]


def metainfo_of(data: bytes) -> Metainfo:
    layout = layout_of(data)
    hashes = tuple(piece_hash(layout, piece(data, index)) for index in range(layout.count))
    return Metainfo(Digest.of(data), layout, hashes)


def write_all(partial: PartialBlob, data: bytes) -> None:
    for index in range(partial.layout.count):
        partial.write_piece(index, piece(data, index))


def put(store: BlobStore, data: bytes, algorithm: str = "sha256") -> Digest:
    digest = Digest.of(data, algorithm)
    with store.begin(digest, layout_of(data)) as partial:
        write_all(partial, data)
        partial.commit()
    return digest


def read(store: BlobStore, digest: Digest) -> bytes:
    with store.committed(digest) as blob:
        return os.pread(blob.fd, blob.size_bytes + 1, 0)


def die(store: BlobStore) -> None:
    """What the kernel does to a killed process: descriptors are closed, nothing is said to the disk."""
    for partial in list(store._partials.values()):
        partial.file.release()
    store._closing.close()
