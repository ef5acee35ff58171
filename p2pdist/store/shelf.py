"""The committed blobs on the disk: file, row and index entry of each kept in agreement.

A blob is whole because it has a row. Removing goes file first, then row: a full disk, on which SQLite can't write
either, gets room that way. When a row can't be removed its digest is a *ghost*, and nothing may be begun until the row
is gone: with a row, a new partial file under that name would look whole after a crash. One caller at a time; it may
wait for the disk. Knows nothing of partial blobs, quota and who reads.
"""

from collections.abc import Iterable
from typing import Self

from p2pdist.core.digest import Digest
from p2pdist.store.catalogue import Catalogue
from p2pdist.store.files import BlobDirectory, SharedFile
from p2pdist.store.index import Entry, Index
from p2pdist.store.records import BlobRecord, Opening


class Shelf:
    """Every committed blob; made by `reconcile`."""

    def __init__(self, directory: BlobDirectory, catalogue: Catalogue, index: Index) -> None:
        self.directory = directory
        self.catalogue = catalogue
        self.index = index
        self._ghosts: set[Digest] = set()

    @classmethod
    def reconcile(cls, directory: BlobDirectory, catalogue: Catalogue, boot_id: str) -> tuple[Self, Opening]:
        """Begin a session: forget rows without a file of their size, remove files without a row. Reads no file."""
        unclean_boot = catalogue.begin_session(boot_id)
        sizes = directory.sizes()
        entries: list[Entry] = []
        lost: list[Digest] = []
        for row in catalogue.blobs():
            if sizes.get(directory.file_path(row.digest).name) == row.size_bytes:
                entries.append(Entry(row.digest, row.size_bytes, row.private, row.verified))
            else:
                lost.append(row.digest)
        if lost:
            catalogue.remove_blobs(lost)
        for entry in entries:
            del sizes[directory.file_path(entry.digest).name]
        leftovers = directory.remove_leftovers(sizes)
        opening = Opening(len(entries), leftovers, tuple(lost), unclean_boot)
        return cls(directory, catalogue, Index(entries)), opening

    def end_session(self) -> None:
        """Have the disk hold all blobs, and note that."""
        self.directory.sync(self.catalogue.not_durable())
        self.catalogue.end_session()

    def keep(self, record: BlobRecord, file: SharedFile, now: float) -> None:
        """The blob that was written through `file` is whole."""
        self.catalogue.add_blob(record, now)
        self.index.add(Entry(record.digest, record.size_bytes, record.private, verified=True, file=file))

    def mark_verified(self, entry: Entry) -> None:
        """The entry's bytes were read and hold."""
        self.catalogue.mark_verified(entry.digest)
        entry.verified = True

    def forget(self, entries: Iterable[Entry]) -> None:
        """Remove files and rows of entries that were taken out of the index; tries the rows whatever the files do."""
        digests = [entry.digest for entry in entries]
        self._ghosts.update(digests)
        try:
            for digest in digests:
                self.directory.remove(digest)
        finally:
            self.lay_ghosts()

    def lay_ghosts(self) -> None:
        """Remove the rows whose blobs have gone; to be called before a file is created."""
        if self._ghosts:
            self.catalogue.remove_blobs(self._ghosts)
            self._ghosts.clear()
