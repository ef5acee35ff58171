import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory for a store; in memory if possible, because opening and closing one sync the disk."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="agent-", dir=shared if shared.is_dir() else None) as directory:
        yield Path(directory) / "agent"
