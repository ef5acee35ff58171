"""Who may use the admin address's own routes: commands of this host, never a page in a browser on it.

A page can send requests to the loopback, and by a name of its own that resolves to 127.0.0.1 even read the answers. Its
browser gives it away: an Origin header, or a Host that isn't an address.
"""

import ipaddress

from p2pdist.core.errors import Denied, InvalidInput
from p2pdist.http.listeners import split_address
from p2pdist.http.server import Handler, Request, Response


def commands_only(handler: Handler, own_host: str) -> Handler:
    """`handler` for requests that don't come from a web page; `own_host` is what the operator calls this host."""

    async def guarded(request: Request, response: Response) -> None:
        if request.headers.get("origin") is not None or request.headers.get("sec-fetch-site") not in (None, "none"):
            raise Denied(f"{request.path} isn't for web pages")
        if not _names_us(request.headers.get("host") or "", own_host):
            raise Denied(f"{request.path} is asked for by IP address, as localhost or as {own_host}")
        await handler(request, response)

    return guarded


def _names_us(host_header: str, own_host: str) -> bool:
    try:
        host, _ = split_address(host_header)
    except InvalidInput:
        host = host_header.removeprefix("[").removesuffix("]")
    if host.lower() in ("localhost", own_host.lower()):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
