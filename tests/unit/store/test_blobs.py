import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from p2pdist.core.digest import Digest
from p2pdist.core.errors import BlobUnknown, InvalidInput, StoreError
from p2pdist.core.metainfo import file_name
from p2pdist.core.pieces import PieceLayout
from p2pdist.store import BlobBusy, BlobRecord, BlobStore, BlobUnverified, StoreDamaged, StoreFull, StoreLocked

from .samples import PIECE, content, die, layout_of, metainfo_of, piece, put, read, write_all

DATA = content(1, 2 * PIECE + 10)
DIGEST = Digest.of(DATA)


def names(store: BlobStore) -> set[str]:
    return {path.name for path in store.save_path.iterdir()}


# Asking and beginning


def test_what_is_not_there_is_unknown(store: BlobStore) -> None:
    assert not store.has(DIGEST)
    assert store.partial(DIGEST) is None
    assert store.record(DIGEST) is None
    assert store.metainfo(DIGEST) is None
    assert not store.remove(DIGEST)
    with pytest.raises(BlobUnknown, match=str(DIGEST)), store.committed(DIGEST):
        pass
    with pytest.raises(BlobUnknown):
        store.annotate(DIGEST, private=True, upstream="", repository="")
    with pytest.raises(BlobUnknown):
        store.save_metainfo(DIGEST, metainfo_of(DATA))


def test_a_partial_blob_is_not_whole(store: BlobStore) -> None:
    partial = store.begin(DIGEST, layout_of(DATA))
    write_all(partial, DATA)
    assert store.partial(DIGEST) is partial
    assert not store.has(DIGEST)
    assert list(store.digests()) == []
    with pytest.raises(BlobUnknown), store.committed(DIGEST):
        pass


def test_a_blob_is_begun_once(store: BlobStore) -> None:
    partial = store.begin(DIGEST, layout_of(DATA))
    with pytest.raises(BlobBusy, match="arriving"):
        store.begin(DIGEST, layout_of(DATA))
    write_all(partial, DATA)
    partial.commit()
    assert store.partial(DIGEST) is None
    with pytest.raises(BlobBusy, match="whole"):
        store.begin(DIGEST, layout_of(DATA))


def test_a_file_in_the_way_is_replaced(store: BlobStore) -> None:
    path = store.save_path / file_name(DIGEST)
    path.write_bytes(b"x" * (10 * PIECE))
    assert put(store, DATA) == DIGEST
    assert path.read_bytes() == DATA


def test_what_is_committed_survives_a_restart(root: Path) -> None:
    with BlobStore.open(root) as store:
        put(store, DATA)
        put(store, b"", "sha512")
    with BlobStore.open(root) as store:
        assert store.opening.blobs == 2
        assert store.used_bytes == len(DATA)
        assert read(store, DIGEST) == DATA
        assert read(store, Digest.of(b"", "sha512")) == b""


def test_what_is_partial_does_not(root: Path) -> None:
    store = BlobStore.open(root)
    write_all(store.begin(DIGEST, layout_of(DATA)), DATA)
    die(store)
    assert (root / "blobs" / file_name(DIGEST)).exists()
    with BlobStore.open(root) as again:
        assert again.opening.leftovers == 1
        assert not again.has(DIGEST)
        assert names(again) == set()


def test_opening_leaves_other_peoples_files_alone(root: Path) -> None:
    with BlobStore.open(root) as store:
        put(store, DATA)
        (store.save_path / "note.txt").write_text("mine")
        (store.save_path / f".{'0' * 40}.parts").write_text("libtorrent's")
        (store.save_path / f"sha256-{'0' * 63}").write_text("nobody's")
        (store.save_path / f"sha512-{'0' * 128}").write_text("a leftover")
    with BlobStore.open(root) as store:
        assert store.opening.leftovers == 2
        assert names(store) == {"note.txt", f"sha256-{'0' * 63}", file_name(DIGEST)}


