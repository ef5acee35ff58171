"""A blob that is still arriving: which pieces are there, their bytes, and the step that makes it whole.

Several threads use one at once: the relay's thread writes and reads pieces, libtorrent writes the same file by its
path (and tells by `mark_piece`), a worker thread hashes, others wait for bytes to send on. The lock is held for the
bookkeeping only, never over I/O or a callback. Whoever calls vouches for pieces: bytes are verified before they come
here. Knows nothing of where they come from, nor of quota and records: the store hands it two functions for those.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import Enum
from typing import Self

from p2pdist.core.digest import Digest
from p2pdist.core.errors import DigestInvalid, InvalidInput
from p2pdist.core.pieces import PieceLayout, PieceSet
from p2pdist.store.errors import BlobDiscarded, PiecesMissing
from p2pdist.store.files import SharedFile, write_all
from p2pdist.store.prefix import PrefixHasher

Callback = Callable[[], None]


class _State(Enum):
    ARRIVING = "arriving"
    COMMITTED = "committed"
    DISCARDED = "discarded"


class PartialBlob:
    """One blob's file and the set of its pieces; made by `BlobStore.begin`.

    `fd` reads and writes the file; it is closed by `commit` and by `discard`, unless somebody is inside `held()` then.
    As a context manager it is discarded at the end, unless it was committed.
    """

    def __init__(
        self,
        digest: Digest,
        layout: PieceLayout,
        file: SharedFile,
        *,
        keep: Callable[["PartialBlob"], None],
        drop: Callable[["PartialBlob"], bool],
    ) -> None:
        self.digest = digest
        self.layout = layout
        self.path = file.path
        self._file = file
        self._keep = keep
        self._drop = drop
        self._lock = threading.Lock()
        self._pieces = PieceSet(layout.count)
        self._state = _State.ARRIVING
        self._callbacks: tuple[Callback, ...] = ()
        self._prefix = PrefixHasher(digest)
        self._commit_lock = threading.Lock()
        self._refuted: Digest | None = None
        self.verified = False
        """Whether every piece is there and the digest held."""

    @property
    def fd(self) -> int:
        """The file's descriptor, for pread and sendfile."""
        return self._file.fd

    def held(self) -> AbstractContextManager[int]:
        """`fd`, certain to stay open inside the block even if the blob is committed or discarded meanwhile."""
        return self._file.held()

    @property
    def file(self) -> SharedFile:
        """The open file, for the store: it isn't evicted while somebody holds it."""
        return self._file

    # What is there

    @property
    def committed(self) -> bool:
        """Whether the blob is whole and in the store for good."""
        return self._state is _State.COMMITTED

    @property
    def discarded(self) -> bool:
        """Whether the blob was given up."""
        return self._state is _State.DISCARDED

    @property
    def pieces(self) -> PieceSet:
        """A copy of the set of pieces that are there."""
        with self._lock:
            return self._pieces.copy()

    def has(self, index: int) -> bool:
        """Whether piece `index` is there; its bytes can be read."""
        with self._lock:
            return index in self._pieces

    @property
    def complete(self) -> bool:
        """Whether every piece is there."""
        with self._lock:
            return self._pieces.complete

    @property
    def contiguous_bytes(self) -> int:
        """How many bytes are there from the start without a gap."""
        with self._lock:
            return self._bytes_before(self._pieces.first_missing)

    @property
    def present_bytes(self) -> int:
        """How many bytes are there in all."""
        with self._lock:
            last = self.layout.count - 1
            short = self._bytes_before(last + 1) - self._bytes_before(last) if last in self._pieces else 0
            return (len(self._pieces) - bool(short)) * self.layout.piece_bytes + short

    def available_from(self, offset: int) -> int:
        """Where the run of bytes that are there and start at `offset` ends; `offset` itself when there is none."""
        if offset < 0:
            raise InvalidInput(f"offset {offset} of {self.digest} is below zero")
        if offset >= self.layout.size_bytes:
            return offset
        with self._lock:
            return max(offset, self._bytes_before(self._pieces.first_missing_from(self.layout.index_at(offset))))

    def _bytes_before(self, index: int) -> int:
        return min(index * self.layout.piece_bytes, self.layout.size_bytes)

    # What arrives

    def write_piece(self, index: int, data: bytes | bytearray | memoryview) -> bool:
        """Write the verified bytes of piece `index`; False when it was there.

        Raises `InvalidInput` when there is no such piece or it has another length, `BlobDiscarded` after `discard`,
        `StoreError` when the disk refuses; the piece then isn't there.
        """
        view = memoryview(data).cast("B")
        if view.nbytes != self.layout.length(index):
            raise InvalidInput(
                f"{view.nbytes} bytes for piece {index} of {self.digest}, which has {self.layout.length(index)}"
            )
        if index in self._pieces:
            return False
        self._file.hold()
        try:
            write_all(self._file.fd, view, self.layout.offset(index), self.path)
            return self.mark_piece(index)
        finally:
            self._file.release()

    def mark_piece(self, index: int) -> bool:
        """Piece `index` was written to `path` by somebody else and can be read there now; False when it was there.

        Raises `InvalidInput` when there is no such piece, `BlobDiscarded` after `discard`.
        """
        self.layout.length(index)
        with self._lock:
            if self._state is _State.DISCARDED:
                raise BlobDiscarded(f"{self.digest} was given up; piece {index} isn't wanted any more")
            added = self._pieces.add(index)
            callbacks = self._callbacks
        if added:
            for callback in callbacks:
                callback()
        return added

    def on_progress(self, callback: Callback) -> Callback:
        """Call `callback` after every new piece, and once at commit and at discard; returns how to stop it.

        It is called in whichever thread made the progress and must neither wait nor raise. It may stop itself. A call
        that is under way in another thread can still arrive after it was stopped.
        """

        def call() -> None:
            callback()

        def stop() -> None:
            with self._lock:
                self._callbacks = tuple(other for other in self._callbacks if other is not call)

        with self._lock:
            self._callbacks = (*self._callbacks, call)
        return stop

    # How it ends

    def hash_prefix(self) -> int:
        """Hash what is there without a gap and wasn't hashed yet; returns how many bytes are hashed now.

        For a worker thread: it reads the file. Call it now and then while the blob arrives, so that `commit` finds
        only the tail left to do. Does nothing once the blob is committed. Raises `StoreError` when the file can't be
        read, `BlobDiscarded` after `discard`.
        """
        try:
            with self._file.held() as fd:
                return self._prefix.advance(fd, self.path, self.contiguous_bytes, lambda: not self.discarded)
        except BlobDiscarded:
            if self.committed:
                return self._prefix.hashed_bytes
            raise

    def verify(self) -> None:
        """Check the digest of the whole blob: from now on it is `verified`, and all of it may be shown.

        For a worker thread: it hashes what `hash_prefix` left over. Raises `PiecesMissing`; `DigestInvalid` when the
        content has another digest (the blob then stays partial and can never be committed: discard it or have it
        quarantined); `BlobDiscarded`; `StoreError` when the file can't be read.
        """
        with self._commit_lock:
            self._verify(None)

    def commit(self, computed: Digest | None = None) -> None:
        """Make the blob whole: from now on the store serves it. Does nothing when it is committed already.

        For a worker thread: it verifies the blob first, by `computed` if the caller hashed every byte that it wrote.
        Raises what `verify` raises, and `StoreError` when the record can't be written (a later `commit` may succeed).
        """
        with self._commit_lock:
            if self.committed:
                return
            self._verify(computed)
            self._keep(self)
            self._finish(_State.COMMITTED)

    def _verify(self, computed: Digest | None) -> None:
        if self.committed:
            return
        self._check_whole()
        if self.verified:
            return
        found = self._refuted or computed or self._found()
        if found != self.digest:
            self._refuted = found
            raise DigestInvalid(
                f"the {self.layout.size_bytes} bytes that came as {self.digest} have the digest {found}"
            )
        self.verified = True

    def discard(self) -> None:
        """Give the blob up and remove its file; does nothing when it was committed or given up already."""
        if self._drop(self):
            self._finish(_State.DISCARDED)

    def _check_whole(self) -> None:
        with self._lock:
            if self._state is _State.DISCARDED:
                raise BlobDiscarded(f"{self.digest} was given up and can't be committed; begin it again")
            if not self._pieces.complete:
                raise PiecesMissing(
                    f"{self.digest} can't be committed: {self.layout.count - len(self._pieces)} of "
                    f"{self.layout.count} pieces are missing, the first is {self._pieces.first_missing}"
                )

    def _found(self) -> Digest:
        self.hash_prefix()
        if self.discarded:
            raise BlobDiscarded(f"{self.digest} was given up while it was hashed")
        return self._prefix.found()

    def _finish(self, state: _State) -> None:
        with self._lock:
            self._state = state
            callbacks = self._callbacks
        self._file.release()
        for callback in callbacks:
            callback()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()
