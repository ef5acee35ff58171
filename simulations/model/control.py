"""The control connections of the model's tracker: what is said is encoded by the real codec, counted, and delivered.

Messages take time from the tracker's uplink, in front of the deals, since each agent has a connection of its own.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from p2pdist.wire.messages import Message, encode
from simulations.model.events import Events
from simulations.model.node import Node

_LENGTH_BYTES = 4


class ControlLines:
    """All control connections; counts messages and bytes by their type, and by second for what the tracker sends."""

    def __init__(self, events: Events, tracker: Node) -> None:
        self._events = events
        self._tracker = tracker
        self._free_at = 0.0
        self.sent: Counter[str] = Counter()
        self.received: Counter[str] = Counter()
        self.sent_bytes = 0
        self.received_bytes = 0
        self.sent_in_second: Counter[int] = Counter()
        self.bytes_in_second: Counter[int] = Counter()

    def tell(self, nodes: Sequence[Node], message: Message, hear: Callable[[Node], None]) -> None:
        """Send `message` to each of `nodes`; `hear(node)` is called at those that live when it arrives."""
        if not nodes:
            return
        size = (len(encode(message)) + _LENGTH_BYTES) * len(nodes)
        name, second = type(message).__name__, int(self._events.now)
        self.sent[name] += len(nodes)
        self.sent_bytes += size
        self.sent_in_second[second] += len(nodes)
        self.bytes_in_second[second] += size
        uplink = self._tracker.uplink
        uplink.take(size)
        self._free_at = max(self._free_at, self._events.now) + size / uplink.bytes_per_second
        self._events.at(self._free_at + self._tracker.latency_seconds, self._arrive, nodes, hear)

    def say(self, node: Node, message: Message, hear: Callable[[], None]) -> None:
        """An agent says something to the tracker."""
        self.received[type(message).__name__] += 1
        self.received_bytes += len(encode(message)) + _LENGTH_BYTES
        self._events.after(node.latency_seconds, hear)

    def _arrive(self, nodes: Sequence[Node], hear: Callable[[Node], None]) -> None:
        for node in nodes:
            if not node.dead:
                node.hear(hear)