@pytest.mark.parametrize("harm", ["unlink", "shorten", "directory"])
def test_a_blob_whose_file_was_harmed_while_closed_is_lost(root: Path, harm: str) -> None:
    with BlobStore.open(root) as store:
        put(store, DATA)
    path = root / "blobs" / file_name(DIGEST)
    if harm == "shorten":
        os.truncate(path, 5)
    else:
        path.unlink()
    if harm == "directory":
        path.mkdir()
    with BlobStore.open(root) as store:
        assert store.opening.lost == (DIGEST,)
        assert not store.has(DIGEST)
        assert store.used_bytes == 0
        if harm != "directory":
            assert read(store, put(store, DATA)) == DATA


@pytest.mark.parametrize("harm", ["unlink", "shorten"])
def test_a_blob_whose_file_was_harmed_while_open_is_quarantined(store: BlobStore, harm: str) -> None:
    put(store, DATA)
    path = store.save_path / file_name(DIGEST)
    gone: list[Digest] = []
    store.on_evicted(gone.append)
    if harm == "unlink":
        path.unlink()
    else:
        os.truncate(path, 5)
    with pytest.raises(BlobUnknown, match="has lost the blob"), store.committed(DIGEST):
        pass
    assert gone == [DIGEST]
    assert not store.has(DIGEST)
    assert [entry.digest for entry in store.quarantined()] == [DIGEST]
    assert read(store, put(store, DATA)) == DATA


def test_a_reader_never_gets_the_file_that_was_begun_under_the_same_name(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, DATA)
    directory_open = store._shelf.directory.open

    def replaced_just_before(digest: Digest) -> int | None:
        monkeypatch.undo()
        store.remove(digest)
        store.begin(digest, layout_of(DATA))
        return directory_open(digest)

    monkeypatch.setattr(store._shelf.directory, "open", replaced_just_before)
    with pytest.raises(BlobUnknown), store.committed(DIGEST):
        pass
    assert store.partial(DIGEST) is not None
    assert store.quarantined() == []


def test_removing_leaves_readers_their_bytes(store: BlobStore) -> None:
    put(store, DATA)
    with store.committed(DIGEST) as blob:
        assert store.remove(DIGEST)
        assert not store.has(DIGEST)
        assert not blob.path.exists()
        put(store, DATA)
        assert os.pread(blob.fd, len(DATA), 0) == DATA
    assert read(store, DIGEST) == DATA


# Room


def sized(seed: int, pieces: int) -> bytes:
    return content(seed, pieces * PIECE)


def test_the_least_recently_used_goes_first(root: Path) -> None:
    with BlobStore.open(root, quota_bytes=10 * PIECE) as store:
        a, b, c = (put(store, sized(seed, 3)) for seed in range(3))
        gone: list[Digest] = []
        store.on_evicted(gone.append)
        read(store, a)
        d = put(store, sized(3, 3))
        assert gone == [b]
        e = put(store, sized(4, 5))
        assert gone == [b, c, a]
        assert {digest for digest, _ in store.digests()} == {d, e}
        assert names(store) == {file_name(d), file_name(e)}
        assert store.used_bytes == 8 * PIECE


def test_what_is_being_read_is_not_evicted(root: Path) -> None:
    with BlobStore.open(root, quota_bytes=4 * PIECE) as store:
        a, b = put(store, sized(0, 2)), put(store, sized(1, 2))
        with store.committed(a), store.committed(a):
            put(store, sized(2, 1))
            assert store.has(a)
            assert not store.has(b)
            with store.committed(a):
                pass
            with pytest.raises(StoreFull, match=r"quota is 64.00 KiB.*raise \[store\] quota"):
                store.begin(DIGEST, PieceLayout(3 * PIECE, PIECE))
        put(store, sized(3, 3))
        assert not store.has(a)


