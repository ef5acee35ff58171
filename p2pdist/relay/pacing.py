"""How long a node that is fed steadily lets bytes gather before it looks at them. Pure: the clock is a parameter.

Whatever a process does first after it slept is slow: the caches are others' by then. On a host with a busy fleet in it
a piece of 32 KiB costs 300 us when every wake-up finds one, and 150 when it finds many. So between rounds the relay's
thread rests, at most 5 ms, and only while enough arrives to be worth it: the first pieces of a blob are taken at once,
and so is everything that is faster than a rest is long. (Network cards moderate their interrupts for the same reason.)
Rests add up along the depth of a tree, which is why they are short: 16 hosts at 40 Mbit/s with rests of at most 0, 5,
8 and 15 ms end at 1.030, 1.030, 1.047 and 1.043-1.053 x bound, for 13.0, 12.2, 12.7 and 10.3-11.6 CPU s/GiB.

A sender that could be faster must not be held to what fits into a window once a rest: where a window's worth of one
peer waits after a rest, the next rests are left out, and the rate then shows what the peer can do.
"""

import math

MAX_REST_SECONDS = 0.005
MIN_REST_SECONDS = 0.001
GATHER_BYTES = 128 * 1024
FULL_BYTES = 56 * 1024
"""So much from one peer after one rest means that it waited for us: a TCP window begins with 64 KiB."""
HOLD_OFF_SECONDS = 0.03
MEMORY_SECONDS = 0.1
FLOOR_BYTES = 128 * 1024
"""Rest only when so much came within `MEMORY_SECONDS`."""


class Pace:
    """Remembers how much came lately."""

    def __init__(self) -> None:
        self._recent_bytes = 0.0
        self._at = 0.0
        self._rested = False
        self._not_before = 0.0

    def rest_seconds(self, now: float, received_bytes: int, most_bytes: int) -> float:
        """How long to let more gather, when so much was received since the last call, and so much from one peer."""
        self._recent_bytes *= math.exp((self._at - now) / MEMORY_SECONDS)
        self._recent_bytes += received_bytes
        self._at = now
        if self._rested and most_bytes > FULL_BYTES:
            self._not_before = now + HOLD_OFF_SECONDS
        self._rested = False
        if self._recent_bytes < FLOOR_BYTES or now < self._not_before:
            return 0.0
        rest = min(MAX_REST_SECONDS, GATHER_BYTES * MEMORY_SECONDS / self._recent_bytes)
        self._rested = rest >= MIN_REST_SECONDS
        return rest if self._rested else 0.0
