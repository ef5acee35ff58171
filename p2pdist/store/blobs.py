"""The content-addressed store: one file per blob, from the first piece until it is evicted.

**A blob's file never moves.** It is created sparse, at its full size, directly under `blobs/` by the name that its
torrent gives it, and stays at that path when it becomes whole: libtorrent opens files by path whenever it likes and
keeps them open, the shim and the relay hold descriptors, and a rename from a partial to a final name would leave the
one looking for a file that is gone and win nothing for the others. What makes a blob *committed* is a row in the
catalogue, written by one SQLite transaction after its digest held. So at every moment a file without a row is a
leftover, and a row without a file of the right size is a loss; `open` removes the former and forgets the latter, by
names and sizes alone.

**What a crash can do.** A killed process leaves all that it wrote with the kernel. A crashed host may lose bytes whose
row survived; therefore the boot id is kept with the note whether the store was closed cleanly, and when that wasn't so
every blob must pass `verify` before it is served. A clean close syncs the blobs first. Nothing is synced for the sake
of keeping it: blobs can be fetched again.

**Locks.** `_change` orders everything that touches the disk and is held over I/O; the index has its own, held for
microseconds. `has`, `digests`, `partial`, the sizes and all that a `PartialBlob` does with pieces never wait for the
disk and may be called from an event loop; everything else belongs in a worker thread. Callbacks run outside all locks.

Mustn't know: trio, the network, where bytes come from, who may see a private blob.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

from p2pdist.core.digest import Digest
from p2pdist.core.errors import BlobUnknown, DigestInvalid, InvalidInput, StoreError
from p2pdist.core.metainfo import Metainfo
from p2pdist.core.pieces import PieceLayout
from p2pdist.store.catalogue import Catalogue
from p2pdist.store.errors import BlobBusy, BlobDiscarded, BlobUnverified, StoreFull, os_errors
from p2pdist.store.files import BOOT_ID_PATH, BlobDirectory, DirectoryLock, read_boot_id
from p2pdist.store.index import Entry
from p2pdist.store.partial import PartialBlob
from p2pdist.store.prefix import PrefixHasher
from p2pdist.store.records import BlobRecord, CommittedBlob, KnownTag, Opening, Quarantined, StoredManifest
from p2pdist.store.shelf import Shelf
from p2pdist.store.space import Space

MAX_MANIFEST_BYTES = 4 * 1024 * 1024
Evicted = Callable[[Digest], None]


class BlobStore:
    """Blobs and manifests under one directory; made by `open`, thread-safe, a context manager that closes it."""

    def __init__(
        self,
        root: Path,
        quota_bytes: int | None,
        shelf: Shelf,
        opening: Opening,
        clock: Callable[[], float],
        closing: ExitStack,
    ) -> None:
        self.root = root
        self.quota_bytes = quota_bytes
        self.opening = opening
        self._shelf = shelf
        self._index = shelf.index
        self._catalogue = shelf.catalogue
        self._clock = clock
        self._closing = closing
        self._closed = False
        self._change = threading.Lock()
        self._partials: dict[Digest, PartialBlob] = {}
        self._arriving: dict[Digest, BlobRecord] = {}
        self._callbacks: tuple[Evicted, ...] = ()

    # The store as a whole

    @classmethod
    def open(
        cls,
        root: Path,
        quota_bytes: int | None = None,
        *,
        boot_id_path: Path = BOOT_ID_PATH,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Open or create the store in `root`; `quota_bytes` bounds the sizes of all its blobs, None doesn't.

        Reads no blob. What it found is in `opening`. Raises `StoreLocked` when another process has it,
        `StoreDamaged` when its records can't be read, `StoreError` when the directory can't be used.
        """
        if quota_bytes is not None and quota_bytes <= 0:
            raise InvalidInput(f"a quota of {quota_bytes} bytes holds nothing; None stands for no quota")
        directory = BlobDirectory(root / "blobs")
        with os_errors("create", directory.path):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.path.mkdir(mode=0o700, exist_ok=True)
        with ExitStack() as closing:
            closing.callback(DirectoryLock(root).release)
            catalogue = Catalogue(root / "catalogue.sqlite")
            closing.callback(catalogue.close)
            shelf, opening = Shelf.reconcile(directory, catalogue, read_boot_id(boot_id_path))
            return cls(root, quota_bytes, shelf, opening, clock, closing.pop_all())

    def close(self) -> None:
        """Give up what is partial, have the disk hold what is whole, and unlock the directory; again does nothing.

        Descriptors that readers hold stay good. Raises `StoreError` when the disk fails; the next `open` in another
        boot then has every blob verified.
        """
        with self._change:
            if self._closed:
                return
            self._closed = True
        for partial in list(self._partials.values()):
            partial.discard()
        with self._change, self._closing:
            self._shelf.end_session()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def save_path(self) -> Path:
        """The directory that holds the blobs' files, partial and whole: what libtorrent calls a save path."""
        return self._shelf.directory.path

    @property
    def used_bytes(self) -> int:
        """The sizes of all committed blobs together."""
        return self._index.used_bytes

    def on_evicted(self, callback: Evicted) -> Callable[[], None]:
        """Call `callback` with the digest of every committed blob that goes, whatever the reason; returns how to stop.

        It is called after the file was unlinked, in the thread that did it, and must neither wait nor raise.
        """

        def call(digest: Digest) -> None:
            callback(digest)

        def stop() -> None:
            with self._change:
                self._callbacks = tuple(other for other in self._callbacks if other is not call)

        with self._change:
            self._callbacks = (*self._callbacks, call)
        return stop

    # Asking

    def has(self, digest: Digest) -> bool:
        """Whether the blob is whole and may be served."""
        entry = self._index.get(digest)
        return entry is not None and entry.verified

    def digests(self) -> Iterator[tuple[Digest, int]]:
        """Digest and size in bytes of every blob that may be served."""
        return ((entry.digest, entry.size_bytes) for entry in self._index.entries() if entry.verified)

    def partial(self, digest: Digest) -> PartialBlob | None:
        """The blob that is arriving under this digest."""
        return self._partials.get(digest)

    def record(self, digest: Digest) -> BlobRecord | None:
        """What is known about a blob, partial, unverified or committed; None when there is none."""
        return self._arriving.get(digest) or self._catalogue.blob(digest)

    def metainfo(self, digest: Digest) -> Metainfo | None:
        """The torrent of a blob, if one was saved."""
        record = self.record(digest)
        return None if record is None else record.metainfo

    @contextmanager
    def committed(self, digest: Digest) -> Iterator[CommittedBlob]:
        """The whole blob, open for reading and never evicted inside the block; this counts as a use.

        Raises `BlobUnknown` when it isn't there, `BlobUnverified` when it has to pass `verify` first, `StoreError`
        when it can't be opened.
        """
        with self._pinned(digest) as entry:
            if not entry.verified:
                raise BlobUnverified(f"{digest} outlived a crash of the host and must be verified before it is served")
            fd = self._open(entry)
            try:
                self._catalogue.note_use(digest, self._clock())
                yield CommittedBlob(
                    digest, entry.size_bytes, entry.private, self._shelf.directory.file_path(digest), fd
                )
            finally:
                os.close(fd)

    # Writing

    def begin(
        self,
        digest: Digest,
        layout: PieceLayout,
        *,
        private: bool = False,
        upstream: str = "",
        repository: str = "",
        metainfo: Metainfo | None = None,
    ) -> PartialBlob:
        """A sparse file for a new blob; evicts what was used longest ago to make room.

        Raises `BlobBusy` when it is there, whole or partial; `BlobUnverified` when it must be verified;
        `StoreFull`, having evicted nothing, when quota or filesystem can't hold it.
        """
        record = _with_metainfo(BlobRecord(digest, layout.size_bytes, private, upstream, repository, None), metainfo)
        with self._changing() as gone:
            self._check_absent(digest)
            self._make_room(record, gone)
            self._shelf.lay_ghosts()
            file = self._shelf.directory.create(digest, layout.size_bytes)
            partial = PartialBlob(digest, layout, file, keep=self._keep_partial, drop=self._drop_partial)
            self._partials[digest] = partial
            self._arriving[digest] = record
            return partial

    def annotate(self, digest: Digest, *, private: bool, upstream: str, repository: str) -> None:
        """Replace what was written down about a blob, partial or whole; raises `BlobUnknown` when there is none."""
        with self._changing():
            if digest in self._arriving:
                self._arriving[digest] = replace(
                    self._arriving[digest], private=private, upstream=upstream, repository=repository
                )
                return
            entry = self._entry(digest)
            self._catalogue.annotate(digest, private, upstream, repository)
            entry.private = private

    def make_private(self, upstream: str, repository: str) -> list[Digest]:
        """Write down that what came from there is private from now on; the blobs, partial ones too, that weren't."""
        with self._changing():
            changed = []
            for digest, record in self._arriving.items():
                if (record.upstream, record.repository) == (upstream, repository) and not record.private:
                    self._arriving[digest] = replace(record, private=True)
                    changed.append(digest)
            for digest in self._catalogue.make_private(upstream, repository):
                entry = self._index.get(digest)
                if entry is not None:
                    entry.private = True
                changed.append(digest)
            return changed

    def save_metainfo(self, digest: Digest, metainfo: Metainfo) -> None:
        """Keep the torrent of a blob, partial or whole.

        Raises `BlobUnknown` when there is no blob, `InvalidInput` when the torrent is another blob's.
        """
        with self._changing():
            if digest in self._arriving:
                self._arriving[digest] = _with_metainfo(self._arriving[digest], metainfo)
                return
            entry = self._entry(digest)
            _with_metainfo(BlobRecord(digest, entry.size_bytes, entry.private, "", "", None), metainfo)
            self._catalogue.save_metainfo(metainfo)

    def remove(self, digest: Digest) -> bool:
        """Remove a whole blob, even one that is being read (its readers' descriptors stay good); False if none."""
        with self._changing() as gone:
            entry = self._index.get(digest)
            if entry is None or not self._index.take(entry):
                return False
            self._forget([entry], gone)
            return True

    def quarantine(self, digest: Digest, reason: str) -> None:
        """Throw away the data of a blob, partial or whole, because it is wrong, and write down why.

        The digest can be begun again at once, so that the next pull may succeed.
        """
        partial = self._partials.get(digest)
        if partial is not None:
            partial.discard()
        with self._changing() as gone:
            entry = self._index.get(digest)
            self._quarantine(digest, entry, reason, gone)

    def quarantined(self) -> list[Quarantined]:
        """The newest thousand quarantines, newest first."""
        return self._catalogue.quarantined()

    # After an unclean boot

    def unverified(self) -> list[Digest]:
        """The blobs that must pass `verify` before they are served, the most recently used first."""
        return [entry.digest for entry in reversed(self._index.entries()) if not entry.verified]

    def verify(self, digest: Digest) -> bool:
        """Read the whole blob: True when its digest holds; else it is quarantined. For a worker thread.

        Raises `BlobUnknown` when it isn't there, `StoreError` when the disk fails or the store is closed meanwhile.
        """
        with self._pinned(digest) as entry:
            fd = self._open(entry)
            try:
                hasher = PrefixHasher(digest)
                path = self._shelf.directory.file_path(digest)
                hasher.advance(fd, path, entry.size_bytes, lambda: not self._closed)
            finally:
                os.close(fd)
            with self._changing() as gone:
                if hasher.found() == digest:
                    self._shelf.mark_verified(entry)
                    return True
                self._quarantine(digest, entry, f"its bytes on the disk have the digest {hasher.found()}", gone)
                return False

    # Manifests

    def put_manifest(
        self, digest: Digest, media_type: str, body: bytes, upstream: str, repository: str, *, private: bool = False
    ) -> None:
        """Keep a manifest or index, byte for byte.

        Raises `DigestInvalid` when `body` has another digest, `InvalidInput` when it is over 4 MiB.
        """
        if len(body) > MAX_MANIFEST_BYTES:
            raise InvalidInput(f"the manifest {digest} has {len(body)} bytes; {MAX_MANIFEST_BYTES} are allowed")
        found = Digest.of(body, digest.algorithm)
        if found != digest:
            raise DigestInvalid(f"the manifest that came as {digest} has the digest {found}")
        manifest = StoredManifest(digest, media_type, body, upstream, repository, private)
        self._catalogue.put_manifest(manifest, self._clock())

    def manifest(self, digest: Digest) -> StoredManifest | None:
        """The manifest with this digest, checked against it; None when there is none or it was damaged."""
        manifest = self._catalogue.manifest(digest)
        if manifest is None:
            return None
        if Digest.of(manifest.body, digest.algorithm) != digest:
            self._catalogue.remove_manifest(digest)
            return None
        self._catalogue.note_use(digest, self._clock())
        return manifest

    # Tags

    def put_tag(self, upstream: str, repository: str, tag: str, digest: Digest, at_seconds: float) -> None:
        """Keep what an upstream said of a tag, at this Unix time."""
        self._catalogue.put_tag(upstream, repository, tag, KnownTag(digest, at_seconds))

    def tag(self, upstream: str, repository: str, tag: str) -> KnownTag | None:
        """What an upstream last said of a tag."""
        return self._catalogue.tag(upstream, repository, tag)

    def remove_tags(self, upstream: str, repository: str, tag: str | None = None) -> None:
        """Forget what an upstream said of a tag, or of all of a repository."""
        self._catalogue.remove_tags(upstream, repository, tag)

    # What PartialBlob calls

    def _keep_partial(self, partial: PartialBlob) -> None:
        with self._changing():
            if self._partials.get(partial.digest) is not partial:
                raise BlobDiscarded(f"{partial.digest} was given up before it was committed; begin it again")
            record = self._arriving[partial.digest]
            self._shelf.keep(record, partial.file, self._clock())
            self._end_partial(partial.digest)

    def _drop_partial(self, partial: PartialBlob) -> bool:
        with self._change:
            if self._partials.get(partial.digest) is not partial:
                return False
            self._end_partial(partial.digest)
            # Without a row it is a leftover: should it resist now, the next begin or open removes it, or says why not.
            with suppress(StoreError):
                self._shelf.directory.remove(partial.digest)
            return True

    def _end_partial(self, digest: Digest) -> None:
        del self._partials[digest]
        del self._arriving[digest]

    # Inside

    @contextmanager
    def _changing(self) -> Iterator[list[Digest]]:
        """One change of what is on the disk; tells the listeners of the digests that were put into the list."""
        gone: list[Digest] = []
        callbacks: tuple[Evicted, ...] = ()
        try:
            with self._change:
                self._check_open()
                callbacks = self._callbacks
                yield gone
        finally:
            for digest in gone:
                for callback in callbacks:
                    callback(digest)

    @contextmanager
    def _pinned(self, digest: Digest) -> Iterator[Entry]:
        self._check_open()
        entry = self._index.pin(digest)
        if entry is None:
            raise BlobUnknown(f"the store at {self.root} has no blob {digest}")
        try:
            yield entry
        finally:
            self._index.unpin(entry)

    def _open(self, entry: Entry) -> int:
        """A descriptor of the file that `entry` means, not of one that was begun under its name meanwhile."""
        problem = "its file was removed"
        fd = self._shelf.directory.open(entry.digest)
        if fd is not None:
            size_bytes = os.fstat(fd).st_size
            if size_bytes == entry.size_bytes and self._index.get(entry.digest) is entry:
                return fd
            os.close(fd)
            problem = f"its file has {size_bytes} bytes instead of {entry.size_bytes}"
        with self._changing() as gone:
            if self._index.get(entry.digest) is entry:
                self._quarantine(entry.digest, entry, problem, gone)
        raise BlobUnknown(f"the store at {self.root} has lost the blob {entry.digest}: {problem}")

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"the store at {self.root} is closed")

    def _entry(self, digest: Digest) -> Entry:
        entry = self._index.get(digest)
        if entry is None:
            raise BlobUnknown(f"the store at {self.root} has no blob {digest}")
        return entry

    def _check_absent(self, digest: Digest) -> None:
        if digest in self._partials:
            raise BlobBusy(f"{digest} is already arriving; take part in that, or wait for its end")
        entry = self._index.get(digest)
        if entry is not None and entry.verified:
            raise BlobBusy(f"{digest} is already whole; read it")
        if entry is not None:
            raise BlobUnverified(f"{digest} outlived a crash of the host; verify it before it is fetched again")

    def _make_room(self, record: BlobRecord, gone: list[Digest]) -> None:
        arriving = self._partials.values()
        space = Space(
            quota=self.quota_bytes,
            free=self._shelf.directory.free_bytes(),
            used=self.used_bytes,
            reserved=sum(partial.layout.size_bytes for partial in arriving),
            written=sum(partial.present_bytes for partial in arriving),
        )
        lacking = space.lacking(record.size_bytes)
        if lacking <= 0:
            return
        victims = self._index.take_idle(lacking)
        if victims is None:
            raise StoreFull(space.why_full(record.digest, record.size_bytes, self.root))
        self._forget(victims, gone)

    def _quarantine(self, digest: Digest, entry: Entry | None, reason: str, gone: list[Digest]) -> None:
        taken = [entry] if entry is not None and self._index.take(entry) else []
        self._forget(taken, gone)
        self._catalogue.note_quarantine(digest, reason, self._clock())

    def _forget(self, entries: list[Entry], gone: list[Digest]) -> None:
        gone.extend(entry.digest for entry in entries)
        self._shelf.forget(entries)


def _with_metainfo(record: BlobRecord, metainfo: Metainfo | None) -> BlobRecord:
    if metainfo is not None and (metainfo.digest, metainfo.layout.size_bytes) != (record.digest, record.size_bytes):
        raise InvalidInput(
            f"the torrent of {metainfo.digest} ({metainfo.layout.size_bytes} bytes) was saved for {record.digest}, "
            f"which has {record.size_bytes} bytes"
        )
    return replace(record, metainfo=metainfo)
