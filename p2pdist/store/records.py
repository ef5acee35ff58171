"""What the store remembers about its objects: plain values, without behaviour."""

from dataclasses import dataclass
from pathlib import Path

from p2pdist.core.digest import Digest
from p2pdist.core.metainfo import Metainfo


@dataclass(frozen=True, slots=True)
class BlobRecord:
    """A blob, where it came from (as the caller wrote it down), and its torrent if that is known."""

    digest: Digest
    size_bytes: int
    private: bool
    upstream: str
    repository: str
    metainfo: Metainfo | None


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest or index, byte for byte as the upstream sent it."""

    digest: Digest
    media_type: str
    body: bytes
    upstream: str
    repository: str
    private: bool


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A blob whose data was thrown away because it was wrong; `at_seconds` is Unix time."""

    digest: Digest
    reason: str
    at_seconds: float


@dataclass(frozen=True, slots=True)
class KnownTag:
    """What a tag pointed at when its upstream last said so, at this Unix time."""

    digest: Digest
    at_seconds: float


@dataclass(frozen=True, slots=True)
class CommittedBlob:
    """A whole blob, open for reading; its torrent's save path is `path.parent`."""

    digest: Digest
    size_bytes: int
    private: bool
    path: Path
    fd: int


@dataclass(frozen=True, slots=True)
class Opening:
    """What was found when the store was opened.

    `leftovers`: files of blobs that never became whole, removed. `lost`: blobs whose file was gone or had another
    size, forgotten. `unclean_boot`: the host went down without a clean close, so that every blob must be verified.
    """

    blobs: int
    leftovers: int
    lost: tuple[Digest, ...]
    unclean_boot: bool
