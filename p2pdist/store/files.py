"""The files of the store: creating, opening and removing them, the lock on the directory, the boot id.

Knows paths and file descriptors, nothing about digests being right or blobs being whole.
"""

import fcntl
import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from p2pdist.core.digest import Digest
from p2pdist.core.metainfo import file_name
from p2pdist.store.errors import BlobDiscarded, StoreLocked, os_errors, store_error

BOOT_ID_PATH = Path("/proc/sys/kernel/random/boot_id")
_BLOB_NAME = re.compile(r"(sha256)-[0-9a-f]{64}|(sha512)-[0-9a-f]{128}")
_PARTS_NAME = re.compile(r"\.[0-9a-f]{40,64}\.parts")


def read_boot_id(path: Path) -> str:
    """The kernel's name for this boot; empty when it doesn't tell, which never counts as the same boot."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


class DirectoryLock:
    """An exclusive `flock` on a file in `root`, held until `release` or the end of the process, however it ends."""

    def __init__(self, root: Path) -> None:
        path = root / "lock"
        with os_errors("open", path):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise StoreLocked(
                f"the store at {root} is in use by process {owner or '(unknown)'}; stop it, or set another state_dir"
            ) from error
        except OSError as error:
            os.close(self._fd)
            raise store_error(error, "lock", path) from error
        with suppress(OSError):  # the owner's number is for people; a full disk must not keep the store shut
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let another process have the directory."""
        os.close(self._fd)


class SharedFile:
    """A file descriptor that stays open until its last holder lets go; starts with one holder."""

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        self.path = path
        self._lock = threading.Lock()
        self._holders = 1

    @contextmanager
    def held(self) -> Iterator[int]:
        """The descriptor, open for as long as the block lasts; raises `BlobDiscarded` when it was closed before."""
        self.hold()
        try:
            yield self.fd
        finally:
            self.release()

    def hold(self) -> None:
        """One holder more, who must `release`; raises `BlobDiscarded` when it was closed before."""
        with self._lock:
            if not self._holders:
                raise BlobDiscarded(f"{self.path} was closed by the one who wrote it; begin the blob again")
            self._holders += 1

    def release(self) -> None:
        """One holder lets go."""
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                os.close(self.fd)

    @property
    def closed(self) -> bool:
        """Whether the last holder has let go."""
        return self._holders == 0


class BlobDirectory:
    """The directory that holds one file per blob, partial or whole, under the name that the blob's torrent gives it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file_path(self, digest: Digest) -> Path:
        """Where the blob's bytes are."""
        return self.path / file_name(digest)

    def create(self, digest: Digest, size_bytes: int) -> SharedFile:
        """A new sparse file of `size_bytes`, in place of whatever had its name."""
        path = self.file_path(digest)
        self.remove(digest)
        with os_errors("create", path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os_errors(f"set a size of {size_bytes} bytes for", path):
                os.ftruncate(fd, size_bytes)
        except BaseException:
            os.close(fd)
            self.remove(digest)
            raise
        return SharedFile(fd, path)

    def open(self, digest: Digest) -> int | None:
        """A descriptor to read the blob with; None when there is no such file."""
        path = self.file_path(digest)
        with os_errors("open", path):
            try:
                return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            except FileNotFoundError:
                return None

    def remove(self, digest: Digest) -> None:
        """Unlink the blob's file, if it is there; descriptors that are open keep reading it."""
        path = self.file_path(digest)
        with os_errors("remove", path):
            path.unlink(missing_ok=True)

    def sizes(self) -> dict[str, int]:
        """Name and size in bytes of every file here."""
        with os_errors("list", self.path), os.scandir(self.path) as entries:
            return {e.name: e.stat(follow_symlinks=False).st_size for e in entries if e.is_file(follow_symlinks=False)}

    def remove_leftovers(self, names: Iterable[str]) -> int:
        """Unlink those of `names` that a blob or libtorrent gave; files of other people stay. Returns how many."""
        leftovers = [self.path / n for n in names if _BLOB_NAME.fullmatch(n) or _PARTS_NAME.fullmatch(n)]
        for path in leftovers:
            with os_errors("remove", path):
                path.unlink(missing_ok=True)
        return len(leftovers)

    def free_bytes(self) -> int | None:
        """What this user can still write here; None where the filesystem doesn't say."""
        with os_errors("ask for the free space of", self.path):
            state = os.statvfs(self.path)
        return state.f_bavail * state.f_frsize if state.f_blocks else None

    def sync(self, digests: Iterable[Digest]) -> None:
        """Have the disk hold what was written to these blobs, and their names; skips files that are gone."""
        for digest in digests:
            fd = self.open(digest)
            if fd is not None:
                _fsync_and_close(fd, self.file_path(digest))
        with os_errors("open", self.path):
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        _fsync_and_close(fd, self.path)


def _fsync_and_close(fd: int, path: Path) -> None:
    try:
        with os_errors("sync", path):
            os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: memoryview, offset: int, path: Path) -> None:
    """All of `data` at `offset`; a full disk may take a part before it refuses."""
    try:
        while data:
            written = os.pwrite(fd, data, offset)
            data, offset = data[written:], offset + written
    except OSError as error:
        raise store_error(error, f"write {data.nbytes} bytes at {offset} to", path) from error
