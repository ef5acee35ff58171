"""The head of an HTTP/1.1 message, read from a socket without a byte of the body (RFC 9112).

Enough HTTP for a client and a counter that must cost next to nothing: bodies stay in the kernel or go where the caller
wants them. Knows nothing of registries.
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass

MAX_HEAD_BYTES = 64 * 1024
_END = b"\r\n\r\n"


class BadMessage(Exception):
    """What came isn't the head of an HTTP message, or its body has no length that we could count."""


@dataclass(frozen=True, slots=True)
class Head:
    """The first line, in words, and the header fields by lower-case name."""

    words: tuple[str, ...]
    fields: Mapping[str, str]

    @property
    def status(self) -> int:
        """The status of a response."""
        return int(self.words[1])

    @property
    def body_bytes(self) -> int | None:
        """The announced length of the body; None when it is told in another way."""
        length = self.fields.get("content-length")
        return int(length) if length is not None else None

    @property
    def lasting(self) -> bool:
        """Whether the connection may carry another message."""
        connection = self.fields.get("connection", "").lower()
        return "close" not in connection and "HTTP/1.0" not in self.words


def read_head(sock: socket.socket) -> bytes:
    """Everything up to the empty line, which is taken from the socket; nothing when the peer has closed in between.

    Raises `BadMessage` when the connection ends within a head, or when there is no end to it.
    """
    head = b""
    while True:
        seen = sock.recv(MAX_HEAD_BYTES, socket.MSG_PEEK)
        end = (head + seen).find(_END, max(0, len(head) - len(_END)))
        taken = sock.recv(end + len(_END) - len(head) if end >= 0 else len(seen)) if seen else b""
        head += taken
        if not taken:
            if head:
                raise BadMessage(f"the connection ended within a head: {head[:200]!r}")
            return b""
        if end >= 0:
            return head
        if len(head) > MAX_HEAD_BYTES:
            raise BadMessage(f"a head of more than {MAX_HEAD_BYTES} bytes: {head[:200]!r}")


def parse_head(head: bytes) -> Head:
    """The parts of a request's or a response's head; raises `BadMessage`."""
    first, *lines = head.decode("latin-1").split("\r\n")
    words = tuple(first.split(" ", 2))
    fields = {}
    for line in filter(None, lines):
        name, colon, value = line.partition(":")
        if not colon:
            raise BadMessage(f"not a header field: {line[:200]!r}")
        fields[name.strip().lower()] = value.strip()
    if len(words) < 2 or not any(word.startswith("HTTP/1.") for word in words):
        raise BadMessage(f"not a request and not a status line: {first[:200]!r}")
    if not words[0].startswith("HTTP/") and len(words) < 3:
        raise BadMessage(f"not a request line: {first[:200]!r}")
    if words[0].startswith("HTTP/") and not words[1].isdigit():
        raise BadMessage(f"not a status: {first[:200]!r}")
    if not fields.get("content-length", "0").isdigit():
        raise BadMessage(f"not a length: {fields['content-length'][:200]!r}")
    return Head(words, fields)
