"""The bytes of one blob, in order, over as many connections as it takes. Runs in a worker thread.

What came before a connection broke stays; the rest is asked for with a Range, as long as every attempt brings something
new. A blob is asked for because a manifest names it, so the origin is believed that it doesn't have it, or doesn't give
it, when it says so twice. Whether the bytes are right isn't known here: who receives them hashes them.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from p2pdist.core.errors import Denied, NotFound, P2PDistError, ProtocolError
from p2pdist.http.client import ConnectionBroken, Exchange, Stalled
from p2pdist.http.content_range import parse_content_range
from p2pdist.oci.call import Call
from p2pdist.oci.session import OriginSession
from p2pdist.oci.throttle import Throttle

_MAX_ATTEMPTS = 16
_BUFFER_BYTES = 256 * 1024
_BATCH_BYTES = 64 * 1024
_BATCH_SECONDS = 0.02
_PACE_SECONDS = 60.0
_PACE_BYTES = 60 * 1024

Sink = Callable[[memoryview], None]


@dataclass(frozen=True, slots=True)
class FetchedBlob:
    """What a fetch of a blob, or of a part of it, came to.

    `size` is the whole blob's, in bytes; `private` that our credentials were needed; `requests` counts every request,
    those for tokens and after redirects too; `received_bytes` every byte of a body, those that had come before too;
    `honours_ranges` whether the origin answered a Range with just that range (None: it wasn't asked and doesn't say).
    """

    size: int
    private: bool
    requests: int
    received_bytes: int
    honours_ranges: bool | None


class RangesIgnored(ProtocolError):
    """The origin answers a request for a range with the whole blob."""


class Pace:
    """Takes an origin that lets its bytes drip, each of them in time, for one that hangs.

    Only the time spent waiting for it counts, so that a slow sink isn't the origin's fault.
    """

    def __init__(self) -> None:
        self._bytes = 0
        self._seconds = 0.0

    def note(self, count: int, seconds: float) -> None:
        """`count` bytes came after `seconds`; raises `ConnectionBroken` when it was under 1 KiB/s for a minute."""
        self._bytes += count
        self._seconds += seconds
        if self._seconds >= _PACE_SECONDS:
            if self._bytes < _PACE_BYTES:
                raise ConnectionBroken(f"only {self._bytes} bytes came within {self._seconds:.0f} s")
            self._bytes, self._seconds = 0, 0.0


class BlobStream:
    """A fetch of the bytes from `offset` up to, not including, `end` (None: to the blob's end).

    With `exact`, an origin that would send other bytes too isn't listened to.
    """

    def __init__(
        self,
        session: OriginSession,
        call: Call,
        sink: Sink,
        on_size: Callable[[int], None],
        on_private: Callable[[], None],
        offset: int,
        end: int | None,
        exact: bool = False,
        throttle: Throttle | None = None,
    ) -> None:
        self._session = session
        self._call = call
        self._sink = sink
        self._on_size = on_size
        self._on_private = on_private
        self._position = offset
        self._end = end
        self._exact = exact
        self._throttle = throttle or Throttle(0)
        self._size: int | None = None
        self._etag = ""
        self._private = False
        self._received = 0
        self._honours_ranges: bool | None = None
        self._refused = False
        self._pace = Pace()
        self._view = memoryview(bytearray(_BUFFER_BYTES))

    def run(self) -> FetchedBlob:
        """Fetch; raises what `OriginSession.send` does, and whatever the sink raises."""
        for _ in range(_MAX_ATTEMPTS):
            before = self._position
            try:
                self._attempt()
            except ConnectionBroken as error:
                if self._position == before:
                    self._call.failed(error)
                elif isinstance(error, Stalled):
                    self._call.stalled()
                continue
            except (Denied, NotFound):
                if self._refused:
                    raise
                self._refused = True
                continue
            if self._size is not None and self._position >= self._limit(self._size):
                return FetchedBlob(self._size, self._private, self._call.requests, self._received, self._honours_ranges)
            if self._position == before:
                raise self._wrong("it answers a range with nothing of it")
        raise self._call.wanted.explain(
            ConnectionBroken(f"the connection broke {_MAX_ATTEMPTS} times, the last time at byte {self._position}")
        )

    def _attempt(self) -> None:
        """One request, and as much of its body as is needed and comes."""
        asked_range = self._position > 0 or self._end is not None
        headers = {"Accept": "*/*"}
        if asked_range:
            last = "" if self._end is None else str(self._end - 1)
            headers["Range"] = f"bytes={self._position}-{last}"
            if self._etag:
                headers["If-Range"] = self._etag
        answer = self._session.send("GET", headers, self._call)
        with answer.exchange as exchange:
            start, end, total = self._extent(exchange, asked_range)
            self._learn(exchange, total, answer.private)
            self._skip(exchange, self._position - start)
            self._deliver(exchange, min(end, self._limit(total)))
            if self._position == end and self._receive(exchange, self._view[:1]):
                raise self._wrong("it sends more bytes than it announced")

    def _extent(self, exchange: Exchange, asked_range: bool) -> tuple[int, int, int]:
        """Start and end of what the body holds, and the blob's size; the body starts where we are, or before."""
        if exchange.headers.get("content-encoding", "identity").lower() != "identity":
            raise self._wrong(f"it sends the blob with Content-Encoding {exchange.headers['content-encoding'][:40]!r}")
        if exchange.status == 200:
            if asked_range and self._exact:
                raise self._call.wanted.explain(RangesIgnored("the registry sends the whole of it, asked for a range"))
            if asked_range:
                self._honours_ranges = False
            elif (accepted := exchange.headers.get("accept-ranges", "").lower()) in ("bytes", "none"):
                self._honours_ranges = accepted == "bytes"
            size = exchange.content_length
            if size is None:
                size = self._ask_size()
            return 0, size, size
        try:
            part = parse_content_range(exchange.headers.get("content-range", ""))
        except ProtocolError as error:
            raise self._call.wanted.explain(error) from error
        if not asked_range or part.start != self._position:
            raise self._wrong(f"it sends bytes from {part.start}, asked for were those from {self._position}")
        if exchange.content_length not in (None, part.end - part.start):
            raise self._wrong(f"it sends {exchange.content_length} bytes as a range of {part.end - part.start}")
        self._honours_ranges = True
        total = part.total or self._size
        return part.start, part.end, self._ask_size() if total is None else total

    def _ask_size(self) -> int:
        """The blob's size by a request of its own."""
        return head_size(self._session, self._call)

    def _learn(self, exchange: Exchange, total: int, private: bool) -> None:
        """Tell whoever listens what the first answer's head says, before any byte of a body.

        What began without credentials is public, even if a resumed request needs them, say because anonymous pulls
        became too many.
        """
        if self._size is None:
            if private:
                self._private = True
                self._on_private()
            self._size = total
            self._on_size(total)
        elif self._size != total:
            raise self._wrong(f"it gives the size as {total} bytes now, as {self._size} before")
        etag = exchange.headers.get("etag", "")
        self._etag = etag if etag.startswith('"') else ""

    def _skip(self, exchange: Exchange, count: int) -> None:
        """Read over bytes that came before."""
        while count:
            count -= self._receive_some(exchange, min(count, _BUFFER_BYTES))

    def _deliver(self, exchange: Exchange, stop: int) -> None:
        """Give the bytes up to `stop` to the sink, in batches: a call of it costs more than a read."""
        filled, since = 0, time.monotonic()
        while self._position + filled < stop:
            try:
                room = min(_BUFFER_BYTES - filled, stop - self._position - filled)
                filled += self._receive_some(exchange, room, filled)
            except ConnectionBroken:
                self._flush(filled)
                raise
            now = time.monotonic()
            if filled >= _BATCH_BYTES or now - since >= _BATCH_SECONDS:
                self._flush(filled)
                filled, since = 0, now
        self._flush(filled)

    def _flush(self, filled: int) -> None:
        if filled:
            self._sink(self._view[:filled])
            self._position += filled
            if seconds := self._throttle.delay(filled):
                self._call.interrupt.wait(seconds)

    def _receive_some(self, exchange: Exchange, count: int, at: int = 0) -> int:
        received = self._receive(exchange, self._view[at : at + count])
        if received == 0:
            raise self._call.wanted.explain(ConnectionBroken(f"the body ended early, at byte {self._position}"))
        return received

    def _receive(self, exchange: Exchange, view: memoryview) -> int:
        started = time.monotonic()
        try:
            count = exchange.readinto(view)
            self._pace.note(count, time.monotonic() - started)
        except P2PDistError as error:
            raise self._call.wanted.explain(error) from error
        self._received += count
        return count

    def _limit(self, size: int) -> int:
        return size if self._end is None else min(self._end, size)

    def _wrong(self, what: str) -> P2PDistError:
        return self._call.wanted.explain(ProtocolError(f"the registry breaks the protocol: {what}"))


def head_size(session: OriginSession, call: Call) -> int:
    """The size in bytes of the blob that `call` wants, as the origin says; raises `ProtocolError` if it doesn't."""
    with session.send("HEAD", {"Accept": "*/*"}, call).exchange as exchange:
        if exchange.content_length is None:
            raise call.wanted.explain(ProtocolError("the registry doesn't say how long it is"))
        return exchange.content_length
