import email
import email.policy
from collections.abc import Sequence
from email.message import Message
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from p2pdist.http.multipart import Multipart
from p2pdist.http.ranges import ByteRange

DATA = bytes(range(256)) * 4


def body(framing: Multipart, parts: Sequence[ByteRange]) -> bytes:
    framed = b"".join(framing.head(index) + DATA[part.start : part.end] for index, part in enumerate(parts))
    return framed + framing.tail


@st.composite
def part_lists(draw: st.DrawFn) -> list[ByteRange]:
    starts = draw(st.lists(st.integers(0, len(DATA) - 1), min_size=1, max_size=20))
    return [ByteRange(start, draw(st.integers(start + 1, len(DATA)))) for start in starts]


@given(part_lists())
def test_a_mail_reader_finds_every_part_and_the_length_is_the_one_said(parts: list[ByteRange]) -> None:
    framing = Multipart(parts, len(DATA), "application/x-layer")
    sent = body(framing, parts)
    assert framing.length == len(sent)
    head = f"Content-Type: {framing.content_type}\nContent-Transfer-Encoding: binary\n\n".encode()
    message = email.message_from_bytes(head + sent, policy=email.policy.HTTP)
    found = cast(list[Message], message.get_payload())
    assert [part["content-type"] for part in found] == ["application/x-layer"] * len(parts)
    assert [part["content-range"] for part in found] == [
        f"bytes {part.start}-{part.end - 1}/{len(DATA)}" for part in parts
    ]


def test_how_it_looks() -> None:
    parts = [ByteRange(0, 2), ByteRange(65, 68)]
    framing = Multipart(parts, 1024, "a/b", boundary="XYZ")
    assert framing.content_type == "multipart/byteranges; boundary=XYZ"
    assert body(framing, parts) == (
        b"\r\n--XYZ\r\nContent-Type: a/b\r\nContent-Range: bytes 0-1/1024\r\n\r\n\x00\x01"
        b"\r\n--XYZ\r\nContent-Type: a/b\r\nContent-Range: bytes 65-67/1024\r\n\r\nABC"
        b"\r\n--XYZ--\r\n"
    )


def test_no_two_answers_have_one_boundary() -> None:
    parts = [ByteRange(0, 1), ByteRange(2, 3)]
    assert len({Multipart(parts, 9, "a/b").content_type for _ in range(100)}) == 100
