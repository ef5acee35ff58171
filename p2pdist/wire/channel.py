"""Messages over a byte stream: a length of four bytes, big-endian, and the msgpack. Imports no I/O library.

`Frames` is sans-IO. `Channel` joins it to whatever has `send_all` and `receive_some` (trio's streams do). One task may
send and one may receive at a time; who needs several senders puts a queue in front. Time limits belong to the caller.
"""

from collections.abc import Iterator
from typing import Any, Protocol

from p2pdist.core.errors import ProtocolError
from p2pdist.wire.messages import Message, Reader, encode

MAX_FRAME_BYTES = 8 * 1024 * 1024
MAX_EARLY_FRAME_BYTES = 64 * 1024
_LENGTH_BYTES = 4
_RECEIVE_BYTES = 64 * 1024


class Frames:
    """Bytes in, frames out; the limit can be raised once the peer is known."""

    def __init__(self, limit_bytes: int = MAX_EARLY_FRAME_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Bytes that arrived."""
        self._buffer += data

    def take(self) -> Iterator[bytes]:
        """The frames that are whole; raises `ProtocolError` for one beyond the limit."""
        while len(self._buffer) >= _LENGTH_BYTES:
            length = int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
            if length > self.limit_bytes:
                raise ProtocolError(f"a control frame of {length} bytes; at most {self.limit_bytes} are read here")
            end = _LENGTH_BYTES + length
            if len(self._buffer) < end:
                return
            frame = bytes(self._buffer[_LENGTH_BYTES:end])
            del self._buffer[:end]
            yield frame

    @property
    def unfinished(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._buffer)


class ByteStream(Protocol):
    """What a channel needs of a stream."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Some bytes; none at the end of the stream."""


class Channel:
    """Messages to and from one peer."""

    def __init__(self, stream: ByteStream, reads: Any) -> None:
        self._stream = stream
        self._frames = Frames()
        self._reader = Reader(reads)
        self._ready: list[bytes] = []

    def trust(self) -> None:
        """Read large frames from now on: the peer has shown who it is."""
        self._frames.limit_bytes = MAX_FRAME_BYTES

    async def send(self, *messages: Message) -> None:
        """Send messages, in one write."""
        frames = [encode(message) for message in messages]
        await self._stream.send_all(b"".join(len(frame).to_bytes(_LENGTH_BYTES, "big") + frame for frame in frames))

    async def receive(self) -> Any:
        """The next message; None at the end. Raises `ProtocolError`."""
        while not self._ready:
            data = await self._stream.receive_some(_RECEIVE_BYTES)
            if not data:
                if self._frames.unfinished:
                    raise ProtocolError("the control connection ended in the middle of a frame")
                return None
            self._frames.feed(bytes(data))
            self._ready = list(self._frames.take())
        return self._reader.decode(self._ready.pop(0))
