"""Hashing a blob while it arrives: the part that is there without a gap, read back from its file.

The reader of the file may be far behind its writer, so that when the last piece comes only a short tail is left. Bytes
that were just written come from the page cache. Knows nothing of pieces.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path

from p2pdist.core.digest import Digest
from p2pdist.core.errors import StoreError
from p2pdist.store.errors import os_errors

_READ_BYTES = 256 * 1024
"""What a core's own cache holds while it is hashed."""


class PrefixHasher:
    """The hash of a file's first `hashed_bytes`, which only grow; one thread at a time hashes, others wait for it."""

    def __init__(self, digest: Digest) -> None:
        self._digest = digest
        self._hasher = digest.hasher()
        self._lock = threading.Lock()
        self.hashed_bytes = 0

    def advance(self, fd: int, path: Path, until: int, wanted: Callable[[], bool]) -> int:
        """Hash on up to the offset `until`, or until `wanted()` is no longer true; returns how far the hash reaches."""
        with self._lock:
            buffer = memoryview(bytearray(max(0, min(_READ_BYTES, until - self.hashed_bytes))))
            while self.hashed_bytes < until and wanted():
                part = buffer[: until - self.hashed_bytes]
                with os_errors("read", path):
                    count = os.preadv(fd, [part], self.hashed_bytes)
                if not count:
                    raise StoreError(f"{path} ends at byte {self.hashed_bytes}, before {until}: somebody cut it short")
                self._hasher.update(part[:count])
                self.hashed_bytes += count
            return self.hashed_bytes

    def found(self) -> Digest:
        """The digest of what was hashed so far."""
        with self._lock:
            return Digest(self._digest.algorithm, self._hasher.hexdigest())
