import errno
import os
from pathlib import Path

import pytest

from p2pdist.pki import files
from p2pdist.pki.errors import CredentialError


def _fail(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "key"
    files.write(path, b"old", files.PRIVATE)
    monkeypatch.setattr(os, call, _fail)
    with pytest.raises(CredentialError, match=r"key can't be written: No space left"):
        files.write(path, b"new", files.PRIVATE)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("key", b"old")]


def test_write_new_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert files.write_new(path, b"first", files.PRIVATE)
    assert not files.write_new(path, b"second", files.PRIVATE)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("key", b"first")]
    assert path.stat().st_nlink == 1
