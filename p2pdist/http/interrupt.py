"""Calling off blocking work in a worker thread from outside. Knows neither sockets nor trio."""

import threading
from collections.abc import Callable

from p2pdist.core.errors import P2PDistError


class Interrupted(P2PDistError):
    """The work was called off by whoever asked for it."""


class Interrupt:
    """One piece of work that another thread may call off.

    The working thread registers what it blocks on together with a way to end the wait; `trigger` runs those, and every
    later `check`, `watch` or `wait` raises `Interrupted`. A thing is released before it is closed, so that `trigger`
    never touches a file descriptor that has become somebody else's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._called_off = threading.Event()
        self._stops: dict[object, Callable[[], None]] = {}

    def trigger(self) -> None:
        """Call the work off; from any thread, never blocks, may be repeated."""
        with self._lock:
            self._called_off.set()
            for stop in self._stops.values():
                stop()

    def check(self) -> None:
        """Raise `Interrupted` if the work was called off."""
        if self._called_off.is_set():
            raise Interrupted("the request was called off")

    def watch(self, thing: object, stop: Callable[[], None]) -> None:
        """Have `trigger` call `stop`, which must not block or raise, until `thing` is released."""
        with self._lock:
            self.check()
            self._stops[thing] = stop

    def release(self, thing: object) -> None:
        """Forget `thing`; no `stop` of it runs after this returned."""
        with self._lock:
            self._stops.pop(thing, None)

    def wait(self, seconds: float) -> None:
        """Sleep, unless called off."""
        if self._called_off.wait(seconds):
            self.check()
