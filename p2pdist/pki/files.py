"""Key and certificate files: written whole or not at all, and private ones kept private."""

import os
import stat
import tempfile
from pathlib import Path

from p2pdist.pki.errors import CredentialError

PRIVATE = 0o600
PUBLIC = 0o644
_MAX_FILE_BYTES = 64 * 1024


def make_private_directory(directory: Path) -> None:
    """Make sure that `directory` exists, ours, with mode 0700; an existing one is checked, never loosened."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_private(directory)
    except OSError as error:
        raise CredentialError(f"{directory} can't be used for keys: {error.strerror}") from error


def check_private(path: Path) -> None:
    """Raise `CredentialError` when anybody but the owner may read or change `path`."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise CredentialError(f"{path} can't be read: {error.strerror}") from error
    if mode & 0o077:
        wanted = "700" if stat.S_ISDIR(mode) else "600"
        raise CredentialError(
            f"{path} has mode {stat.S_IMODE(mode):04o}, so that others than its owner can get at a private key;"
            f" run: chmod {wanted} {path}"
        )


def read(path: Path, *, private: bool = False) -> bytes:
    """The content of a key or certificate file; raises `CredentialError` if it's unreadable, too open or too large."""
    if private:
        check_private(path)
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CredentialError(f"{path} can't be read: {error.strerror}") from error
    if len(data) > _MAX_FILE_BYTES:
        raise CredentialError(f"{path} is larger than {_MAX_FILE_BYTES} bytes: it isn't a key or certificate")
    return data


def write(path: Path, data: bytes, mode: int = PUBLIC) -> None:
    """Put `data` in place of whatever is at `path`, on disk before this returns; a crash leaves the old or the new."""
    try:
        temporary = _write_beside(path, data, mode)
        try:
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
        _sync_directory(path.parent)
    except OSError as error:
        raise CredentialError(f"{path} can't be written: {error.strerror}") from error


def write_new(path: Path, data: bytes, mode: int = PUBLIC) -> bool:
    """Like `write`, but False, and nothing done, when there is a file at `path` already."""
    try:
        temporary = _write_beside(path, data, mode)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        _sync_directory(path.parent)
    except OSError as error:
        raise CredentialError(f"{path} can't be written: {error.strerror}") from error
    return True


def _write_beside(path: Path, data: bytes, mode: int) -> str:
    # mkstemp gives mode 0600 from the first moment, whatever the umask.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
    except OSError:
        os.unlink(temporary)
        raise
    return temporary


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
