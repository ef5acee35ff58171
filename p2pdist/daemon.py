"""How a daemon starts and stops: signals, one exit for errors, listening sockets for the relay.

Knows nothing of what the daemon does.
"""

import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Iterable

import trio

from p2pdist.core.errors import InvalidInput, P2PDistError
from p2pdist.http.listeners import CannotListen, split_address
from p2pdist.telemetry.logging import get_logger

_BACKLOG = 512
log = get_logger("daemon")


def run_daemon(
    name: str, serve: Callable[[trio.Nursery], Awaitable[None]], drain: Callable[[], Awaitable[None]] | None = None
) -> int:
    """Run `serve` in a nursery until SIGTERM or SIGINT; returns the exit code.

    `serve` starts what runs on in the nursery and returns. `drain` is what happens between the first signal and the
    end, while everything still runs; it must have a bound, and a second signal cuts it short. A `P2PDistError` from
    anywhere inside is raised as itself, so that the command line can say it.
    """

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(_stop_on_signal, name, nursery.cancel_scope, drain)
            await serve(nursery)

    try:
        trio.run(main)
    except* P2PDistError as group:
        raise _first(group) from None
    return 0


async def _stop_on_signal(
    name: str,
    scope: trio.CancelScope,
    drain: Callable[[], Awaitable[None]] | None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    async def end() -> None:
        if drain is not None:
            await drain()
        scope.cancel()

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async with trio.open_nursery() as ending:
            first = True
            async for number in signals:
                log.info("stopping" if first else "stopping_at_once", daemon=name, signal=signal.Signals(number).name)
                if first:
                    ending.start_soon(end)
                else:
                    scope.cancel()
                first = False


def _first(group: BaseExceptionGroup[P2PDistError]) -> P2PDistError:
    for error in group.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError("an exception group is never empty")


def allow_descriptors() -> None:
    """As many descriptors as we may have: every connection costs one, and the usual soft limit is 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def listen_tcp(addresses: Iterable[str]) -> list[socket.socket]:
    """Bound, listening, non-blocking sockets for `host:port` addresses; raises `CannotListen` naming the address."""
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            host, port = split_address(address)
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, _, _, _, where in dict.fromkeys(found):
                sockets.append(_listen(family, where))
    except (OSError, UnicodeError) as error:
        for opened in sockets:
            opened.close()
        reason = error.strerror if isinstance(error, OSError) else "its host isn't a name"
        raise CannotListen(f"cannot listen on {address}: {reason}") from error
    return sockets


def _listen(family: int, where: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(where)
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def advertised(address: str | None, port: int) -> tuple[str, int]:
    """Host and port that others are told; an empty host, and `port`, when no address is configured.

    As an IP address, since peers are told apart and let in by address, and the relay's thread must not wait for names.
    Raises `InvalidInput` for a name that has none.
    """
    if address is None:
        return "", port
    host, configured = split_address(address)
    try:
        found = socket.getaddrinfo(host, configured, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidInput(f"the advertised address {address} has no IP address: {error.strerror}") from error
    return str(found[0][4][0]), configured
