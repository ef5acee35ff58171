"""The committed blobs as kept in memory: sizes, pins and the order of use, which decides what is evicted.

Its lock is never held over I/O, so that asking costs microseconds in any thread. Knows nothing of files and records.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from p2pdist.core.digest import Digest
from p2pdist.store.files import SharedFile


@dataclass(eq=False, slots=True)
class Entry:
    """One committed blob.

    `pins` counts those who are reading or seeding it now; `file` is what it was written through, which may still be
    read by those who began before it was whole.
    """

    digest: Digest
    size_bytes: int
    private: bool
    verified: bool
    file: SharedFile | None = None
    pins: int = 0

    @property
    def idle(self) -> bool:
        """Whether nobody is reading it, so that it may be evicted."""
        return not self.pins and (self.file is None or self.file.closed)


class Index:
    """Entries by digest, the least recently used first."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._lock = threading.Lock()
        self._entries = {entry.digest: entry for entry in entries}
        self._used_bytes = sum(entry.size_bytes for entry in self._entries.values())

    @property
    def used_bytes(self) -> int:
        """The sizes of all blobs together."""
        return self._used_bytes

    def get(self, digest: Digest) -> Entry | None:
        """The blob's entry; no use is noted."""
        with self._lock:
            return self._entries.get(digest)

    def entries(self) -> list[Entry]:
        """All of them at this moment."""
        with self._lock:
            return list(self._entries.values())

    def add(self, entry: Entry) -> None:
        """A blob was committed: it is the most recently used."""
        with self._lock:
            self._entries[entry.digest] = entry
            self._used_bytes += entry.size_bytes

    def pin(self, digest: Digest) -> Entry | None:
        """The blob's entry, pinned and most recently used; give it to `unpin`."""
        with self._lock:
            entry = self._entries.pop(digest, None)
            if entry is not None:
                self._entries[digest] = entry
                entry.pins += 1
            return entry

    def unpin(self, entry: Entry) -> None:
        """One who had it pinned lets go."""
        with self._lock:
            entry.pins -= 1

    def take(self, entry: Entry) -> bool:
        """Take this very entry out, pinned or not; False when it had gone, even if a newer one has its digest."""
        with self._lock:
            if self._entries.get(entry.digest) is not entry:
                return False
            self._remove(entry)
            return True

    def take_idle(self, needed_bytes: int) -> list[Entry] | None:
        """Take out the least recently used blobs that nobody has pinned, until they come to `needed_bytes`.

        None, and nothing is taken, when all of them together don't.
        """
        with self._lock:
            taken: list[Entry] = []
            found_bytes = 0
            for entry in self._entries.values():
                if found_bytes >= needed_bytes:
                    break
                if entry.size_bytes and entry.idle:
                    taken.append(entry)
                    found_bytes += entry.size_bytes
            if found_bytes < needed_bytes:
                return None
            for entry in taken:
                self._remove(entry)
            return taken

    def _remove(self, entry: Entry) -> None:
        del self._entries[entry.digest]
        self._used_bytes -= entry.size_bytes
