"""Which proxy a URL is fetched through: HTTP_PROXY, HTTPS_PROXY and NO_PROXY. Pure, apart from reading the environment.

The variables have no standard; this follows what Go programs, the registries' own clients, do
(golang.org/x/net/http/httpproxy): lower-case names go first, a NO_PROXY entry is a host with its subdomains, an address
or a network, each with an optional port, and loopback addresses never use a proxy.
"""

import base64
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote, urlsplit

from p2pdist.core.errors import InvalidInput
from p2pdist.http.url import Url


@dataclass(frozen=True, slots=True)
class ProxyServer:
    """An HTTP proxy and the value of the Proxy-Authorization field that it wants ("" for none)."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str, variable: str) -> Self:
        """The proxy that `variable` holds: `http://user:password@host:port` or `host:port`; raises `InvalidInput`."""
        address = text if "://" in text else f"http://{text}"
        try:
            parts = urlsplit(address)
            host, port = parts.hostname, parts.port or 80
        except ValueError:
            host, port = None, 0
        if not host or parts.scheme != "http":
            raise InvalidInput(f"{variable} doesn't hold a proxy that can be used; write http://host:port")
        if parts.username is None:
            return cls(host, port)
        userinfo = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return cls(host, port, "Basic " + base64.b64encode(userinfo.encode()).decode())


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxy for each scheme, and the hosts that are reached without one."""

    http: ProxyServer | None = None
    https: ProxyServer | None = None
    exempt: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """What the variables say; raises `InvalidInput` that names the variable."""
        exempt = environment.get("no_proxy") or environment.get("NO_PROXY", "")
        entries = tuple(entry for part in exempt.split(",") if (entry := part.strip().lower()))
        return cls(_server(environment, "http_proxy"), _server(environment, "https_proxy"), entries)

    def for_url(self, url: Url) -> ProxyServer | None:
        """The proxy to use for `url`; None to connect to its host."""
        if _is_loopback(url.host) or any(_covers(entry, url) for entry in self.exempt):
            return None
        return self.https if url.scheme == "https" else self.http


def _server(environment: Mapping[str, str], name: str) -> ProxyServer | None:
    text = environment.get(name) or environment.get(name.upper(), "")
    return ProxyServer.parse(text, name.upper()) if text else None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _covers(entry: str, url: Url) -> bool:
    if entry == "*":
        return True
    address = _address(url.host)
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    host, port = _split_port(entry)
    if port is not None and port != url.port:
        return False
    if address is not None:
        return address == _address(host)
    name = url.host.rstrip(".")
    if host.startswith(("*.", ".")):
        return name.endswith(host.lstrip("*"))
    return name == host or name.endswith(f".{host}")


def _split_port(entry: str) -> tuple[str, int | None]:
    """Host and port of a NO_PROXY entry: `host`, `host:80`, `::1`, `[::1]`, `[::1]:80`."""
    if entry.startswith("["):
        host, _, rest = entry[1:].partition("]")
        port = rest.removeprefix(":")
    elif entry.count(":") == 1:
        host, _, port = entry.partition(":")
    else:
        return entry, None
    return host, int(port) if port.isascii() and port.isdigit() else None
