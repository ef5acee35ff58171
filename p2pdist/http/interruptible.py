"""Blocking work in a thread that ends when the task waiting for it is cancelled. Knows nothing of HTTP."""

import socket
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

from p2pdist.http.dial import AddressInfo
from p2pdist.http.interrupt import Interrupt

T = TypeVar("T")


async def run_interruptible(work: Callable[[], T], interrupt: Interrupt, limiter: trio.CapacityLimiter) -> T:
    """What `work` returns or raises; `interrupt` must end it.

    When this is cancelled it triggers `interrupt` and waits until `work` has let go, so that nothing that `work`
    calls runs afterwards. trio alone offers to wait until the work is done, or to leave the thread behind.
    """
    finished = trio.Event()
    token = trio.lowlevel.current_trio_token()
    # Taken by the thread before it begins, or by us when we were cancelled before that: then it won't begin at all.
    begun = threading.Lock()

    def guarded() -> T:
        if not begun.acquire(blocking=False):
            interrupt.check()
        try:
            return work()
        finally:
            token.run_sync_soon(finished.set)

    try:
        return await trio.to_thread.run_sync(guarded, abandon_on_cancel=True, limiter=limiter)
    except trio.Cancelled:
        interrupt.trigger()
        if not begun.acquire(blocking=False):
            with trio.CancelScope(shield=True):
                await finished.wait()
        raise


def resolve_interruptible(host: str, port: int, interrupt: Interrupt) -> Sequence[AddressInfo]:
    """The addresses of a host, for a thread of `run_interruptible`; a lookup that is called off isn't waited for."""
    return trio.from_thread.run(_resolve, host, port, interrupt)


async def _resolve(host: str, port: int, interrupt: Interrupt) -> Sequence[AddressInfo]:
    token = trio.lowlevel.current_trio_token()
    with trio.CancelScope() as scope:
        interrupt.watch(scope, lambda: token.run_sync_soon(scope.cancel))
        try:
            return await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        finally:
            interrupt.release(scope)
    interrupt.check()
    return []
