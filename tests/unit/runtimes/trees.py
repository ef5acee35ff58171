"""A host's files in a directory of the test, and pictures of them to compare."""

import stat
from pathlib import Path, PurePosixPath

from p2pdist.runtimes.tree import HostTree

Picture = dict[str, tuple[str, bytes]]


def picture(root: Path) -> Picture:
    """Every file and directory below `root` except the records' own: mode and content."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = f"/{path.relative_to(root)}"
        if not name.startswith("/var"):
            mode = stat.filemode(path.lstat().st_mode)
            found[name] = (mode, path.read_bytes() if path.is_file() else b"")
    return found


def put(root: Path, path: str, content: str | bytes, mode: int = 0o644) -> Path:
    """Write a file of the host."""
    real = HostTree(root).real(PurePosixPath(path))
    real.parent.mkdir(parents=True, exist_ok=True)
    real.write_bytes(content.encode() if isinstance(content, str) else content)
    real.chmod(mode)
    return real
