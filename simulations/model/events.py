"""What happens when: an event heap and its clock. Knows nothing of what the events mean."""

import heapq
from collections.abc import Callable
from typing import Any

_Event = tuple[float, int, Callable[..., None], tuple[Any, ...]]


class Events:
    """Calls at times; those at the same time run in the order in which they were asked for. Times are seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.count = 0
        self._heap: list[_Event] = []
        self._serial = 0

    def at(self, when: float, call: Callable[..., None], *args: Any) -> None:
        """Run `call(*args)` at `when`, which isn't in the past."""
        self._serial += 1
        heapq.heappush(self._heap, (when, self._serial, call, args))

    def after(self, seconds: float, call: Callable[..., None], *args: Any) -> None:
        """Run `call(*args)` in `seconds`."""
        self.at(self.now + seconds, call, *args)

    def run(self, until: float, stop: Callable[[], bool]) -> None:
        """Run events up to and at `until`, as long as there are any and `stop` says False (asked after each)."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until and not stop():
            self.now, _, call, args = pop(heap)
            self.count += 1
            call(*args)
