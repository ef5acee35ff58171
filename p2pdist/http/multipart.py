"""The body of an answer with several parts of a representation, `multipart/byteranges` (RFC 9110, 14.6). Pure.

Its length is known before the first byte leaves, so that it can be declared. A reader looks for the boundary in all
that it gets: it is 144 random bits, which no content happens to hold.
"""

import secrets
from collections.abc import Sequence

from p2pdist.http.ranges import ByteRange

_BOUNDARY_BYTES = 18


class Multipart:
    """How the `parts` of a representation are framed; between `head(i)` and the next comes part `i` itself."""

    def __init__(self, parts: Sequence[ByteRange], size_bytes: int, part_type: str, boundary: str = "") -> None:
        self.parts = parts
        self._boundary = boundary or secrets.token_hex(_BOUNDARY_BYTES)
        self._heads = [self._head(part, size_bytes, part_type) for part in parts]

    def _head(self, part: ByteRange, size_bytes: int, part_type: str) -> bytes:
        fields = f"Content-Type: {part_type}\r\nContent-Range: {part.content_range(size_bytes)}\r\n"
        return f"\r\n--{self._boundary}\r\n{fields}\r\n".encode("ascii")

    @property
    def content_type(self) -> str:
        """The Content-Type field of the whole answer."""
        return f"multipart/byteranges; boundary={self._boundary}"

    def head(self, index: int) -> bytes:
        """What stands in front of part `index`."""
        return self._heads[index]

    @property
    def tail(self) -> bytes:
        """What stands behind the last part."""
        return f"\r\n--{self._boundary}--\r\n".encode("ascii")

    @property
    def length(self) -> int:
        """The bytes of the whole body."""
        return sum(map(len, self._heads)) + sum(part.length for part in self.parts) + len(self.tail)
