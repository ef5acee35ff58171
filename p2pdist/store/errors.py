"""What can go wrong in the store, and the one place that turns the operating system's errors into ours.

Knows nothing about blobs; every message names the path and what the operator can do about it.
"""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2pdist.core.errors import StoreError


class StoreFull(StoreError):
    """The bytes don't fit: the quota, the filesystem or the disk quota is used up."""


class StoreLocked(StoreError):
    """Another process has the directory open."""

    exit_code = 3


class StoreDamaged(StoreError):
    """The records can't be understood; the blobs can be fetched again."""


class BlobBusy(StoreError):
    """The blob is there already, whole or partial, so that it can't be begun."""

    http_status = 503


class BlobUnverified(StoreError):
    """The blob outlived an unclean boot and has to pass `verify` before it is served."""

    http_status = 503


class BlobDiscarded(StoreError):
    """The partial blob was given up; nothing can be written to it any more."""

    http_status = 503


class PiecesMissing(StoreError):
    """The blob can't be committed yet."""


_ADVICE = {
    errno.EROFS: "the filesystem is mounted read-only: remount it writable or move state_dir",
    errno.EIO: "the disk reports an error: look at the kernel's log, then move state_dir to a sound disk",
    errno.EMFILE: "this process has too many files open: raise LimitNOFILE",
    errno.ENFILE: "the host has too many files open: raise fs.file-max",
    errno.EFBIG: "the file is larger than the filesystem or ulimit -f allows",
    errno.ENOTDIR: "a part of the path isn't a directory: set state_dir to one",
    errno.EEXIST: "something else has that name: move it away",
}
_FULL = "free space on that filesystem, or lower [store] quota so that old blobs are evicted earlier"


def store_error(error: OSError, doing: str, path: Path) -> StoreError:
    """Our error for the system's `error`, which came while `doing` something to `path`."""
    what = f"can't {doing} {path}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"{what}; {_FULL}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return StoreError(f"{what}; give user {os.geteuid()} the right to write there, or move state_dir")
    advice = _ADVICE.get(error.errno or 0)
    return StoreError(f"{what}; {advice}" if advice else what)


def catalogue_error(error: sqlite3.Error, path: Path) -> StoreError:
    """Our error for SQLite's `error` about the database at `path`."""
    name = getattr(error, "sqlite_errorname", "")
    what = f"can't use {path}: {error}"
    if name.startswith("SQLITE_FULL") or (name.startswith("SQLITE_IOERR") and not _has_room(path.parent)):
        return StoreFull(f"{what}; {_FULL}")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return StoreDamaged(f"{what}; stop the daemon and delete {path.parent}: blobs are fetched again when wanted")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return StoreError(f"{what}; give user {os.geteuid()} the right to write there, or move state_dir")
    if name.startswith("SQLITE_BUSY"):
        return StoreError(f"{what}; close the other program that has it open")
    return StoreError(f"{what}; look at the kernel's log for errors of that disk")


def _has_room(directory: Path) -> bool:
    """SQLite calls it an I/O error when there is no room for its shared memory (a few pages)."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize >= 64 * 1024


@contextmanager
def os_errors(doing: str, path: Path) -> Iterator[None]:
    """Within it, an `OSError` becomes the `StoreError` that says what couldn't be done to `path`."""
    try:
        yield
    except OSError as error:
        raise store_error(error, doing, path) from error
