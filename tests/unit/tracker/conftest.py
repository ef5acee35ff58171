"""Where a tracker's state can stand: in memory if possible, because opening and closing a store sync the disk."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.store.samples import in_memory


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory of the test's own."""
    with tempfile.TemporaryDirectory(prefix="tracker-", dir=in_memory()) as directory:
        yield Path(directory)
