"""The records of the store in one SQLite database: which blobs are whole, torrents, manifests, the boot.

A row in `blobs` is what makes a blob's file count as committed. The database is in WAL mode and doesn't sync on every
commit: a killed process loses nothing (the kernel has the pages), a crashed host may lose the newest rows, and then
the boot id makes every blob be verified. Only the beginning and the clean end of a session reach the disk before the
call returns. Knows nothing about files other than its own.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from p2pdist.core.digest import Digest
from p2pdist.core.errors import P2PDistError, StoreError
from p2pdist.core.metainfo import Metainfo
from p2pdist.core.pieces import PieceLayout
from p2pdist.store.errors import StoreDamaged, catalogue_error
from p2pdist.store.records import BlobRecord, KnownTag, Quarantined, StoredManifest

TAG_ROWS = 100_000
MANIFESTS_BYTES = 256 * 1024 * 1024
QUARANTINE_ROWS = 1000
_HASH_BYTES = 32
_VERSION = 1
_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE session (boot_id TEXT NOT NULL, clean INTEGER NOT NULL);
INSERT INTO session VALUES ('', 1);
CREATE TABLE blobs (
    digest TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL, private INTEGER NOT NULL, upstream TEXT NOT NULL,
    repository TEXT NOT NULL, last_used REAL NOT NULL, verified INTEGER NOT NULL, durable INTEGER NOT NULL);
CREATE TABLE metainfo (
    digest TEXT PRIMARY KEY REFERENCES blobs ON DELETE CASCADE, piece_bytes INTEGER NOT NULL, hashes BLOB NOT NULL);
CREATE TABLE manifests (
    digest TEXT PRIMARY KEY, media_type TEXT NOT NULL, upstream TEXT NOT NULL, repository TEXT NOT NULL,
    private INTEGER NOT NULL, last_used REAL NOT NULL, size_bytes INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX manifests_by_use ON manifests (last_used, size_bytes);
CREATE TABLE quarantine (digest TEXT NOT NULL, reason TEXT NOT NULL, at_seconds REAL NOT NULL);
PRAGMA user_version = 1;
COMMIT;
"""
# Added after version 1 was out; whoever doesn't know it doesn't miss it.
_TAGS_SCHEMA = """
CREATE TABLE IF NOT EXISTS tags (
    upstream TEXT NOT NULL, repository TEXT NOT NULL, tag TEXT NOT NULL, digest TEXT NOT NULL, at_seconds REAL NOT NULL,
    PRIMARY KEY (upstream, repository, tag));
"""


@dataclass(frozen=True, slots=True)
class BlobRow:
    """What is kept in memory of a committed blob."""

    digest: Digest
    size_bytes: int
    private: bool
    verified: bool


