"""The types of configuration values: each checks its text where it is made and is a plain number or string afterwards.

A value that doesn't have its form is an `InvalidInput` that says what the form is; where it stood is known to `load`.
Addresses and names of registries are in `addresses`.
"""

import re
from typing import Self

from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput
from p2pdist.core.units import parse_duration, parse_size

_BINARY_UNITS = ((1024**4, "TiB"), (1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))
_SECOND_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_MAX_NAME_LENGTH = 253
_MAX_ZONE_LABELS = 3


class ByteCount(int):
    """A size in bytes, written with a unit: `256MiB`."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The size that `text` names."""
        return cls(parse_size(text))

    def __str__(self) -> str:
        for factor, unit in _BINARY_UNITS:
            if self and self % factor == 0:
                return f"{int(self) // factor}{unit}"
        return repr(int(self))


class Seconds(float):
    """A duration in seconds, written with a unit: `30s`."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The duration that `text` names; a bare number is refused, because its unit would be a guess."""
        return cls(parse_duration(text))

    def __str__(self) -> str:
        for factor, unit in _SECOND_UNITS:
            if self and self % factor == 0:
                return f"{int(self) // factor}{unit}"
        return f"{float(self) * 1000:.3f}".rstrip("0").rstrip(".") + "ms"


class CheckedText(str):
    """A string whose form was checked when it was made."""

    def __new__(cls, text: str) -> Self:
        """Check `text`; raises `InvalidInput`."""
        return super().__new__(cls, cls._checked(text))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The value that `text` is; raises `InvalidInput`."""
        return cls(text)

    @classmethod
    def _checked(cls, text: str) -> str:
        """`text` in its normal form; a class that doesn't say otherwise takes every text as it is."""
        return text


class NodeName(CheckedText):
    """What an agent is called in logs and tables; names needn't be unique."""

    @classmethod
    def _checked(cls, text: str) -> str:
        if len(text) > _MAX_NAME_LENGTH or not all(_LABEL.fullmatch(part) for part in text.split(".")):
            raise InvalidInput("a name is written like a host name: letters, digits, dots, hyphens, 253 at most")
        return text


class Zone(CheckedText):
    """Where a host stands, the widest part first: `eu-1/b/rack7`."""

    @classmethod
    def _checked(cls, text: str) -> str:
        labels = text.split("/")
        if len(labels) > _MAX_ZONE_LABELS or not all(_LABEL.fullmatch(label) for label in labels):
            raise InvalidInput('a zone is one to three labels, region/zone/rack, for example "eu-1/b/rack7"')
        return text


class CertificateHash(CheckedText):
    """The pinned hash of a CA's certificate: `sha256:<64 hex digits>`."""

    @classmethod
    def _checked(cls, text: str) -> str:
        if Digest.parse(text).algorithm != "sha256":
            raise InvalidInput("a CA is pinned by its sha256, as `p2pdist pki init` printed it")
        return text


class HelperName(CheckedText):
    """The NAME of a credential helper: the program `docker-credential-NAME` is asked."""

    @classmethod
    def _checked(cls, text: str) -> str:
        if text.startswith("docker-credential-"):
            raise InvalidInput(f'leave the prefix away: "{text.removeprefix("docker-credential-")}"')
        if _LABEL.fullmatch(text) is None:
            raise InvalidInput('a credential helper is named without its path, for example "ecr-login"')
        return text


class Secret(CheckedText):
    """A text that must not be shown: its `repr`, and so that of whatever holds it, hides it."""

    @classmethod
    def _checked(cls, text: str) -> str:
        if any(character.isspace() or not character.isprintable() for character in text):
            raise InvalidInput("a secret has no blanks or control characters; was it copied whole?")
        return text

    def __repr__(self) -> str:
        return "Secret(hidden)"