def test_what_was_read_before_it_was_whole_is_not_evicted_either(root: Path) -> None:
    with BlobStore.open(root, quota_bytes=4 * PIECE) as store:
        data = sized(0, 3)
        partial = store.begin(Digest.of(data), layout_of(data))
        write_all(partial, data)
        with partial.held() as fd:
            partial.commit()
            with pytest.raises(StoreFull):
                store.begin(DIGEST, layout_of(DATA))
            assert os.pread(fd, len(data), 0) == data
        put(store, DATA)
        assert not store.has(Digest.of(data))


def test_what_cannot_fit_evicts_nothing(root: Path) -> None:
    with BlobStore.open(root, quota_bytes=10 * PIECE) as store:
        a = put(store, sized(0, 4))
        with pytest.raises(StoreFull, match="doesn't fit"):
            store.begin(DIGEST, PieceLayout(11 * PIECE, PIECE))
        arriving = store.begin(DIGEST, PieceLayout(6 * PIECE, PIECE))
        with pytest.raises(StoreFull):
            store.begin(Digest.of(b"x"), PieceLayout(5 * PIECE, PIECE))
        assert store.has(a)
        arriving.discard()
        store.begin(Digest.of(b"x"), PieceLayout(6 * PIECE, PIECE))
        assert store.has(a)


def test_a_smaller_quota_takes_effect_with_the_next_blob(root: Path) -> None:
    with BlobStore.open(root) as store:
        digests = [put(store, sized(seed, 2)) for seed in range(5)]
    with BlobStore.open(root, quota_bytes=5 * PIECE) as store:
        assert store.used_bytes == 10 * PIECE
        put(store, sized(9, 1))
        assert [store.has(digest) for digest in digests] == [False, False, False, True, True]


def test_the_order_of_use_survives_a_restart(root: Path) -> None:
    times = iter(range(1, 100))
    with BlobStore.open(root, clock=lambda: float(next(times))) as store:
        a, b, c = (put(store, sized(seed, 1)) for seed in range(3))
        read(store, a)
    with BlobStore.open(root, quota_bytes=3 * PIECE, clock=lambda: float(next(times))) as store:
        assert [digest for digest, _ in store.digests()] == [b, c, a]
        put(store, sized(3, 1))
        assert [digest for digest, _ in store.digests()] == [c, a, Digest.of(sized(3, 1))]


@pytest.mark.parametrize("quota", [0, -1])
def test_a_quota_that_holds_nothing_is_refused(root: Path, quota: int) -> None:
    with pytest.raises(InvalidInput, match="None stands for no quota"):
        BlobStore.open(root, quota_bytes=quota)


def test_the_listener_hears_of_every_way_to_go_until_it_stops(store: BlobStore) -> None:
    gone: list[Digest] = []
    stop = store.on_evicted(gone.append)
    a, b, c = (put(store, sized(seed, 1)) for seed in range(3))
    store.remove(a)
    store.quarantine(b, "wrong")
    assert gone == [a, b]
    stop()
    store.remove(c)
    assert gone == [a, b]


def test_a_listener_may_use_the_store(store: BlobStore) -> None:
    put(store, DATA)

    def put_again(_: Digest) -> None:
        put(store, DATA)

    store.on_evicted(put_again)
    store.remove(DIGEST)
    assert read(store, DIGEST) == DATA


