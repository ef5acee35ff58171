"""Frames on a data connection. Sans-IO: bytes in, typed frames out, and back.

    kind u8 | flags u8 | length of meta u16 | length of data u32 | meta | data

Numbers are big-endian. A piece travels as one frame or several of at most 64 KiB of data, so that the blobs of one
connection take turns; the first carries the piece's hash and the tracker's vouch. Everything else is a few bytes.
Hello and proof are msgpack maps, so that they can grow; see handshake.py for what they say.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

from p2pdist.core.errors import ProtocolError

MAX_META_BYTES = 8 * 1024
MAX_DATA_BYTES = 64 * 1024
PREFIX = struct.Struct(">BBHI")
PREFIX_BYTES = PREFIX.size
MAX_FRAME_BYTES = PREFIX_BYTES + MAX_META_BYTES + MAX_DATA_BYTES
HASH_BYTES = 32
_PIECE = struct.Struct(">QIIIIII")
_PIECE_WITH_PREFIX = struct.Struct(">BBHIQIIIIII")
_TAG_WITH_PREFIX = struct.Struct(">BBHII")
_OFFER = struct.Struct(">QIIIII")
_TAG = struct.Struct(">I")
_OFFERED = 1


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 1
    PROOF = 2
    PIECE = 3
    OFFER = 4
    WANT = 5
    ACK = 6
    CREDIT = 7
    REFUSE = 8
    PING = 9
    PONG = 10


_KINDS = {int(kind): kind for kind in Kind}
_PIECE_KIND = int(Kind.PIECE)
_HASH_END = _PIECE.size + HASH_BYTES


class PieceFrame(NamedTuple):
    """A part of a piece: where it belongs, and its span. `hash` and `vouch` stand in the part at offset 0 only."""

    generation: int
    epoch: int
    piece: int
    offset: int
    root: int
    span: int
    tag: int
    offered: bool
    hash: bytes
    vouch: bytes


class OfferFrame(NamedTuple):
    """A span that is handed to the receiver without the bytes, but with their hash and vouch: it may have them."""

    generation: int
    epoch: int
    piece: int
    root: int
    span: int
    tag: int
    hash: bytes
    vouch: bytes


class Prefix(NamedTuple):
    """The eight bytes in front of every frame."""

    kind: Kind
    flags: int
    meta_bytes: int
    data_bytes: int

    @property
    def total_bytes(self) -> int:
        """The length of the whole frame."""
        return PREFIX_BYTES + self.meta_bytes + self.data_bytes


def read_prefix(buffer: bytearray | memoryview, start: int) -> Prefix:
    """The prefix at `start`; raises `ProtocolError` for an unknown kind or lengths beyond the limits."""
    kind, flags, meta_bytes, data_bytes = PREFIX.unpack_from(buffer, start)
    if meta_bytes > MAX_META_BYTES or data_bytes > (MAX_DATA_BYTES if kind == _PIECE_KIND else 0):
        raise ProtocolError(f"a relay frame of kind {kind} with {meta_bytes} + {data_bytes} bytes is too large")
    known = _KINDS.get(kind)
    if known is None:
        raise ProtocolError(f"a relay frame of unknown kind {kind}")
    return Prefix(known, flags, meta_bytes, data_bytes)


def encode(kind: Kind, meta: bytes, flags: int = 0, data_bytes: int = 0) -> bytes:
    """A frame without its data, which the sender puts behind it."""
    return PREFIX.pack(kind, flags, len(meta), data_bytes) + meta


def encode_piece(frame: PieceFrame, data_bytes: int) -> bytes:
    """Everything of a piece frame but its data."""
    proofs = frame.hash + frame.vouch if frame.offset == 0 else b""
    flags = _OFFERED if frame.offered else 0
    return _PIECE_WITH_PREFIX.pack(_PIECE_KIND, flags, _PIECE.size + len(proofs), data_bytes, *frame[:7]) + proofs


def decode_piece(flags: int, meta: memoryview) -> PieceFrame:
    """What `encode_piece` wrote; raises `ProtocolError`."""
    raw = bytes(meta)
    if len(raw) < _PIECE.size:
        raise ProtocolError("a piece frame is cut short")
    generation, epoch, piece, offset, root, span, tag = _PIECE.unpack_from(raw)
    if offset == 0:
        if len(raw) <= _HASH_END:
            raise ProtocolError("the first frame of a piece lacks its hash and vouch")
    elif len(raw) > _PIECE.size:
        raise ProtocolError("a later frame of a piece carries a hash")
    hash_, vouch = raw[_PIECE.size : _HASH_END], raw[_HASH_END:]
    return PieceFrame(generation, epoch, piece, offset, root, span, tag, flags & _OFFERED != 0, hash_, vouch)


def encode_offer(frame: OfferFrame) -> bytes:
    """An offer, whole."""
    return encode(Kind.OFFER, _OFFER.pack(*frame[:6]) + frame.hash + frame.vouch)


def decode_offer(meta: memoryview) -> OfferFrame:
    """What `encode_offer` wrote; raises `ProtocolError`."""
    if len(meta) <= _OFFER.size + HASH_BYTES:
        raise ProtocolError(f"an offer of {len(meta)} bytes")
    rest = bytes(meta[_OFFER.size :])
    generation, epoch, piece, root, span, tag = _OFFER.unpack_from(meta)
    return OfferFrame(generation, epoch, piece, root, span, tag, rest[:HASH_BYTES], rest[HASH_BYTES:])


def encode_tag(kind: Kind, tag: int) -> bytes:
    """A frame that says one number: want, acknowledgement, credit, refusal, ping, pong."""
    return _TAG_WITH_PREFIX.pack(kind, 0, _TAG.size, 0, tag)


def decode_tag(meta: memoryview) -> int:
    """What `encode_tag` wrote; raises `ProtocolError`."""
    if len(meta) != _TAG.size:
        raise ProtocolError(f"a tag of {len(meta)} bytes")
    (tag,) = _TAG.unpack(meta)
    return int(tag)
