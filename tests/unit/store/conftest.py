import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2pdist.store import BlobStore

from .samples import in_memory


@pytest.fixture
def root() -> Iterator[Path]:
    """Where a store can be made; in memory if possible, because opening and closing one sync the disk."""
    with tempfile.TemporaryDirectory(prefix="store-", dir=in_memory()) as directory:
        yield Path(directory) / "store"


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
