"""Byte ranges of a request (RFC 9110, 14.1.2 and 14.2): which bytes of a representation the client asks for. Pure.

A field is read before the size is known, so that it can be seen what kind of request it is, and resolved afterwards.
Who reads lazily lists hundreds of ranges in one field (podman 300, in 5 KiB) and takes the parts of the answer for
those that it asked for, one by one: so parts are never joined, sorted or left out because they overlap. A field whose
ranges come to more than the representation would cost more than what it asks for; it is ignored.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from p2pdist.core.errors import P2PDistError

MOST_RANGES = 2048
"""A field that lists more is ignored; podman stops at 1024."""
_SPEC = re.compile(r"([0-9]*)-([0-9]*)")
_MOST_DIGITS = 18


class RangeNotSatisfiable(P2PDistError):
    """None of the bytes that a Range field asks for exist; the answer is 416 and says how many bytes there are."""

    http_status = 416
    oci_code = "RANGE_INVALID"

    def __init__(self, asked: str, size_bytes: int) -> None:
        super().__init__(f"the range {asked[:100]!r} lies outside the {size_bytes} bytes that there are")
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
        """The Content-Range field of this part of `size_bytes`; its last position is inclusive."""
        return f"bytes {self.start}-{self.end - 1}/{size_bytes}"


@dataclass(frozen=True, slots=True)
class RangeSpec:
    """One range as it is asked for: from `first` to `last`, both inclusive; to the end when `last` is None.

    Without `first`, the `last` bytes that there are: a suffix.
    """

    first: int | None
    last: int | None

    def within(self, size_bytes: int) -> ByteRange | None:
        """What of a representation that is; None when nothing."""
        if self.first is None:
            suffix = min(self.last or 0, size_bytes)
            return ByteRange(size_bytes - suffix, size_bytes) if suffix else None
        end = size_bytes if self.last is None else min(size_bytes, self.last + 1)
        return ByteRange(self.first, end) if self.first < end else None

    def __str__(self) -> str:
        return f"{'' if self.first is None else self.first}-{'' if self.last is None else self.last}"


@dataclass(frozen=True, slots=True)
class Ranges:
    """The ranges of one request, at least one, in the order in which they are asked for."""

    specs: tuple[RangeSpec, ...]

    @property
    def open_ended(self) -> bool:
        """Whether all from some byte on is asked for: who resumes does that, and who reads as far as it likes."""
        return len(self.specs) == 1 and self.specs[0].first is not None and self.specs[0].last is None

    def resolve(self, size_bytes: int) -> Sequence[ByteRange] | None:
        """The parts to send of a representation of `size_bytes`; None: send it whole, with status 200.

        Ranges that lie outside are left out; raises `RangeNotSatisfiable` when none is left. Of an empty
        representation, whatever starts at its beginning is the whole.
        """
        found = [part for part in (spec.within(size_bytes) for spec in self.specs) if part is not None]
        if not found:
            if size_bytes == 0 and any(spec.first == 0 or (spec.first is None and spec.last) for spec in self.specs):
                return None
            raise RangeNotSatisfiable(f"bytes={','.join(map(str, self.specs))}", size_bytes)
        if len(found) > 1 and sum(part.length for part in found) > size_bytes:
            return None
        return found


def _number(digits: str) -> int:
    """`digits` as a number; one that is too long for any size becomes one that is larger than every size."""
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) <= _MOST_DIGITS else 10**_MOST_DIGITS


def _spec(text: str) -> RangeSpec | None:
    match = _SPEC.fullmatch(text)
    if match is None or not (match[1] or match[2]):
        return None
    first, last = (_number(digits) if digits else None for digits in (match[1], match[2]))
    if first is not None and last is not None and last < first:
        return None
    return RangeSpec(first, last)


def parse_ranges(header: str | None) -> Ranges | None:
    """The ranges that a Range field asks for: `bytes=A-B`, `bytes=A-`, `bytes=-N`, or several of them.

    None when there is no field, and when there is one that is to be ignored: malformed, of another unit, or too long.
    """
    if header is None:
        return None
    unit, equals, listed = header.partition("=")
    if unit.strip(" \t").lower() != "bytes" or not equals or listed.count(",") > 2 * MOST_RANGES:
        return None
    texts = [text for text in (element.strip(" \t") for element in listed.split(",")) if text]
    specs = [spec for spec in map(_spec, texts) if spec is not None]
    if not specs or len(specs) != len(texts) or len(specs) > MOST_RANGES:
        return None
    return Ranges(tuple(specs))


def parse_range(header: str | None, size_bytes: int) -> ByteRange | None:
    """The one range to send of a representation of `size_bytes`, for who sends one at a time; None: send it whole.

    Raises `RangeNotSatisfiable`.
    """
    ranges = parse_ranges(header)
    parts = None if ranges is None else ranges.resolve(size_bytes)
    return parts[0] if parts is not None and len(parts) == 1 else None
