"""Where things are: addresses to listen on and to connect to, names of registries, base URLs of origins."""

import ipaddress
import re
from urllib.parse import urlsplit

from p2pdist.config.values import CheckedText
from p2pdist.core.errors import InvalidInput

_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"(?!.{{254}}){_LABEL}(?:\.{_LABEL})*\.?")
_DOCKER_HUB = "docker.io"
_DOCKER_HUB_ORIGIN = "https://registry-1.docker.io"
_DOCKER_HUB_ALIASES = ("index.docker.io", "registry-1.docker.io", "registry.docker.io", "hub.docker.com")
_MAX_PORT = 65535
_URL_EXAMPLE = 'write for example "https://registry.example:5000"'


class Address(CheckedText):
    """Where to listen: `127.0.0.1:7500`, `[::1]:7500`, `localhost:7500`; port 0 is any free one."""

    _lowest_port = 0

    @classmethod
    def _checked(cls, text: str) -> str:
        if "/" in text:
            raise InvalidInput('an address is HOST:PORT without http:// and path, for example "127.0.0.1:7500"')
        host, _, port = text.rpartition(":")
        if not host or not (port.isascii() and port.isdigit()):
            raise InvalidInput('an address needs a host and a port, for example "127.0.0.1:7500" or "[::1]:7500"')
        if len(port) > len(str(_MAX_PORT)) or not cls._lowest_port <= int(port) <= _MAX_PORT:
            raise InvalidInput(f"port {port[:20]} is outside {cls._lowest_port}..{_MAX_PORT}")
        _check_host(host)
        return text

    @property
    def host(self) -> str:
        """The host without brackets."""
        return self.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port."""
        return int(self.rpartition(":")[2])


class PeerAddress(Address):
    """Where others, or we, connect to: an address whose port isn't 0."""

    _lowest_port = 1


class RegistryHost(CheckedText):
    """The name of a registry as image references begin with it: `docker.io`, `ghcr.io`, `localhost:5000`."""

    @classmethod
    def _checked(cls, text: str) -> str:
        if "/" in text:
            raise InvalidInput('a registry name is a host without scheme and path, for example "ghcr.io"')
        if text in _DOCKER_HUB_ALIASES:
            raise InvalidInput(f'Docker Hub\'s name in image references is "{_DOCKER_HUB}"')
        if text != text.lower():
            raise InvalidInput(f'a registry name is written in lower case: "{text.lower()}"')
        if "." not in text and ":" not in text and text != "localhost":
            raise InvalidInput('a registry name has a dot or a port, for example "ghcr.io" or "registry:5000"')
        if ":" in text and not text.endswith("]"):
            PeerAddress(text)
        else:
            _check_host(text)
        return text

    @property
    def default_origin(self) -> "OriginUrl":
        """Where this registry answers when nothing else is configured."""
        return OriginUrl(_DOCKER_HUB_ORIGIN if self == _DOCKER_HUB else f"https://{self}")


class OriginUrl(CheckedText):
    """The base URL of a registry: http or https, a host, perhaps a path; no slash at its end, `/v2/…` follows."""

    @classmethod
    def _checked(cls, text: str) -> str:
        if any(character.isspace() or not character.isprintable() for character in text):
            raise InvalidInput(f"a URL has no blanks or control characters; {_URL_EXAMPLE}")
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise InvalidInput(f"isn't a URL ({error}); {_URL_EXAMPLE}") from error
        if parts.scheme not in ("http", "https"):
            raise InvalidInput(f"an origin is an http or https URL; {_URL_EXAMPLE}")
        if "@" in parts.netloc:
            raise InvalidInput("credentials don't belong into the URL; use credentials_file or credential_helper")
        if "?" in text or "#" in text:
            raise InvalidInput(f"an origin has neither query nor fragment; {_URL_EXAMPLE}")
        if not parts.hostname or port == 0:
            raise InvalidInput(f"the URL names no host, or port 0; {_URL_EXAMPLE}")
        _check_host(f"[{parts.hostname}]" if "[" in parts.netloc else parts.hostname)
        if re.search(r"/v[12]/*$", parts.path):
            raise InvalidInput("leave /v2 away: it is appended to the origin")
        return text.rstrip("/")


def is_loopback(address: str) -> bool:
    """Whether only this host can reach `address` (HOST:PORT or HOST); of names, only localhost counts as proof."""
    host = address
    if address.startswith("["):
        host = address[1:].partition("]")[0]
    elif address.count(":") == 1:
        host = address.partition(":")[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_host(host: str) -> None:
    """Raise `InvalidInput` unless `host` is a host name, an IPv4 address, or an IPv6 address in brackets."""
    try:
        if host.startswith("[") and host.endswith("]"):
            ipaddress.IPv6Address(host[1:-1])
            return
        if host.replace(".", "").isdigit():
            ipaddress.IPv4Address(host)
            return
    except ipaddress.AddressValueError as error:
        raise InvalidInput(f"isn't an IP address: {error}") from error
    if ":" in host:
        raise InvalidInput("an IPv6 address stands in brackets, for example [::1]:7500")
    if _HOST_NAME.fullmatch(host) is None:
        raise InvalidInput(f"{host[:100]!r} isn't a host name")
