"""Frames and messages: whatever arrives is a message or a ProtocolError."""

import msgspec
import pytest
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from p2pdist.core.errors import ProtocolError
from p2pdist.wire.channel import MAX_EARLY_FRAME_BYTES, MAX_FRAME_BYTES, Channel, Frames
from p2pdist.wire.messages import (
    Beat,
    Deal,
    Fill,
    FromAgent,
    FromTracker,
    Goodbye,
    HeldBlob,
    Inventory,
    Join,
    Reader,
    RingInfo,
    encode,
    members_bitmap,
    slots_of,
)


@given(st.lists(st.binary(max_size=50), max_size=8), st.data())
def test_frames_survive_any_cut(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(len(payload).to_bytes(4, "big") + payload for payload in payloads)
    frames, out = Frames(), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        frames.feed(stream[:cut])
        stream = stream[cut:]
        out += list(frames.take())
    assert out == payloads
    assert not frames.unfinished


@example(b"\x91\xa4\x00\x00\x00\x80")
@given(st.binary(max_size=200))
def test_garbage_is_a_protocol_error_or_a_message(garbage: bytes) -> None:
    for messages in (FromAgent, FromTracker):
        try:
            Reader(messages).decode(garbage)
        except ProtocolError:
            continue


def test_an_unknown_type_is_named() -> None:
    with pytest.raises(ProtocolError, match="Nonsense"):
        Reader(FromAgent).decode(msgspec.msgpack.encode(["Nonsense", 1]))


def test_an_agent_may_not_speak_as_a_tracker() -> None:
    with pytest.raises(ProtocolError):
        Reader(FromTracker).decode(encode(Join(1, "docker.io", "library/a", "sha256:0")))


def test_a_field_that_is_new_is_ignored_and_a_missing_one_has_its_default() -> None:
    longer = msgspec.msgpack.encode(["Goodbye", "because", True, "from the future"])
    assert Reader(FromAgent).decode(longer) == Goodbye("because", True)
    assert Reader(FromAgent).decode(msgspec.msgpack.encode(["Goodbye", "because"])) == Goodbye("because")


def test_a_number_out_of_range_is_refused() -> None:
    with pytest.raises(ProtocolError, match="Expected `int` >= 0"):
        Reader(FromAgent).decode(msgspec.msgpack.encode(["Join", -1, "a", "b", "c"]))


def test_an_order_without_a_lane_is_for_every_root() -> None:
    ring, pieces = RingInfo(3, b"\1", "holder"), b"\5"
    bare = [3, b"\1", "holder"]
    decode = Reader(FromTracker).decode
    assert decode(msgspec.msgpack.encode(["Fill", 7, bare, pieces])) == Fill(7, ring, pieces, False, 0, 1)
    assert decode(msgspec.msgpack.encode(["Deal", 7, 2, bare, pieces])) == Deal(7, 2, ring, pieces, False, 0, 1)
    for message in (Fill(7, ring, pieces, True, 0, 0), Deal(7, 2, ring, pieces, True, 0, 0)):
        with pytest.raises(ProtocolError, match="Expected `int` >= 1"):
            decode(encode(message))


async def test_a_channel_carries_messages_both_ways() -> None:
    left, right = trio.testing.memory_stream_pair()
    agent, tracker = Channel(left, FromTracker), Channel(right, FromAgent)
    inventory = Inventory((HeldBlob("sha256:aa", 5),), ("sha256:bb",))
    await agent.send(Beat(), inventory)
    assert await tracker.receive() == Beat()
    assert await tracker.receive() == inventory
    await left.send_eof()
    assert await tracker.receive() is None


async def test_a_large_frame_is_read_only_from_a_trusted_peer() -> None:
    left, right = trio.testing.memory_stream_pair()
    agent, tracker = Channel(left, FromTracker), Channel(right, FromAgent)
    large = Inventory(tuple(HeldBlob(f"sha256:{number:064x}", 5) for number in range(1000)))
    tracker.trust()
    await agent.send(large)
    assert await tracker.receive() == large
    left, right = trio.testing.memory_stream_pair()
    await left.send_all((MAX_EARLY_FRAME_BYTES + 1).to_bytes(4, "big"))
    with pytest.raises(ProtocolError, match="at most"):
        await Channel(right, FromAgent).receive()
    trusted = Channel(right, FromAgent)
    trusted.trust()
    await left.send_all((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
    with pytest.raises(ProtocolError, match="at most"):
        await trusted.receive()


async def test_an_end_inside_a_frame_is_an_error() -> None:
    left, right = trio.testing.memory_stream_pair()
    await left.send_all(b"\0\0\0\5ab")
    await left.send_eof()
    with pytest.raises(ProtocolError, match="middle of a frame"):
        await Channel(right, FromAgent).receive()


@given(st.sets(st.integers(0, 3000), max_size=50))
def test_bitmaps_of_slots(slots: set[int]) -> None:
    assert slots_of(members_bitmap(sorted(slots))) == sorted(slots)
