"""No more bytes a second from one upstream than the operator allows, over all blobs that are fetched from it at once.

Whoever received bytes waits until they were due; meanwhile the socket fills and the upstream's TCP slows down. What
came later than it might have isn't made up for, but for a moment's worth, so that a link that hiccups keeps the rate.
"""

import threading
import time
from collections.abc import Callable

_MOMENT_SECONDS = 0.25


class Throttle:
    """A rate in bytes a second, 0: none; safe to use from several threads."""

    def __init__(self, bytes_per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = bytes_per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._due = clock()

    def delay(self, count: int) -> float:
        """`count` bytes came; for how many seconds not to ask for more."""
        if self._rate <= 0:
            return 0.0
        with self._lock:
            now = self._clock()
            self._due = max(self._due, now - _MOMENT_SECONDS) + count / self._rate
            return max(0.0, self._due - now)
