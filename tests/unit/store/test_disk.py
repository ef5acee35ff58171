import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2pdist.core.digest import Digest
from p2pdist.core.errors import StoreError
from p2pdist.core.pieces import PieceLayout
from p2pdist.store import BlobStore, StoreFull

from .samples import PIECE, content, layout_of, put, read, write_all

DISK_BYTES = 2 * 1024 * 1024


@pytest.fixture
def disk(tmp_path: Path, require_root: None, require_program: Callable[[str], str]) -> Iterator[Path]:
    """A filesystem of 2 MiB."""
    mount, unmount = require_program("mount"), require_program("umount")
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", path], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"this root can't mount a tmpfs: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run([unmount, path], check=True)


def fill(path: Path) -> None:
    """Somebody else takes every byte that is left."""
    with path.open("wb", buffering=0) as file:
        for block in (64 * 1024, 4096):
            try:
                while True:
                    file.write(b"x" * block)
            except OSError:
                pass


def free(path: Path) -> int:
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def test_what_the_disk_cannot_hold_is_refused_before_it_begins(disk: Path) -> None:
    with BlobStore.open(disk / "store") as store:
        old = put(store, content(1, 40 * PIECE))
        with pytest.raises(StoreFull, match=rf"doesn't fit into {disk}/store: its filesystem has .* free space there"):
            store.begin(Digest.of(b"x"), PieceLayout(DISK_BYTES, PIECE))
        assert store.has(old)
        free_pieces = free(disk) // PIECE
        data = content(2, (free_pieces + 1) * PIECE)
        assert read(store, put(store, data)) == data
        assert not store.has(old)


def test_what_is_still_to_come_of_others_counts_as_taken(disk: Path) -> None:
    with BlobStore.open(disk / "store") as store:
        free_pieces = free(disk) // PIECE
        data = content(1, (free_pieces - 26) * PIECE)
        arriving = store.begin(Digest.of(data), layout_of(data))
        assert free(disk) // PIECE == free_pieces
        with pytest.raises(StoreFull):
            store.begin(Digest.of(b"x"), PieceLayout(11 * PIECE, PIECE))
        assert arriving.path.stat().st_blocks == 0
        write_all(arriving, data)
        store.begin(Digest.of(b"x"), PieceLayout(5 * PIECE, PIECE))


def test_a_disk_that_others_filled(disk: Path) -> None:
    data, later = content(1, 20 * PIECE), content(2, 14 * PIECE)
    with BlobStore.open(disk / "store") as store:
        old = put(store, content(3, 30 * PIECE))
        partial = store.begin(Digest.of(data), layout_of(data))
        fill(disk / "others")
        with pytest.raises(StoreFull, match=rf"can't write .* to {partial.path}: No space left on device; free space"):
            write_all(partial, data)
        assert not partial.complete
        (disk / "others").unlink()
        write_all(partial, data)
        fill(disk / "others")
        partial.discard()
        fill(disk / "more")
        assert free(disk) == 0
        # Even now old blobs make room for new ones: their files go before their rows.
        assert read(store, put(store, later)) == later
        assert not store.has(old)


def test_opening_on_a_full_disk_works_or_says_what_is_wrong(disk: Path) -> None:
    with BlobStore.open(disk / "store") as store:
        digest = put(store, content(1, PIECE))
    fill(disk / "others")
    with pytest.raises(StoreFull, match=rf"{disk}/store/catalogue.sqlite.*free space on that filesystem"):
        BlobStore.open(disk / "store")
    (disk / "others").unlink()
    with BlobStore.open(disk / "store") as store:
        assert read(store, digest) == content(1, PIECE)


def test_a_read_only_filesystem(disk: Path, require_program: Callable[[str], str]) -> None:
    BlobStore.open(disk / "store").close()
    subprocess.run([require_program("mount"), "-o", "remount,ro", disk], check=True)
    with pytest.raises(StoreError, match=rf"{disk}/store/lock: Read-only file system; .*remount it writable"):
        BlobStore.open(disk / "store")
    with pytest.raises(StoreError, match="Read-only file system"):
        BlobStore.open(disk / "another")


def test_a_directory_that_belongs_to_somebody_else(tmp_path: Path) -> None:
    BlobStore.open(tmp_path / "store").close()
    (tmp_path / "store").chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(StoreError, match=r"/store/blobs: Permission denied; give user \d+ the right"):
            BlobStore.open(tmp_path / "store")
    finally:
        os.seteuid(user)
        (tmp_path / "store").chmod(0o700)


def test_the_quota_holds_while_many_threads_begin_and_commit(root: Path) -> None:
    quota = 30 * PIECE
    with BlobStore.open(root, quota_bytes=quota) as store:
        failures: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for turn in range(25):
                    data = content(number * 100 + turn, 2 * PIECE)
                    partial = store.begin(Digest.of(data), layout_of(data))
                    write_all(partial, data)
                    with partial.held():  # or another thread's blob might evict it at once
                        partial.commit()
                        assert read(store, partial.digest) == data
                        assert store.used_bytes <= quota
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(list(store.digests())) == 15
