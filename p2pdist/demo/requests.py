"""HTTP requests from the event loop: each runs in a worker thread and ends when its task is cancelled."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import trio

from p2pdist.core.errors import InvalidInput, Unavailable
from p2pdist.http.client import HttpClient
from p2pdist.http.headers import Headers
from p2pdist.http.interrupt import Interrupt
from p2pdist.http.interruptible import run_interruptible
from p2pdist.http.url import Url

T = TypeVar("T")


class UnexpectedStatus(Unavailable):
    """An answer whose status isn't 200."""

    def __init__(self, method: str, url: Url, status: int, body: bytes) -> None:
        said = body.decode(errors="replace").strip()
        super().__init__(f"{method} {url.shown} was answered with {status}" + (f": {said[:500]}" if said else ""))
        self.status = status


async def in_thread(work: Callable[[Interrupt], T], limiter: trio.CapacityLimiter | None = None) -> T:
    """Run `work` in a worker thread; a cancellation interrupts what it blocks on."""
    interrupt = Interrupt()
    limiter = limiter if limiter is not None else trio.to_thread.current_default_thread_limiter()
    return await run_interruptible(partial(work, interrupt), interrupt, limiter)


async def fetch(
    client: HttpClient, method: str, url: Url, limit_bytes: int, headers: Mapping[str, str] | None = None
) -> tuple[Headers, bytes]:
    """The answer to one request; raises `UnexpectedStatus` unless it is 200, `ProtocolError` beyond `limit_bytes`."""
    return await in_thread(partial(_fetch, client, method, url, limit_bytes, headers or {}))


def _fetch(
    client: HttpClient, method: str, url: Url, limit_bytes: int, headers: Mapping[str, str], interrupt: Interrupt
) -> tuple[Headers, bytes]:
    with client.request(method, url, headers, interrupt=interrupt) as exchange:
        body = exchange.read(limit_bytes)
        if exchange.status != 200:
            raise UnexpectedStatus(method, url, exchange.status, body)
        return exchange.headers, body


def base_url(text: str) -> str:
    """`text` without its last slash, when it is the http or https URL of a server; raises `InvalidInput`."""
    url = Url.parse(text)
    if url.target != "/":
        raise InvalidInput(f"{text[:140]!r} has a path; the URL of a registry is only its scheme, host and port")
    return f"{url.scheme}://{url.authority}"
