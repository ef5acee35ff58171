"""A host's uplink, which connections share packet by packet: processor sharing, by a virtual clock (see `links`).

Knows frames and how long they take; where they go is the business of whoever is told that they have left.
"""

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from simulations.model.events import Events

if TYPE_CHECKING:
    from simulations.model.links import Flow

_QUANTUM_BYTES = 3000
_NEVER = float("inf")


class Frame:
    """Bytes under way on one connection. `item` is what the receiver gets with the last of them."""

    __slots__ = ("began", "flow", "item", "riders", "size_bytes")

    def __init__(self, flow: "Flow", size_bytes: int, item: Any) -> None:
        self.flow = flow
        self.size_bytes = size_bytes
        self.item = item
        self.began = 0.0
        self.riders: list[Any] = []


class Uplink:
    """An uplink shared by the connections that have something to send; see the essay above."""

    def __init__(
        self, events: Events, bytes_per_second: float, burst_bytes: int, on_left: Callable[[Frame], None]
    ) -> None:
        self._events = events
        self.bytes_per_second = bytes_per_second
        self._burst_bytes = burst_bytes
        self._tokens = float(burst_bytes)
        self._on_left = on_left
        self._virtual = 0.0
        self._moved_at = 0.0
        self._debt_bytes = 0.0
        self._due: list[tuple[float, int, Frame]] = []
        self._active = 0
        self._serial = 0
        self._next_at = _NEVER
        self.sent_bytes = 0

    def begin(self, frame: Frame) -> None:
        """Send a frame, beside those under way."""
        self._advance()
        self._active += 1
        self._put(frame)
        self._schedule()

    def take(self, size_bytes: int) -> None:
        """Spend link time on small frames that go before everything else."""
        self._advance()
        self._debt_bytes += size_bytes
        if self._tokens:
            self._pay_debt(min(self._tokens, self._debt_bytes))
        self.sent_bytes += size_bytes

    def _pay_debt(self, tokens: float) -> None:
        self._tokens -= tokens
        self._debt_bytes -= tokens

    def forget(self) -> None:
        """The connection of a frame under way was closed; what it had on the link is dropped."""
        self._advance()
        before = len(self._due)
        self._due = [entry for entry in self._due if not entry[2].flow.closed]
        heapq.heapify(self._due)
        self._active -= before - len(self._due)
        self._schedule()

    @property
    def control_delay_seconds(self) -> float:
        """How long a small frame waits behind the packets that other connections have in the queue."""
        return (self._active * _QUANTUM_BYTES + self._debt_bytes) / self.bytes_per_second

    def _put(self, frame: Frame) -> None:
        frame.began = self._events.now
        self._serial += 1
        heapq.heappush(self._due, (self._virtual + frame.size_bytes, self._serial, frame))

    def _advance(self) -> None:
        now = self._events.now
        capacity = (now - self._moved_at) * self.bytes_per_second
        self._moved_at = now
        if self._debt_bytes:
            paid = min(capacity, self._debt_bytes)
            self._debt_bytes -= paid
            capacity -= paid
        if self._active:
            self._virtual += capacity / self._active
        elif capacity:
            self._tokens = min(self._burst_bytes, self._tokens + capacity)

    def _schedule(self) -> None:
        if self._due:
            missing = max(0.0, self._due[0][0] - self._virtual) * self._active
            if self._tokens:
                used = min(self._tokens, missing)
                self._tokens -= used
                self._virtual += used / self._active
                missing -= used
            when = self._events.now + (missing + self._debt_bytes) / self.bytes_per_second
            if when < self._next_at:
                self._next_at = when
                self._events.at(when, self._wake, when)

    def _wake(self, when: float) -> None:
        if when != self._next_at:
            return
        self._next_at = _NEVER
        self._advance()
        limit = self._virtual + 1e-3
        left: list[Frame] = []
        while self._due and self._due[0][0] <= limit:
            left.append(heapq.heappop(self._due)[2])
        self._active -= len(left)
        for frame in left:
            self.sent_bytes += frame.size_bytes
            self._on_left(frame)
        self._schedule()
