"""The files of a host, or of an image's tree below a directory: read, and written whole or not at all."""

import errno
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from p2pdist.runtimes.errors import MirrorError

_MAX_FILE_BYTES = 4 * 1024 * 1024
_PUBLIC = 0o644


@dataclass(frozen=True, slots=True)
class HostTree:
    """Everything below `root`; paths are absolute ones of the host that it is, or is to be."""

    root: Path = Path("/")

    def real(self, path: PurePosixPath) -> Path:
        """Where `path` stands on this machine."""
        return self.root / path.relative_to("/")

    def read(self, path: PurePosixPath) -> bytes | None:
        """See `Tree.read`; a configuration of over 4 MiB isn't one."""
        try:
            with self.real(path).open("rb") as file:
                data = file.read(_MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise MirrorError(f"{path} can't be read: {error.strerror}") from error
        if len(data) > _MAX_FILE_BYTES:
            raise MirrorError(f"{path} is larger than {_MAX_FILE_BYTES} bytes: that isn't a configuration")
        return data

    def names(self, directory: PurePosixPath) -> list[str]:
        """See `Tree.names`."""
        try:
            return sorted(os.listdir(self.real(directory)))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise MirrorError(f"{directory} can't be read: {error.strerror}") from error

    def missing_directories(self, path: PurePosixPath) -> list[PurePosixPath]:
        """The directories above `path` that aren't there, the outermost first."""
        return [parent for parent in reversed(path.parents) if not self.real(parent).exists()]

    def write(self, path: PurePosixPath, data: bytes, mode: int = _PUBLIC) -> None:
        """Put `data` in place of the file at `path`, whose owner and mode it keeps (`mode` when there is none).

        A crash leaves the old content or the new. A symbolic link stays one. Raises `MirrorError`.
        """
        target = Path(os.path.realpath(self.real(path)))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            before = target.stat() if target.exists() else None
            descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    if before is not None and (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                        os.fchown(file.fileno(), before.st_uid, before.st_gid)
                    os.fchmod(file.fileno(), before.st_mode & 0o7777 if before is not None else mode)
                    os.fsync(file.fileno())
                os.replace(temporary, target)
            except OSError:
                os.unlink(temporary)
                raise
            _sync(target.parent)
        except OSError as error:
            raise MirrorError(f"{path} can't be written: {error.strerror}{_advice(error)}") from error

    def remove(self, path: PurePosixPath) -> None:
        """Remove a file, if it is there."""
        real = self.real(path)
        try:
            real.unlink(missing_ok=True)
            if real.parent.exists():
                _sync(real.parent)
        except OSError as error:
            raise MirrorError(f"{path} can't be removed: {error.strerror}{_advice(error)}") from error

    def remove_directory(self, path: PurePosixPath) -> None:
        """Remove a directory, unless something is in it, or it is gone."""
        try:
            self.real(path).rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise MirrorError(f"{path} can't be removed: {error.strerror}{_advice(error)}") from error


def _advice(error: OSError) -> str:
    return "; run it as root" if error.errno in (errno.EACCES, errno.EPERM) else ""


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
