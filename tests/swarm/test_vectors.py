"""Our piece hashes, metainfo and info-hashes against those that libtorrent computes for the same file.

tests/unit/core/test_metainfo.py keeps some of them as constants, for machines and code without libtorrent.
"""

from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest

from p2pdist.core.metainfo import Metainfo, file_name
from p2pdist.core.pieces import BLOCK_BYTES, PieceLayout, piece_hash
from tests.swarm.blobs import Blob

KIB = 1024
SIZES = [1, 100, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES, 3 * BLOCK_BYTES + 1]
SIZES += [size + odd for size in (64 * KIB, 160 * KIB, 256 * KIB, 1000 * KIB) for odd in (-1, 0, 1, BLOCK_BYTES)]


@pytest.mark.parametrize("piece_bytes", [16 * KIB, 32 * KIB, 256 * KIB])
@pytest.mark.parametrize("size_bytes", SIZES)
def test_libtorrent_makes_the_same_torrent(tmp_path: Path, size_bytes: int, piece_bytes: int) -> None:
    blob = Blob.of_size(size_bytes)
    path = blob.whole_in(tmp_path)
    creator = lt.create_torrent(lt.list_files(str(path)), piece_bytes, lt.create_torrent.v2_only)
    lt.set_piece_hashes(creator, str(tmp_path))
    theirs: Any = creator.generate()

    layout = PieceLayout(size_bytes, piece_bytes)
    pieces = [blob.data[layout.offset(index) :][: layout.length(index)] for index in range(layout.count)]
    ours = Metainfo(blob.digest, layout, tuple(piece_hash(layout, piece) for piece in pieces))

    assert ours.info == lt.bencode(theirs[b"info"])
    if layout.count > 1:
        assert list(theirs[b"piece layers"].values()) == [b"".join(ours.hashes)]
    else:
        assert theirs[b"info"][b"file tree"][path.name.encode()][b""][b"pieces root"] == ours.hashes[0]
    loaded = lt.load_torrent_buffer(ours.torrent())
    assert loaded.info_hashes.v2.to_bytes() == ours.info_hash
    assert loaded.ti is not None
    assert loaded.ti.num_pieces() == layout.count
    assert loaded.ti.name() == file_name(blob.digest)
