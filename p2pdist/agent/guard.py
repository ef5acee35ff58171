"""Who may use the admin address's own routes: commands of this host, never a page in a browser on it.

A page can send requests to the loopback, and by a name of its own that resolves to 127.0.0.1 even read the answers. Its
browser gives it away: an Origin header, or a Host that isn't an address.
"""

import ipaddress

from p2pdist.core.errors import Denied, InvalidInput, P2PDistError
from p2pdist.http.listeners import split_address
from p2pdist.http.server import Handler, Request, Response
from p2pdist.oci.errors import error_body


def commands_only(handler: Handler, own_host: str) -> Handler:
    """`handler` for requests that don't come from a web page; `own_host` is what the operator calls this host.

    What it raises before it has answered is answered as an OCI error body, which the commands read.
    """

    async def guarded(request: Request, response: Response) -> None:
        try:
            _check_sender(request, own_host)
            await handler(request, response)
        except P2PDistError as error:
            if response.started:
                raise
            await response.send(error.http_status, {"Content-Type": "application/json"}, error_body(error))

    return guarded


def _check_sender(request: Request, own_host: str) -> None:
    if request.headers.get("origin") is not None or request.headers.get("sec-fetch-site") not in (None, "none"):
        raise Denied(f"{request.path} isn't for web pages")
    if not _names_us(request.headers.get("host") or "", own_host):
        raise Denied(f"{request.path} is asked for by IP address, as localhost or as {own_host}")


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
