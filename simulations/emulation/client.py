"""The client of one host: pulls an image's blobs as a daemon does, checks every byte, unpacks nothing.

Plain threads that stand inside the host's namespace, each with a connection of its own. An answer that breaks off is
resumed with Range, as daemons do. Times are `time.monotonic`'s. Knows nothing of the systems that answer.
"""

import hashlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from p2pdist.oci.descriptor import Descriptor
from simulations.emulation.fetching import Afterwards, Connection, Sink, Streaming
from simulations.emulation.heads import BadMessage
from simulations.network import Host

MAX_ATTEMPTS = 20
"""Answers for one blob that may break off or not come at all; then its host has failed."""
_PAUSE_SECONDS = 0.1


class PullFailed(Exception):
    """A host couldn't get what it asked for, or got something else."""


@dataclass(slots=True)
class BlobPull:
    """One blob on one host; the times are None until they come."""

    blob: Descriptor
    asked_at: float | None = None
    first_byte_at: float | None = None
    finished_at: float | None = None
    received_bytes: int = 0


@dataclass(slots=True)
class HostPull:
    """What came of a host's pull; written by its threads, read by anybody."""

    host: str
    blobs: list[BlobPull]
    started_at: float | None = None
    finished_at: float | None = None
    resumed: int = 0
    """Answers that broke off, or didn't come."""
    error: str | None = None

    @property
    def received_bytes(self) -> int:
        """Bytes of blobs that have come."""
        return sum(blob.received_bytes for blob in self.blobs)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a host pulls: the manifest first, where there is one to ask for, and the blobs; URLs and what they give."""

    manifest: tuple[str, Descriptor] | None
    blobs: Sequence[tuple[str, Descriptor]]


@dataclass
class Puller:
    """One host's client; `run` pulls, in the calling thread and in others that it starts, until all is there."""

    host: Host
    wanted: Wanted
    parallel: int
    check: Literal["streaming", "afterwards"]
    patient: bool = False
    """Whether it goes on asking until it is cancelled, because an event befalls its host."""
    pull: HostPull = field(init=False)

    def __post_init__(self) -> None:
        self.pull = HostPull(self.host.name, [BlobPull(blob) for _, blob in self.wanted.blobs])
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._sinks: list[Sink] = [
            Streaming() if self.check == "streaming" else Afterwards(blob.size_bytes) for _, blob in self.wanted.blobs
        ]
        self._numbers = iter(range(len(self._sinks)))
        self._last_break = ""

    def run(self, start_at: float) -> None:
        """Pull from the moment `start_at` on; what came of it is in `pull`, an error too."""
        self.host.enter()
        if self._cancelled.wait(max(0.0, start_at - time.monotonic())):
            return
        self.pull.started_at = time.monotonic()
        others = [threading.Thread(target=self._pull_blobs) for _ in range(min(self.parallel, len(self._sinks)) - 1)]
        with closing(Connection(self._opened)) as connection:
            if not self._pull_manifest(connection):
                return
            for other in others:
                other.start()
            self._pull_from(connection)
        for other in others:
            other.join()
        ends = [blob.finished_at for blob in self.pull.blobs]
        if self.pull.error is None and None not in ends:
            self.pull.finished_at = max(end for end in ends if end is not None)

    def verify(self) -> None:
        """Check the digests of a pull that has finished; raises `PullFailed`."""
        for pull, sink in zip(self.pull.blobs, self._sinks, strict=True):
            if sink.sha256() != pull.blob.digest.hex:
                raise PullFailed(f"{self.host.name}: the bytes for {pull.blob.digest} have the sha256 {sink.sha256()}")

    def cancel(self) -> None:
        """Let `run` end soon, wherever it is."""
        self._cancelled.set()
        with self._lock:
            for sock in self._sockets:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _opened(self, sock: socket.socket) -> None:
        with self._lock:
            self._sockets = [old for old in self._sockets if old.fileno() >= 0] + [sock]
        if self._cancelled.is_set():
            sock.close()

    def _pull_manifest(self, connection: Connection) -> bool:
        if self.wanted.manifest is None:
            return True
        url, descriptor = self.wanted.manifest
        for _ in self._attempts():
            try:
                body = connection.manifest(url)
            except (OSError, BadMessage) as error:
                self._broke(error)
                continue
            if hashlib.sha256(body).hexdigest() == descriptor.digest.hex:
                return True
            self.pull.error = f"{url}: not the manifest {descriptor.digest}"
            return False
        return False

    def _pull_blobs(self) -> None:
        self.host.enter()
        with closing(Connection(self._opened)) as connection:
            self._pull_from(connection)

    def _pull_from(self, connection: Connection) -> None:
        """Pull blobs over this connection for as long as there is one that nobody has begun."""
        while self.pull.error is None:
            with self._lock:
                number = next(self._numbers, None)
            if number is None or not self._pull_blob(connection, number):
                return

    def _pull_blob(self, connection: Connection, number: int) -> bool:
        url, descriptor = self.wanted.blobs[number]
        pull, sink = self.pull.blobs[number], self._sinks[number]
        pull.asked_at = time.monotonic()

        def took(size_bytes: int) -> None:
            if pull.first_byte_at is None:
                pull.first_byte_at = time.monotonic()
            pull.received_bytes += size_bytes

        for _ in self._attempts():
            try:
                connection.blob(url, pull.received_bytes, sink, took)
            except (OSError, BadMessage) as error:
                self._broke(error)
                continue
            if pull.received_bytes != descriptor.size_bytes:
                self.pull.error = f"{url}: {pull.received_bytes} bytes, not {descriptor.size_bytes}"
                return False
            pull.finished_at = time.monotonic()
            return True
        return False

    def _attempts(self) -> Iterator[int]:
        """As often as one may ask for one thing, with a pause between; ends when cancelled."""
        for attempt in count():
            if attempt >= MAX_ATTEMPTS and not self.patient:
                self.pull.error = f"gave up after {attempt} attempts; {self._last_break}"
                return
            if attempt:
                self._cancelled.wait(_PAUSE_SECONDS)
            if self._cancelled.is_set():
                return
            yield attempt

    def _broke(self, error: Exception) -> None:
        if not self._cancelled.is_set():
            self.pull.resumed += 1
            self._last_break = str(error) or type(error).__name__
