"""Following redirects (RFC 9110, 15.4): origins send blobs from other hosts, which must not see our authorization.

A host of the internet that leads to a private address isn't followed (http/reach.py); one that is inside itself is.
"""

from collections.abc import Mapping

from p2pdist.core.errors import InvalidInput, ProtocolError
from p2pdist.http.client import Exchange, HttpClient
from p2pdist.http.url import Url
from p2pdist.oci.call import Call

MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_KEPT_BODY_BYTES = 16 * 1024


def follow(
    http: HttpClient,
    method: str,
    url: Url,
    headers: Mapping[str, str],
    authorization: str,
    call: Call,
    *,
    public_only: bool = False,
) -> Exchange:
    """The answer to a GET or HEAD of `url`, wherever it leads; only the host of `url` gets `authorization` ("": none).

    Raises `ProtocolError` for a circle, for more than five redirects, for one from https to http, and for one from a
    host of the internet to an address that only we reach (`public_only`: for `url` itself too).
    """
    visited = [url]
    while True:
        authorized = {"Authorization": authorization} if authorization and visited[-1].origin == url.origin else {}
        call.requests += 1
        exchange = http.request(
            method,
            visited[-1],
            {**headers, **authorized},
            interrupt=call.interrupt,
            public_only=public_only,
            wait_seconds=call.patience_seconds,
        )
        if exchange.status not in _REDIRECTS:
            return exchange
        with exchange:
            target = _target(exchange)
            discard(exchange)
        if target in visited:
            raise ProtocolError(f"redirects go in a circle: {_shown([*visited, target])}")
        if len(visited) > MAX_REDIRECTS:
            raise ProtocolError(f"more than {MAX_REDIRECTS} redirects: {_shown(visited)}")
        if visited[-1].scheme == "https" and target.scheme == "http":
            raise ProtocolError(f"a redirect leads from https to http: {_shown([*visited, target])}")
        visited.append(target)
        public_only = not exchange.inside


def discard(exchange: Exchange) -> None:
    """Read a short body that nobody wants, so that the connection can carry another request."""
    if (exchange.content_length or 0) <= _KEPT_BODY_BYTES:
        exchange.read(_KEPT_BODY_BYTES)


def _target(exchange: Exchange) -> Url:
    location = exchange.headers.get("location")
    if location is None:
        raise ProtocolError(f"{exchange.url.shown} answers {exchange.status} but doesn't say where to go")
    try:
        return exchange.url.join(location)
    except InvalidInput as error:
        raise ProtocolError(f"{exchange.url.shown} redirects to something that isn't a URL: {error}") from None


def _shown(urls: list[Url]) -> str:
    return " -> ".join(url.shown for url in urls)
