"""What an origin has sent: a few numbers in a file that the counting process writes and everybody reads.

A mapped file outlives the process that counts, so that an origin can be killed and started again in the middle of a
measurement, and reading it costs the origin nothing.
"""

import mmap
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_FORM = struct.Struct("=3Q")


@dataclass(frozen=True, slots=True)
class Sent:
    """Bytes of blobs' bodies, and how many requests there were for blobs and for everything else."""

    blob_bytes: int
    blob_requests: int
    other_requests: int

    @property
    def requests(self) -> int:
        """All requests."""
        return self.blob_requests + self.other_requests

    def __sub__(self, earlier: "Sent") -> "Sent":
        return Sent(
            self.blob_bytes - earlier.blob_bytes,
            self.blob_requests - earlier.blob_requests,
            self.other_requests - earlier.other_requests,
        )


def read_tally(path: Path) -> Sent:
    """What has been counted so far; nothing while there is no file."""
    if not path.exists():
        return Sent(0, 0, 0)
    return Sent(*_FORM.unpack(path.read_bytes()[: _FORM.size]))


class Tally:
    """The writing side: one process, any number of threads."""

    def __init__(self, path: Path) -> None:
        self._sent = read_tally(path)
        self._lock = threading.Lock()
        if not path.exists():
            path.write_bytes(bytes(_FORM.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _FORM.size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._map.close()

    def add(self, *, blob_bytes: int = 0, blob_requests: int = 0, other_requests: int = 0) -> None:
        """Count some more."""
        with self._lock:
            sent = self._sent
            self._sent = Sent(
                sent.blob_bytes + blob_bytes,
                sent.blob_requests + blob_requests,
                sent.other_requests + other_requests,
            )
            _FORM.pack_into(self._map, 0, self._sent.blob_bytes, self._sent.blob_requests, self._sent.other_requests)
