"""Listening sockets from addresses as operators write them."""

import errno
import socket

import trio

from p2pdist.core.errors import InvalidInput, P2PDistError

_REASONS = {
    errno.EADDRINUSE: "the port is in use; stop whoever has it, or configure another one",
    errno.EACCES: "only root may use this port; configure one above 1023",
    errno.EADDRNOTAVAIL: "this host doesn't have the address",
}


class CannotListen(P2PDistError):
    """An address that can't be listened on."""

    exit_code = 2


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:5000`, `[::1]:0` or `localhost:80`; raises `InvalidInput`."""
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not colon or not host or bracketed != (":" in host):
        raise InvalidInput(f"{address[:100]!r} isn't an address; write host:port, for IPv6 [address]:port")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 65536):
        raise InvalidInput(f"the port of {address[:100]!r} isn't a number from 0 to 65535")
    return host, int(port)


async def open_listeners(address: str) -> list[trio.SocketListener]:
    """Listening sockets on every IP address that the host of `address` means.

    Port 0 takes a free port, one for each IP address. Raises `InvalidInput` for the form, `CannotListen` when the
    system refuses.
    """
    host, port = split_address(address)
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except socket.gaierror as error:
        raise CannotListen(f"cannot listen on {address}: its host isn't known ({error.strerror})") from error
    except UnicodeError:
        raise InvalidInput(f"cannot listen on {address[:100]!r}: {host[:100]!r} isn't a host name") from None
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror)
        raise CannotListen(f"cannot listen on {address}: {reason}") from error
