"""A limit on the bytes per second that all connections of the embedded registry send together: a token bucket."""

import trio


class Pace:
    """Lets `bytes_per_second` through, and at most `burst_bytes` at once after a rest; first come, first served."""

    def __init__(self, bytes_per_second: int, burst_bytes: int) -> None:
        if bytes_per_second <= 0:
            raise ValueError("a pace of nothing sends nothing")
        self._bytes_per_second = bytes_per_second
        self._burst_seconds = burst_bytes / bytes_per_second
        self._taken_until = float("-inf")

    async def take(self, count_bytes: int) -> None:
        """Wait until `count_bytes` more may be sent."""
        rested = trio.current_time() - self._burst_seconds
        self._taken_until = max(self._taken_until, rested) + count_bytes / self._bytes_per_second
        await trio.sleep_until(self._taken_until)
