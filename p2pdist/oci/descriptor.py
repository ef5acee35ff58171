"""Descriptors: what points at content in OCI documents (OCI image spec, "Content Descriptors"). Pure."""

import re
from dataclasses import dataclass

from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput
from p2pdist.core.pieces import MAX_BLOB_BYTES

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")


@dataclass(frozen=True, slots=True)
class Platform:
    """What a child of an index runs on; `str()` is `linux/arm64/v8`."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


@dataclass(frozen=True, slots=True)
class Descriptor:
    """The digest, size and media type of some content.

    `urls` says where else it may be had (layers that their owner doesn't let registries give away).
    """

    media_type: str
    digest: Digest
    size_bytes: int
    platform: Platform | None = None
    urls: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if _MEDIA_TYPE.fullmatch(self.media_type) is None:
            raise InvalidInput(f"{self.media_type[:140]!r} isn't a media type; the form is type/subtype")
        if not 0 <= self.size_bytes <= MAX_BLOB_BYTES:
            raise InvalidInput(f"a size of {self.size_bytes} bytes for {self.digest} is outside 0..{MAX_BLOB_BYTES}")
