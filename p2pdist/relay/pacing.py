"""How long a node that is fed steadily lets bytes gather before it looks at them. Pure: the clock is a parameter.

Whatever a process does first after it slept is slow: the caches are others' by then. On a host with a busy fleet in it
a piece of 32 KiB costs 300 us when every wake-up finds one, and 150 when it finds many. So between rounds the relay's
thread rests, at most 15 ms, and only while enough arrives to be worth it: the first pieces of a blob are taken at once,
and so is everything that is faster than a rest is long. (Network cards moderate their interrupts for the same reason.)
Rests add up along the depth of a tree, which is why they are short.
"""

import math

MAX_REST_SECONDS = 0.015
MIN_REST_SECONDS = 0.001
GATHER_BYTES = 192 * 1024
MEMORY_SECONDS = 0.1
FLOOR_BYTES = 128 * 1024
"""Rest only when so much came within `MEMORY_SECONDS`."""


class Pace:
    """Remembers how much came lately."""

    def __init__(self) -> None:
        self._recent_bytes = 0.0
        self._at = 0.0

    def rest_seconds(self, now: float, received_bytes: int) -> float:
        """How long to let more gather, when so much was received since the last call."""
        self._recent_bytes *= math.exp((self._at - now) / MEMORY_SECONDS)
        self._recent_bytes += received_bytes
        self._at = now
        if self._recent_bytes < FLOOR_BYTES:
            return 0.0
        rest = min(MAX_REST_SECONDS, GATHER_BYTES * MEMORY_SECONDS / self._recent_bytes)
        return rest if rest >= MIN_REST_SECONDS else 0.0