def test_files_are_removed_before_rows_and_a_row_that_stays_blocks_its_digest(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BlobStore.open(root)
    put(store, DATA)

    def full(digests: object) -> None:
        raise StoreFull("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(store._catalogue, "remove_blobs", full)
        with pytest.raises(StoreFull):
            store.remove(DIGEST)
        assert names(store) == set()
        with pytest.raises(StoreFull):
            store.begin(DIGEST, layout_of(DATA))
        assert names(store) == set()
    write_all(store.begin(DIGEST, layout_of(DATA)), DATA)
    die(store)
    with BlobStore.open(root) as again:
        assert (again.opening.blobs, again.opening.leftovers) == (0, 1)


def test_a_commit_whose_row_cannot_be_written_can_be_tried_again(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = store.begin(DIGEST, layout_of(DATA))
    write_all(partial, DATA)

    def full(*_: object) -> None:
        raise StoreFull("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(store._catalogue, "add_blob", full)
        with pytest.raises(StoreFull):
            partial.commit()
    assert not store.has(DIGEST)
    assert not partial.committed
    partial.commit()
    assert read(store, DIGEST) == DATA


# Quarantine


def test_quarantine_throws_away_whole_and_partial_and_tells_why(store: BlobStore) -> None:
    put(store, DATA)
    store.quarantine(DIGEST, "its tracker lied")
    assert not store.has(DIGEST)
    partial = store.begin(DIGEST, layout_of(DATA))
    store.quarantine(DIGEST, "it lied again")
    assert partial.discarded
    store.quarantine(Digest.of(b"unseen"), "only heard of")
    assert [(entry.digest, entry.reason) for entry in store.quarantined()] == [
        (Digest.of(b"unseen"), "only heard of"),
        (DIGEST, "it lied again"),
        (DIGEST, "its tracker lied"),
    ]
    assert read(store, put(store, DATA)) == DATA


def test_quarantines_are_kept_over_a_restart_but_not_for_ever(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pdist.store.catalogue.QUARANTINE_ROWS", 3)
    with BlobStore.open(root, clock=lambda: 12.5) as store:
        for number in range(5):
            store.quarantine(DIGEST, f"reason {number}")
    with BlobStore.open(root) as store:
        assert [entry.reason for entry in store.quarantined()] == ["reason 4", "reason 3", "reason 2"]
        assert store.quarantined()[0].at_seconds == 12.5


# Records


def test_the_record_is_kept_from_the_beginning_on(root: Path) -> None:
    metainfo = metainfo_of(DATA)
    with BlobStore.open(root) as store:
        partial = store.begin(DIGEST, layout_of(DATA), upstream="docker.io", repository="library/app")
        assert store.record(DIGEST) == BlobRecord(DIGEST, len(DATA), False, "docker.io", "library/app", None)
        store.save_metainfo(DIGEST, metainfo)
        store.annotate(DIGEST, private=True, upstream="ghcr.io", repository="a/b")
        expected = BlobRecord(DIGEST, len(DATA), True, "ghcr.io", "a/b", metainfo)
        assert store.record(DIGEST) == expected
        write_all(partial, DATA)
        partial.commit()
        assert store.record(DIGEST) == expected
    with BlobStore.open(root) as store:
        assert store.record(DIGEST) == expected
        assert store.metainfo(DIGEST) == metainfo
        with store.committed(DIGEST) as blob:
            assert blob.private
        store.annotate(DIGEST, private=False, upstream="docker.io", repository="c")
        with store.committed(DIGEST) as blob:
            assert not blob.private
    with BlobStore.open(root) as store:
        assert store.record(DIGEST) == BlobRecord(DIGEST, len(DATA), False, "docker.io", "c", metainfo)
        store.remove(DIGEST)
        assert store.record(DIGEST) is None
        put(store, DATA)
        assert store.metainfo(DIGEST) is None
        store.save_metainfo(DIGEST, metainfo)
        assert store.metainfo(DIGEST) == metainfo


def test_the_torrent_of_an_empty_blob_is_kept(store: BlobStore) -> None:
    digest = put(store, b"")
    store.save_metainfo(digest, metainfo_of(b""))
    assert store.metainfo(digest) == metainfo_of(b"")


def test_the_torrent_of_another_blob_is_refused(store: BlobStore) -> None:
    other = metainfo_of(content(9, PIECE))
    put(store, DATA)
    partial = content(5, 100)
    store.begin(Digest.of(partial), layout_of(partial))
    for digest in (DIGEST, Digest.of(partial)):
        with pytest.raises(InvalidInput, match="was saved for"):
            store.save_metainfo(digest, other)
    with pytest.raises(InvalidInput, match="was saved for"):
        store.begin(Digest.of(b"new"), PieceLayout(3, PIECE), metainfo=other)
    assert store.partial(Digest.of(b"new")) is None


# The directory


def test_one_process_at_a_time(root: Path) -> None:
    with BlobStore.open(root), pytest.raises(StoreLocked, match=rf"{root} is in use by process {os.getpid()}"):
        BlobStore.open(root)
    with BlobStore.open(root) as store:
        put(store, DATA)


def test_a_closed_store_says_so(root: Path) -> None:
    store = BlobStore.open(root)
    put(store, DATA)
    partial = store.begin(Digest.of(b"x"), PieceLayout(1, PIECE))
    reader = store.committed(DIGEST)
    blob = reader.__enter__()
    store.close()
    store.close()
    assert partial.discarded
    assert os.pread(blob.fd, len(DATA), 0) == DATA
    reader.__exit__(None, None, None)
    for attempt in (
        lambda: read(store, DIGEST),
        lambda: store.begin(Digest.of(b"y"), PieceLayout(1, PIECE)),
        lambda: store.verify(DIGEST),
        lambda: store.remove(DIGEST),
        lambda: store.manifest(DIGEST),
        lambda: store.record(DIGEST),
        store.quarantined,
    ):
        with pytest.raises(StoreError, match=r"is closed$"):
            attempt()


def test_records_that_are_not_a_database_name_file_and_remedy(root: Path) -> None:
    root.mkdir()
    (root / "catalogue.sqlite").write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreDamaged, match=rf"catalogue.sqlite: .*delete {root}"):
        BlobStore.open(root)
    (root / "catalogue.sqlite").unlink()
    BlobStore.open(root).close()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("PRAGMA user_version = 7", "has the format 7"),
        ("UPDATE blobs SET digest = 'nonsense'", "is damaged"),
        ("UPDATE metainfo SET hashes = x'00'", "is damaged"),
        ("DROP TABLE blobs", "no such table"),
    ],
)
def test_records_that_make_no_sense_name_the_file(root: Path, harm: str, message: str) -> None:
    with BlobStore.open(root) as store:
        put(store, DATA)
        store.save_metainfo(DIGEST, metainfo_of(DATA))
    db = sqlite3.connect(root / "catalogue.sqlite", isolation_level=None)
    db.execute("PRAGMA foreign_keys = OFF")
    db.execute(harm)
    db.close()
    with (
        pytest.raises(StoreError, match=rf"catalogue.sqlite.*{message}|{message}.*catalogue.sqlite"),
        BlobStore.open(root) as store,
    ):
        store.record(DIGEST)


def test_a_file_where_the_directory_should_be(root: Path) -> None:
    root.write_text("")
    with pytest.raises(StoreError, match="blobs"):
        BlobStore.open(root)


def test_nobody_else_can_read_it(store: BlobStore) -> None:
    put(store, DATA)
    paths = [store.root, store.save_path, store.save_path / file_name(DIGEST)]
    assert [path.stat().st_mode & 0o077 for path in paths] == [0, 0, 0]


def test_a_write_that_fails_leaves_the_piece_missing(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = store.begin(DIGEST, layout_of(DATA))
    pwrite = os.pwrite

    def half(fd: int, data: memoryview, offset: int) -> int:
        if offset % PIECE:
            raise OSError(28, "No space left on device")
        return pwrite(fd, data[: len(data) // 2], offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", half)
        with pytest.raises(StoreFull, match=rf"can't write .* to {partial.path}: No space left.*free space"):
            partial.write_piece(1, piece(DATA, 1))
    assert partial.present_bytes == 0
    write_all(partial, DATA)
    partial.commit()


# Boots


def test_a_clean_close_is_trusted_in_another_boot(root: Path, boot: Callable[[str], Path]) -> None:
    with BlobStore.open(root, boot_id_path=boot("a")) as store:
        put(store, DATA)
    with BlobStore.open(root, boot_id_path=boot("b")) as store:
        assert not store.opening.unclean_boot
        assert store.has(DIGEST)


def test_a_killed_process_is_trusted_in_the_same_boot(root: Path, boot: Callable[[str], Path]) -> None:
    store = BlobStore.open(root, boot_id_path=boot("a"))
    put(store, DATA)
    die(store)
    with BlobStore.open(root, boot_id_path=boot("a")) as store:
        assert not store.opening.unclean_boot
        assert read(store, DIGEST) == DATA


def test_after_a_host_crash_nothing_is_served_before_it_is_verified(root: Path, boot: Callable[[str], Path]) -> None:
    store = BlobStore.open(root, boot_id_path=boot("a"))
    good, bad = put(store, DATA), put(store, content(2, PIECE))
    (store.save_path / file_name(bad)).write_bytes(bytes(PIECE))
    die(store)
    store = BlobStore.open(root, boot_id_path=boot("b"))
    assert store.opening.unclean_boot
    assert store.unverified() == [bad, good]
    assert list(store.digests()) == []
    for digest in (good, bad):
        assert not store.has(digest)
        with pytest.raises(BlobUnverified), store.committed(digest):
            pass
        with pytest.raises(BlobUnverified):
            store.begin(digest, PieceLayout(1, PIECE))
    assert store.verify(good)
    assert read(store, good) == DATA
    die(store)

    # One that wasn't verified stays so, whatever happens to the process in this boot or how it is closed.
    for name in ("b", "b", "c"):
        with BlobStore.open(root, boot_id_path=boot(name)) as store:
            assert not store.opening.unclean_boot
            assert store.unverified() == [bad]
            assert store.has(good)
    with BlobStore.open(root, boot_id_path=boot("d")) as store:
        gone: list[Digest] = []
        store.on_evicted(gone.append)
        assert not store.verify(bad)
        assert gone == [bad]
        assert store.unverified() == []
        assert "have the digest" in store.quarantined()[0].reason
        with pytest.raises(BlobUnknown):
            store.verify(bad)
        assert read(store, put(store, content(2, PIECE))) == content(2, PIECE)


def test_a_boot_that_has_no_name_equals_no_other(root: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    with BlobStore.open(root, boot_id_path=nowhere) as store:
        put(store, DATA)
    store = BlobStore.open(root, boot_id_path=nowhere)
    assert store.has(DIGEST)
    die(store)
    with BlobStore.open(root, boot_id_path=nowhere) as store:
        assert store.unverified() == [DIGEST]


def test_unverified_blobs_are_evicted_like_others(root: Path, boot: Callable[[str], Path]) -> None:
    store = BlobStore.open(root, boot_id_path=boot("a"))
    put(store, DATA)
    die(store)
    with BlobStore.open(root, quota_bytes=3 * PIECE, boot_id_path=boot("b")) as store:
        put(store, content(4, PIECE))
        assert store.unverified() == []


def test_closing_syncs_what_is_whole_before_it_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noting(fd: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noting)
    store = BlobStore.open(root)
    put(store, DATA)
    (store.save_path / file_name(put(store, b"deleted by hand"))).unlink()
    assert synced == []
    die(store)
    BlobStore.open(root).close()
    assert synced == [file_name(DIGEST), "blobs"]
    BlobStore.open(root).close()
    assert synced == [file_name(DIGEST), "blobs", "blobs"]


def test_a_disk_that_fails_at_closing_makes_the_next_boot_verify(
    root: Path, boot: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    store = BlobStore.open(root, boot_id_path=boot("a"))
    put(store, DATA)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", broken)
        with pytest.raises(StoreError, match="the disk reports an error"):
            store.close()
    with BlobStore.open(root, boot_id_path=boot("b")) as store:
        assert store.unverified() == [DIGEST]
