"""How much time and memory a client may cost the server."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one server; every one of them ends a connection that exceeds it, `connections` makes it wait."""

    connections: int = 1024
    """Connections at once. When all are taken, the one that has been idle longest makes room for a new one."""
    header_bytes: int = 32 * 1024
    """Request line and header fields; podman sends a Range field of 5 KiB."""
    header_seconds: float = 20.0
    """From the first byte of a request to the end of its header."""
    body_seconds: float = 60.0
    """From the end of the header to the end of the request's body; of one that is passed on, each wait for more."""
    idle_seconds: float = 120.0
    """How long a connection may wait for its next request."""
    stall_seconds: float = 120.0
    """How long a client may go without taking a byte of what is sent to it."""
    half_close_seconds: float = 1.0
    """How long a client that closed its sending side is believed to be still there while nothing is sent to it."""
    linger_seconds: float = 2.0
    """How long to go on reading after our FIN: closing a socket with unread bytes in it would send a reset."""
    send_threads: int = 16
    """Worker threads that may be in sendfile at once; a file that isn't cached holds one for the time of its reads."""
