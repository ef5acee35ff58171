"""How long a node that is fed steadily lets bytes gather before it looks at them. Pure: the clock is a parameter.

Whatever a process does first after it slept is slow: the caches are others' by then. On a host with a busy fleet in it
a piece of 32 KiB costs 400 us when every wake-up finds one, and 110 when it finds many. So between rounds the relay's
thread rests, at most 30 ms, and only while enough arrives to be worth it: the first pieces of a blob are taken at once,
and so is everything that is faster than a rest is long. (Network cards moderate their interrupts for the same reason.)

Rests add up along the depth of a tree, and cost time where a tree has nothing else to do: when it begins to fill, and
when its last pieces come. In between there is always another piece to send. So a rest is short against what was
gathered so far and against what is left: 16 hosts at 40 Mbit/s end at 1.03 x bound with it as they do without any rest,
and not at 1.043-1.053 as with rests of 15 ms throughout, for about a sixth less CPU than rests of 5 ms.

A sender that could be faster must not be held to what fits into a window once a rest: where a window's worth of one
peer waits after a rest, the next rests are left out, and the rate then shows what the peer can do.
"""

import math

MAX_REST_SECONDS = 0.03
MIN_REST_SECONDS = 0.001
GATHER_BYTES = 192 * 1024
LEFT_SHARE = 128
"""A rest is at most this part of the time that what is left will take."""
FED_SHARE = 32
"""A rest is at most this part of the time since bytes began to come steadily."""
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
        self._fed_since = 0.0
        self._rested = False
        self._not_before = 0.0

    def rest_seconds(self, now: float, received_bytes: int, most_bytes: int, left_bytes: int) -> float:
        """How long to let more gather.

        `received_bytes` came since the last call, `most_bytes` of them from one peer; `left_bytes` are yet to come.
        """
        self._recent_bytes *= math.exp((self._at - now) / MEMORY_SECONDS)
        self._recent_bytes += received_bytes
        self._at = now
        if self._rested and most_bytes > FULL_BYTES:
            self._not_before = now + HOLD_OFF_SECONDS
        self._rested = False
        if self._recent_bytes < FLOOR_BYTES:
            self._fed_since = now
            return 0.0
        if now < self._not_before:
            return 0.0
        rate = self._recent_bytes / MEMORY_SECONDS
        rest = min(
            MAX_REST_SECONDS,
            GATHER_BYTES / rate,
            left_bytes / rate / LEFT_SHARE,
            (now - self._fed_since) / FED_SHARE,
        )
        self._rested = rest >= MIN_REST_SECONDS
        return rest if self._rested else 0.0
