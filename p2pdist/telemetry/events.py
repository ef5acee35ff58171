"""The event log: who gave which piece to whom, when, and what was waited for; one JSON object a line (README.md).

Off by default. Whoever has something to tell holds an `EventLog | None`, so that a log that is off costs one test for
None. One that is on costs its callers about a microsecond a line: they put a small Struct into a bounded queue, and a
thread encodes and writes what has gathered, five times a second. Nobody ever waits for the disk: what doesn't fit into
the queue, or doesn't get onto the disk, is dropped and counted, and the file itself says how much is missing.

The file is only ever appended to. It is opened anew when it was renamed or removed, so that moving it away rotates it.
"""

import os
import threading
import time
from collections import deque
from enum import StrEnum
from pathlib import Path
from typing import Self

import msgspec

from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput
from p2pdist.telemetry.logging import get_logger

QUEUE_LINES = 65536
BATCH_SECONDS = 0.2
_BATCH_LINES = 2048
_STOP_SECONDS = 5.0
_KEPT_NAMES = 16384
_ID_CHARACTERS = 12
_DIGEST_CHARACTERS = 16
_GENERATION_BITS = 0xFFFFFFFF
_MODE = 0o640

log = get_logger("events")


class Event(StrEnum):
    """What a line is about; README.md says which fields belong to it."""

    STARTED = "started"
    PEER = "peer"
    WANTED = "wanted"
    JOINED = "joined"
    PLANNED = "planned"
    RECEIVED = "received"
    DEALT = "dealt"
    PUSHED = "pushed"
    FILLED = "filled"
    TAKEN_OVER = "taken_over"
    REDUNDANT = "redundant"
    LACKING = "lacking"
    SWARMED = "swarmed"
    RESCUED = "rescued"
    STARVED = "starved"
    FETCHED = "fetched"
    HELD = "held"
    FAILED = "failed"
    DROPPED = "dropped"


class By(StrEnum):
    """How bytes came: from the dealer of a ring, from another member, from the swarm, from the origin."""

    DEAL = "deal"
    RELAY = "relay"
    SWARM = "swarm"
    ORIGIN = "origin"


class Line(msgspec.Struct, omit_defaults=True, gc=False):
    """One line. A field that has nothing to do with the event isn't there (msgspec tells a default by its identity)."""

    time: float
    node: str
    event: str
    digest: str = ""
    peer: str = ""
    by: str = ""
    piece: int = -1
    pieces: int = 0
    bytes: int = 0
    generation: int = 0
    epoch: int = 0
    seconds: float = 0
    lines: int = 0
    name: str = ""
    reason: str = ""


def short_id(node: str) -> str:
    """How a node's id stands in the log."""
    return node[:_ID_CHARACTERS]


def short_digest(digest: Digest) -> str:
    """How a blob's digest stands in the log; `p2pdist explain` takes it."""
    return digest.hex[:_DIGEST_CHARACTERS]


class EventLog:
    """An open event log; `note` may be called from any thread at any time and never waits."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.dropped = 0
        self._node = ""
        self._fd: int | None = fd
        self._torn = False
        self._failing = False
        self._told_dropped = 0
        self._counted_dropped = 0
        self._queue: deque[Line] = deque()
        self._asleep = False
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._counting = threading.Lock()
        self._names: dict[str, str] = {}
        self._encoder = msgspec.json.Encoder()
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Append to the file at `path`; raises `InvalidInput` when that can't be done."""
        try:
            fd = _open(path)
        except OSError as error:
            raise InvalidInput(f"the event log {path} can't be written: {error.strerror}") from error
        events = cls(path, fd)
        events._thread.start()
        return events

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what waits, for five seconds at most, and close the file; what is noted later is dropped."""
        self._closing.set()
        self._wake.set()
        self._thread.join(_STOP_SECONDS)

    def newly_dropped(self) -> int:
        """How many lines were dropped since this was asked last, for a counter."""
        new, self._counted_dropped = self.dropped - self._counted_dropped, self.dropped
        return new

    def introduce(self, node: str, name: str, role: str) -> None:
        """Say whose log this is, before anything else is noted; `role`: "agent" or "tracker"."""
        self._node = short_id(node)
        self.note(Event.STARTED, name=name, by=role)

    def name_peer(self, node: str, name: str) -> None:
        """Say once (in a very long while) what another node is called."""
        if self._names.get(node) != name:
            if len(self._names) >= _KEPT_NAMES:
                self._names.clear()
            self._names[node] = name
            self.note(Event.PEER, peer=node, name=name)

    def note(
        self,
        event: Event,
        digest: Digest | None = None,
        *,
        peer: str = "",
        by: str = "",
        piece: int = -1,
        pieces: int = 0,
        bytes: int = 0,
        generation: int = 0,
        epoch: int = 0,
        seconds: float = 0,
        name: str = "",
        reason: str = "",
    ) -> None:
        """Put a line into the queue; `peer` is a node's id or an address, `seconds` how long something took."""
        if len(self._queue) >= QUEUE_LINES or self._closing.is_set():
            self._drop(1)
            return
        self._queue.append(
            Line(
                time.time(),
                self._node,
                event,
                digest.hex[:_DIGEST_CHARACTERS] if digest is not None else "",
                peer[:_ID_CHARACTERS] if ":" not in peer else peer,
                by,
                piece,
                pieces,
                bytes,
                generation & _GENERATION_BITS,
                epoch,
                round(seconds, 6) if seconds else 0,
                0,
                name,
                reason,
            )
        )
        if self._asleep:
            self._asleep = False
            self._wake.set()

    def _drop(self, lines: int) -> None:
        with self._counting:
            self.dropped += lines

    # The writer's thread.

    def _run(self) -> None:
        while True:
            self._write_queued()
            self._asleep = True
            if self._queue:
                self._asleep = False
            elif self._closing.is_set():
                break
            else:
                self._wake.wait()
                self._wake.clear()
            # Not a synchronisation: lines gather, so that encoding and writing cost little for each.
            self._closing.wait(BATCH_SECONDS)
        if self._fd is not None:
            os.close(self._fd)

    def _write_queued(self) -> None:
        while self._queue:
            batch: list[Line] = []
            while self._queue and len(batch) < _BATCH_LINES:
                batch.append(self._queue.popleft())
            missing = self.dropped - self._told_dropped
            if missing:
                batch.append(Line(time.time(), self._node, Event.DROPPED, lines=missing))
            try:
                self._write(self._encoder.encode_lines(batch))
            except OSError as error:
                self._drop(len(batch) - bool(missing))
                if not self._failing:
                    self._failing = True
                    log.error("events_not_written", path=self.path, reason=str(error))
            else:
                self._failing = False
                self._told_dropped += missing

    def _write(self, data: bytes) -> None:
        """Append `data` to the file that has the log's name now; raises OSError."""
        fd = self._current_fd()
        if self._torn:
            data = b"\n" + data
        view = memoryview(data)
        while view:
            self._torn = True
            view = view[os.write(fd, view) :]
        self._torn = False

    def _current_fd(self) -> int:
        if self._fd is not None:
            try:
                there, ours = os.stat(self.path), os.fstat(self._fd)
                if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                    return self._fd
            except FileNotFoundError:
                pass
            os.close(self._fd)
            self._fd, self._torn = None, False
        self._fd = _open(self.path)
        return self._fd


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
