"""The tracker's control connections in the model: what is said is encoded by the real codec, counted, and delivered.

Messages take time from the tracker's uplink, in front of the deals, since each agent has a connection of its own.
"""

from collections import Counter
from collections.abc import Callable

from p2pdist.telemetry.metrics import TrackerMetrics
from p2pdist.tracker.lines import Lines
from p2pdist.wire.messages import Message, encode
from simulations.model.events import Events
from simulations.model.node import Node

_LENGTH_BYTES = 4


class ControlLines(Lines):
    """All control connections; counts messages and bytes by their type, and by second for what the tracker sends."""

    def __init__(self, metrics: TrackerMetrics, events: Events, tracker: Node) -> None:
        super().__init__(metrics)
        self._events = events
        self._tracker = tracker
        self._ears: dict[str, Callable[[Message], None]] = {}
        self._free_at = 0.0
        self._last: tuple[Message | None, int] = (None, 0)
        self.sent: Counter[str] = Counter()
        self.received: Counter[str] = Counter()
        self.sent_bytes = 0
        self.received_bytes = 0
        self.sent_in_second: Counter[int] = Counter()
        self.bytes_in_second: Counter[int] = Counter()

    def attach(self, node: str, hear: Callable[[Message], None]) -> None:
        """Who hears what is said to an agent once its line is open."""
        self._ears[node] = hear

    def say(self, node: str, message: Message) -> None:
        """See `Lines`."""
        if node not in self:
            return
        size = self._size(message)
        name, second = type(message).__name__, int(self._events.now)
        self.sent[name] += 1
        self.sent_bytes += size
        self.sent_in_second[second] += 1
        self.bytes_in_second[second] += size
        uplink = self._tracker.uplink
        uplink.take(size)
        self._free_at = max(self._free_at, self._events.now) + size / uplink.bytes_per_second
        self._events.at(self._free_at + self._tracker.latency_seconds, self._ears[node], message)

    def heard(self, message: Message) -> None:
        """An agent said something: count it."""
        self.received[type(message).__name__] += 1
        self.received_bytes += self._size(message)

    def _size(self, message: Message) -> int:
        """Bytes on the wire; one message often goes to many, one after the other."""
        if message is not self._last[0]:
            self._last = message, len(encode(message)) + _LENGTH_BYTES
        return self._last[1]
