"""Byte ranges of a request (RFC 9110, 14.1.2 and 14.2): which bytes of a representation the client asks for. Pure."""

import re
from dataclasses import dataclass

from p2pdist.core.errors import P2PDistError

_SPEC = re.compile(r"([0-9]*)-([0-9]*)")
_MOST_DIGITS = 18


class RangeNotSatisfiable(P2PDistError):
    """None of the bytes that a Range field asks for exist; the answer is 416 and says how many bytes there are."""

    http_status = 416
    oci_code = "RANGE_INVALID"

    def __init__(self, header: str, size_bytes: int) -> None:
        super().__init__(f"the range {header[:100]!r} lies outside the {size_bytes} bytes that there are")
        self.size_bytes = size_bytes

    @property
    def content_range(self) -> str:
        """The Content-Range field that belongs to the answer 416."""
        return f"bytes */{self.size_bytes}"


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes from `start` up to and without `end`; never empty."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """How many bytes the range has."""
        return self.end - self.start

    def content_range(self, size_bytes: int) -> str:
        """The Content-Range field of a 206 answer with this part of `size_bytes`; its last position is inclusive."""
        return f"bytes {self.start}-{self.end - 1}/{size_bytes}"


def _number(digits: str) -> int:
    """`digits` as a number; one that is too long for any size becomes one that is larger than every size."""
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) <= _MOST_DIGITS else 10**_MOST_DIGITS


def _the_one_spec(header: str) -> tuple[str, str] | None:
    """First and last position (either may be empty) of a field that names one range of bytes in a valid way."""
    unit, equals, ranges = header.partition("=")
    specs = [spec for spec in (element.strip(" \t") for element in ranges.split(",")) if spec]
    if unit.strip(" \t").lower() != "bytes" or not equals or len(specs) != 1:
        return None
    match = _SPEC.fullmatch(specs[0])
    if match is None or not (match[1] or match[2]):
        return None
    return match[1], match[2]


def parse_range(header: str | None, size_bytes: int) -> ByteRange | None:
    """The range that a Range field asks of a representation of `size_bytes`; None: send it whole, with status 200.

    The three forms are `bytes=A-B`, `bytes=A-` and `bytes=-N`. A field that is malformed, has another unit or lists
    several ranges is ignored, as the RFC allows. Raises `RangeNotSatisfiable` when the one range has no byte in common
    with the representation; of an empty one, whatever starts at its beginning is the whole.
    """
    spec = None if header is None else _the_one_spec(header)
    if header is None or spec is None:
        return None
    first, last = spec
    if not first:
        suffix = _number(last)
        if suffix == 0:
            raise RangeNotSatisfiable(header, size_bytes)
        return ByteRange(max(0, size_bytes - suffix), size_bytes) if size_bytes else None
    start = _number(first)
    if last and _number(last) < start:
        return None
    if start >= size_bytes:
        if start == 0:
            return None
        raise RangeNotSatisfiable(header, size_bytes)
    return ByteRange(start, min(size_bytes, _number(last) + 1) if last else size_bytes)
