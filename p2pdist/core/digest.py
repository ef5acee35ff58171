"""Digests of content: OCI image spec, "Digests"."""

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol, Self

from p2pdist.core.errors import DigestInvalid

_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_FORM = re.compile(r"(sha256|sha512):([0-9a-f]+)")


class Hasher(Protocol):
    """What `hashlib` objects do, as far as we use it."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """An algorithm and the hexadecimal hash it gave; `str()` is the OCI form `sha256:<64 hex digits>`."""

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        expected = _HEX_LENGTH.get(self.algorithm)
        if expected is None:
            raise DigestInvalid(f"digest algorithm {self.algorithm[:32]!r} isn't supported; use sha256 or sha512")
        if len(self.hex) != expected or re.fullmatch("[0-9a-f]*", self.hex) is None:
            raise DigestInvalid(
                f"a {self.algorithm} digest has {expected} lower-case hex digits, this one is {self.hex[:140]!r}"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """The digest that `text` names; raises `DigestInvalid` for anything else."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise DigestInvalid(f"{text[:140]!r} isn't a digest; the form is sha256:<64 hex digits>")
        return cls(match[1], match[2])

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview, algorithm: str = "sha256") -> Self:
        """The digest of `data`."""
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    def hasher(self) -> Hasher:
        """A fresh hash object of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def matches(self, hasher: Hasher) -> bool:
        """Whether what `hasher` was fed has this digest."""
        return hasher.hexdigest() == self.hex

    @property
    def short(self) -> str:
        """Twelve hex digits: enough for a person to tell blobs apart in a log."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"