class Catalogue:
    """One connection, used by one thread at a time; every method may wait for the disk and raises `StoreError`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._used: dict[Digest, float] = {}
        self._closed = False
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise catalogue_error(error, path) from error
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        with self._reading() as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA foreign_keys = ON")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                db.executescript(_SCHEMA)
            elif version != _VERSION:
                raise StoreError(
                    f"{self.path} has the format {version}, this program knows {_VERSION}: run the program that wrote "
                    f"it, or stop the daemon and delete {self.path.parent}; blobs are fetched again when wanted"
                )
            db.execute(_TAGS_SCHEMA)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._closed:
                raise StoreError(f"the store at {self.path.parent} is closed")
            try:
                yield self._db
            except sqlite3.Error as error:
                raise catalogue_error(error, self.path) from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction; it takes along the times of use that were noted since the last one."""
        with self._reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                self._write_uses(db)
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    # Sessions

    def begin_session(self, boot_id: str) -> bool:
        """Note on the disk that the store is open in this boot; True when the last session ended by a host crash.

        Then every blob is marked as unverified in the same transaction. An empty `boot_id` equals no other.
        """
        with self._durably(), self._writing() as db:
            last, clean = db.execute("SELECT boot_id, clean FROM session").fetchone()
            unclean = not clean and (not boot_id or boot_id != last)
            if unclean:
                db.execute("UPDATE blobs SET verified = 0, durable = 0")
            db.execute("UPDATE session SET boot_id = ?, clean = 0", (boot_id,))
        return unclean

    def not_durable(self) -> list[Digest]:
        """The blobs whose bytes weren't synced to the disk yet."""
        with self._reading() as db:
            rows = db.execute("SELECT digest FROM blobs WHERE durable = 0").fetchall()
        return [self._digest(row[0]) for row in rows]

    def end_session(self) -> None:
        """Note on the disk that the store was closed cleanly, every blob's bytes being there."""
        with self._durably(), self._writing() as db:
            db.execute("UPDATE blobs SET durable = 1")
            db.execute("UPDATE session SET clean = 1")

    def close(self) -> None:
        """Close the connection; the session ends cleanly only by `end_session`."""
        with self._lock:
            self._closed = True
            self._db.close()

    @contextmanager
    def _durably(self) -> Iterator[None]:
        with self._reading() as db:
            db.execute("PRAGMA synchronous = FULL")
        try:
            yield
        finally:
            with self._reading() as db:
                db.execute("PRAGMA synchronous = NORMAL")

    # Blobs

    def blobs(self) -> list[BlobRow]:
        """Every committed blob, the one that was used longest ago first."""
        query = "SELECT digest, size_bytes, private, verified FROM blobs ORDER BY last_used, rowid"
        with self._reading() as db:
            rows = db.execute(query).fetchall()
        return [
            BlobRow(self._digest(text), size, bool(private), bool(verified)) for text, size, private, verified in rows
        ]

    def add_blob(self, record: BlobRecord, now: float) -> None:
        """From now on the blob is whole."""
        with self._writing() as db:
            db.execute(
                "INSERT INTO blobs VALUES (?, ?, ?, ?, ?, ?, 1, 0)",
                (str(record.digest), record.size_bytes, record.private, record.upstream, record.repository, now),
            )
            if record.metainfo is not None:
                self._put_metainfo(db, record.metainfo)

    def remove_blobs(self, digests: Iterable[Digest]) -> None:
        """Forget these blobs."""
        with self._writing() as db:
            db.executemany("DELETE FROM blobs WHERE digest = ?", [(str(digest),) for digest in digests])

    def mark_verified(self, digest: Digest) -> None:
        """The blob's bytes were read and hold."""
        with self._writing() as db:
            db.execute("UPDATE blobs SET verified = 1 WHERE digest = ?", (str(digest),))

    def annotate(self, digest: Digest, private: bool, upstream: str, repository: str) -> None:
        """Replace what the caller wrote down about a committed blob."""
        with self._writing() as db:
            db.execute(
                "UPDATE blobs SET private = ?, upstream = ?, repository = ? WHERE digest = ?",
                (private, upstream, repository, str(digest)),
            )

    def make_private(self, upstream: str, repository: str) -> list[Digest]:
        """Mark every committed blob that came from there as private; those that weren't marked before."""
        with self._writing() as db:
            rows = db.execute(
                """UPDATE blobs SET private = 1 WHERE upstream = ? AND repository = ? AND NOT private
                   RETURNING digest""",
                (upstream, repository),
            ).fetchall()
        return [self._digest(row[0]) for row in rows]

    def blob(self, digest: Digest) -> BlobRecord | None:
        """The record of a committed blob."""
        query = """SELECT size_bytes, private, upstream, repository, piece_bytes, hashes
                   FROM blobs LEFT JOIN metainfo USING (digest) WHERE digest = ?"""
        with self._reading() as db:
            row = db.execute(query, (str(digest),)).fetchone()
        if row is None:
            return None
        size_bytes, private, upstream, repository, piece_bytes, hashes = row
        metainfo = None if hashes is None else self._metainfo(digest, size_bytes, piece_bytes, hashes)
        return BlobRecord(digest, size_bytes, bool(private), upstream, repository, metainfo)

    def save_metainfo(self, metainfo: Metainfo) -> None:
        """Keep the torrent of a committed blob."""
        with self._writing() as db:
            self._put_metainfo(db, metainfo)

    def note_quarantine(self, digest: Digest, reason: str, now: float) -> None:
        """Write down why a blob's data was thrown away; the newest `QUARANTINE_ROWS` are kept."""
        with self._writing() as db:
            db.execute("INSERT INTO quarantine VALUES (?, ?, ?)", (str(digest), reason, now))
            db.execute(
                "DELETE FROM quarantine WHERE rowid <= (SELECT max(rowid) FROM quarantine) - ?", (QUARANTINE_ROWS,)
            )

    def quarantined(self) -> list[Quarantined]:
        """What was quarantined, newest first, as far back as it is kept."""
        with self._reading() as db:
            rows = db.execute("SELECT digest, reason, at_seconds FROM quarantine ORDER BY rowid DESC").fetchall()
        return [Quarantined(self._digest(text), reason, at_seconds) for text, reason, at_seconds in rows]

    # Manifests

    def put_manifest(self, manifest: StoredManifest, now: float) -> None:
        """Keep a manifest; those used longest ago go when all together exceed `MANIFESTS_BYTES`."""
        with self._writing() as db:
            db.execute(
                "INSERT OR REPLACE INTO manifests VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    str(manifest.digest),
                    manifest.media_type,
                    manifest.upstream,
                    manifest.repository,
                    manifest.private,
                    now,
                    len(manifest.body),
                    manifest.body,
                ),
            )
            db.execute(
                """DELETE FROM manifests WHERE rowid IN (SELECT id FROM (
                       SELECT rowid AS id, sum(size_bytes) OVER (
                           ORDER BY last_used DESC, rowid DESC ROWS UNBOUNDED PRECEDING) AS total FROM manifests)
                   WHERE total > ?)""",
                (MANIFESTS_BYTES,),
            )

    def manifest(self, digest: Digest) -> StoredManifest | None:
        """A manifest as it was put, unchecked."""
        query = "SELECT media_type, body, upstream, repository, private FROM manifests WHERE digest = ?"
        with self._reading() as db:
            row = db.execute(query, (str(digest),)).fetchone()
        if row is None:
            return None
        media_type, body, upstream, repository, private = row
        return StoredManifest(digest, media_type, body, upstream, repository, bool(private))

    def remove_manifest(self, digest: Digest) -> None:
        """Forget a manifest."""
        with self._writing() as db:
            db.execute("DELETE FROM manifests WHERE digest = ?", (str(digest),))

    # Tags

    def put_tag(self, upstream: str, repository: str, tag: str, known: KnownTag) -> None:
        """Keep what a tag points at; those that were confirmed longest ago go when there are too many."""
        with self._writing() as db:
            db.execute(
                "INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?, ?)",
                (upstream, repository, tag, str(known.digest), known.at_seconds),
            )
            db.execute(
                "DELETE FROM tags WHERE rowid IN (SELECT rowid FROM tags ORDER BY at_seconds DESC LIMIT -1 OFFSET ?)",
                (TAG_ROWS,),
            )

    def tag(self, upstream: str, repository: str, tag: str) -> KnownTag | None:
        """What a tag pointed at, and when that was said last."""
        query = "SELECT digest, at_seconds FROM tags WHERE upstream = ? AND repository = ? AND tag = ?"
        with self._reading() as db:
            row = db.execute(query, (upstream, repository, tag)).fetchone()
        return None if row is None else KnownTag(self._digest(row[0]), row[1])

    def remove_tags(self, upstream: str, repository: str, tag: str | None) -> None:
        """Forget a tag, or (None) all of a repository."""
        with self._writing() as db:
            db.execute(
                "DELETE FROM tags WHERE upstream = ? AND repository = ? AND (tag = ? OR ? IS NULL)",
                (upstream, repository, tag, tag),
            )

    # Times of use

    def note_use(self, digest: Digest, now: float) -> None:
        """The blob or manifest was used; it is written with the next transaction. Waits for nothing."""
        self._used[digest] = now

    def _write_uses(self, db: sqlite3.Connection) -> None:
        uses: list[tuple[float, str]] = []
        while self._used:
            digest, now = self._used.popitem()
            uses.append((now, str(digest)))
        db.executemany("UPDATE blobs SET last_used = ? WHERE digest = ?", uses)
        db.executemany("UPDATE manifests SET last_used = ? WHERE digest = ?", uses)

    # Values in rows

    def _put_metainfo(self, db: sqlite3.Connection, metainfo: Metainfo) -> None:
        row: Sequence[str | int | bytes] = (
            str(metainfo.digest),
            metainfo.layout.piece_bytes,
            b"".join(metainfo.hashes),
        )
        db.execute("INSERT OR REPLACE INTO metainfo VALUES (?, ?, ?)", row)

    def _metainfo(self, digest: Digest, size_bytes: int, piece_bytes: int, hashes: bytes) -> Metainfo:
        pieces = tuple(hashes[i : i + _HASH_BYTES] for i in range(0, len(hashes), _HASH_BYTES))
        try:
            return Metainfo(digest, PieceLayout(size_bytes, piece_bytes), pieces)
        except P2PDistError as error:
            raise self._damaged(error) from error

    def _digest(self, text: str) -> Digest:
        try:
            return Digest.parse(text)
        except P2PDistError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: P2PDistError) -> StoreDamaged:
        return StoreDamaged(
            f"{self.path} is damaged ({error}); stop the daemon and delete {self.path.parent}: blobs are fetched again"
        )
