"""Blocking work in a thread that ends when the task waiting for it is cancelled. Knows nothing of HTTP."""

import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import trio

from p2pdist.http.dial import AddressInfo
from p2pdist.http.interrupt import Interrupt, Interrupted

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


def run_on_loop(interrupt: Interrupt, work: Callable[..., Awaitable[T]], *arguments: object) -> T:
    """What `work` gives on the event loop, for a thread of `run_interruptible`; ends when `interrupt` is triggered."""
    return trio.from_thread.run(_run_watched, interrupt, work, arguments)


async def _run_watched(interrupt: Interrupt, work: Callable[..., Awaitable[T]], arguments: tuple[object, ...]) -> T:
    token = trio.lowlevel.current_trio_token()
    with trio.CancelScope() as scope:
        interrupt.watch(scope, lambda: token.run_sync_soon(scope.cancel))
        try:
            return await work(*arguments)
        finally:
            interrupt.release(scope)
    raise Interrupted("the request was called off")


def resolve_interruptible(host: str, port: int, interrupt: Interrupt) -> Sequence[AddressInfo]:
    """The addresses of a host, for a thread of `run_interruptible`; a lookup that is called off isn't waited for."""
    return run_on_loop(interrupt, partial(trio.socket.getaddrinfo, host, port, type=socket.SOCK_STREAM))
