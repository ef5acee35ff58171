"""Frames survive the wire; anything else is a ProtocolError."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.core.errors import ProtocolError
from p2pdist.relay.frames import (
    MAX_DATA_BYTES,
    PREFIX,
    PREFIX_BYTES,
    Kind,
    OfferFrame,
    PieceFrame,
    decode_offer,
    decode_piece,
    decode_tag,
    encode_offer,
    encode_piece,
    encode_tag,
    read_prefix,
)

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)


@given(u64, u32, u32, u32, u32, u32, u32, st.booleans(), st.binary(min_size=32, max_size=32), st.binary(min_size=1))
def test_pieces_survive(
    generation: int,
    epoch: int,
    piece: int,
    offset: int,
    root: int,
    span: int,
    tag: int,
    offered: bool,
    hash_: bytes,
    vouch: bytes,
) -> None:
    if offset:
        hash_ = vouch = b""
    frame = PieceFrame(generation, epoch, piece, offset, root, span, tag, offered, hash_, vouch)
    encoded = encode_piece(frame, 77)
    prefix = read_prefix(bytearray(encoded), 0)
    assert (prefix.kind, prefix.data_bytes, prefix.total_bytes) == (Kind.PIECE, 77, len(encoded) + 77)
    assert decode_piece(prefix.flags, memoryview(encoded)[PREFIX_BYTES:]) == frame


@given(u64, u32, u32, u32, u32, u32, st.binary(min_size=32, max_size=32), st.binary(min_size=1, max_size=300))
def test_offers_survive(
    generation: int, epoch: int, piece: int, root: int, span: int, tag: int, hash_: bytes, vouch: bytes
) -> None:
    frame = OfferFrame(generation, epoch, piece, root, span, tag, hash_, vouch)
    assert decode_offer(memoryview(encode_offer(frame))[PREFIX_BYTES:]) == frame


@given(u32, st.sampled_from([Kind.WANT, Kind.ACK, Kind.CREDIT, Kind.REFUSE, Kind.PING, Kind.PONG]))
def test_tags_survive(tag: int, kind: Kind) -> None:
    encoded = encode_tag(kind, tag)
    assert read_prefix(bytearray(encoded), 0).kind is kind
    assert decode_tag(memoryview(encoded)[PREFIX_BYTES:]) == tag


@given(st.binary(min_size=8, max_size=8))
def test_any_eight_bytes_are_a_prefix_or_an_error(data: bytes) -> None:
    try:
        prefix = read_prefix(bytearray(data), 0)
    except ProtocolError:
        return
    assert prefix.data_bytes <= MAX_DATA_BYTES


@given(st.binary(max_size=120), st.integers(0, 255))
def test_any_meta_is_a_frame_or_an_error(meta: bytes, flags: int) -> None:
    for decode in (lambda: decode_piece(flags, memoryview(meta)), lambda: decode_offer(memoryview(meta))):
        try:
            decode()
        except ProtocolError:
            continue


@pytest.mark.parametrize(
    ("kind", "meta_bytes", "data_bytes"),
    [(Kind.PIECE, 10, MAX_DATA_BYTES + 1), (Kind.ACK, 4, 1), (Kind.HELLO, 60_000, 0), (99, 4, 0)],
)
def test_lengths_and_kinds_are_bounded(kind: int, meta_bytes: int, data_bytes: int) -> None:
    with pytest.raises(ProtocolError):
        read_prefix(bytearray(PREFIX.pack(kind, 0, meta_bytes, data_bytes)), 0)
