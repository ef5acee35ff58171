"""The `Content-Range` field of a partial answer (RFC 9110, 14.4). Pure."""

import re
from dataclasses import dataclass

from p2pdist.core.errors import ProtocolError

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/(?:([0-9]{1,19})|\*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ContentRange:
    """Which bytes a 206 answer holds: from `start` up to, not including, `end`, of `total` (None: not known)."""

    start: int
    end: int
    total: int | None


def parse_content_range(value: str) -> ContentRange:
    """The range that a 206 answer says it holds; raises `ProtocolError` for anything that can't be one."""
    match = _CONTENT_RANGE.fullmatch(value.strip())
    if match is None:
        raise ProtocolError(f"Content-Range {value[:80]!r} isn't a range of bytes")
    start, end, total = int(match[1]), int(match[2]) + 1, int(match[3]) if match[3] else None
    if start >= end or (total is not None and end > total):
        raise ProtocolError(f"Content-Range {value[:80]!r} contradicts itself")
    return ContentRange(start, end, total)
