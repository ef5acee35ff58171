from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2pdist.store import BlobStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[BlobStore]:
    with BlobStore.open(root) as opened:
        yield opened


@pytest.fixture
def boot(tmp_path: Path) -> Callable[[str], Path]:
    """`boot("a")` is a boot id file that says so."""

    def write(name: str) -> Path:
        path = tmp_path / "boot_id"
        path.write_text(f"{name}\n")
        return path

    return write
