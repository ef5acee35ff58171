"""How a server ends without cutting an answer short: it takes nothing new, and goes when what it answers has gone out.

A connection that waits for its next request is closed at once: HTTP clients know that and ask again (RFC 9112, 9.3.1).
One on which nothing was asked yet is different, for its client would take that for a failure. It has `FRESH_SECONDS` to
ask. Knows scopes and counts, not sockets.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import trio

FRESH_SECONDS = 1.0


class Closing:
    """One end for any number of servers."""

    def __init__(self) -> None:
        self._began = trio.Event()
        self._waits: dict[trio.CancelScope, float] = {}
        self.answering = 0
        """How many requests are being answered now."""

    @property
    def begun(self) -> bool:
        """Whether `begin` was called."""
        return self._began.is_set()

    def begin(self) -> None:
        """End every wait for new work, now or, where it has a grace, after that."""
        self._began.set()
        for scope, grace_seconds in self._waits.items():
            _end(scope, grace_seconds)

    @contextmanager
    def ends(self, scope: trio.CancelScope, grace_seconds: float = 0.0) -> Iterator[None]:
        """While entered, the code inside waits for new work in `scope`, which is cancelled when the server closes."""
        self._waits[scope] = grace_seconds
        if self.begun:
            _end(scope, grace_seconds)
        try:
            yield
        finally:
            del self._waits[scope]

    @contextmanager
    def answer(self) -> Iterator[None]:
        """While entered, a request is being answered."""
        self.answering += 1
        try:
            yield
        finally:
            self.answering -= 1


def _end(scope: trio.CancelScope, grace_seconds: float) -> None:
    scope.deadline = min(scope.deadline, trio.current_time() + grace_seconds)
