"""One request as a handler sees it, and the parsing of its target (RFC 9112, 3.2; RFC 3986, 2.1). No I/O of its own."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote

from p2pdist.core.errors import InvalidInput
from p2pdist.http.headers import Headers

_MOST_PARAMETERS = 100


class BadRequest(InvalidInput):
    """A request that HTTP doesn't allow, or that nobody could answer."""


class BodyTooLarge(InvalidInput):
    """A request with more body than its handler reads."""

    http_status = 413


class RequestTimeout(InvalidInput):
    """A request that didn't arrive whole in the time that it has."""

    http_status = 408


@dataclass(frozen=True, slots=True)
class Target:
    """What a request line names: the percent-decoded path, and the query's parameters, each with all its values."""

    path: str
    query: Mapping[str, list[str]]

    @classmethod
    def parse(cls, raw: str) -> "Target":
        """The target `raw`: origin form (`/v2/?ns=docker.io`), absolute form, or `*`; raises `BadRequest`."""
        scheme, colon, rest = raw.partition("://")
        if colon and scheme.lower() in ("http", "https"):
            rest = rest.partition("#")[0]
            host_end = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
            raw = rest[host_end:] if rest[host_end:].startswith("/") else f"/{rest[host_end:]}"
        path, _, query = raw.partition("?")
        if path != "*" and not path.startswith("/"):
            raise BadRequest(f"the request target {raw[:100]!r} has no path")
        try:
            parameters = parse_qs(query, keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS)
            return cls(unquote(path, errors="strict"), parameters)
        except ValueError:
            raise BadRequest(
                f"the request target {raw[:100]!r} isn't UTF-8, or has more than {_MOST_PARAMETERS} parameters"
            ) from None


@dataclass(frozen=True, slots=True)
class Request:
    """One request: its header, and access to its body."""

    method: str
    path: str
    """Percent-decoded."""
    raw_target: str
    """As the client wrote it."""
    query: Mapping[str, list[str]]
    headers: Headers
    peer: str
    """The client's address and port."""
    receive_body: Callable[[int], Awaitable[bytes]] = field(repr=False, compare=False)
    receive_some: Callable[[], Awaitable[bytes]] = field(repr=False, compare=False)

    async def body(self, limit_bytes: int) -> bytes:
        """The whole body; asks a client that waits for `100 Continue` to go on.

        Raises `BodyTooLarge` beyond `limit_bytes`, `RequestTimeout`, `BadRequest` for broken framing, and `ClientGone`.
        """
        return await self.receive_body(limit_bytes)

    async def some_of_body(self) -> bytes:
        """The next bytes of the body, as many as are there up to 256 KiB; empty at its end.

        For bodies that are passed on while they come. Raises what `body` raises; the time limit is for each wait.
        """
        return await self.receive_some()
