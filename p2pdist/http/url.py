"""http and https URLs, taken apart once. Pure."""

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, urljoin, urlsplit

from p2pdist.core.errors import InvalidInput

_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?\.?|[0-9a-f:.]*:[0-9a-f:.]*(?:%[a-z0-9._-]+)?")
_KEPT = "%/:?#[]@!$&'()*+,;=~-._"
_MAX_LENGTH = 16 * 1024


@dataclass(frozen=True, slots=True)
class Url:
    """An absolute URL; `host` is lower case and has no brackets, `target` is path and query, fit for a request line."""

    scheme: str
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """The URL that `text` says, fragment left off; raises `InvalidInput`, also for one that carries a password."""
        shown = repr(text.partition("?")[0][:140])
        try:
            parts = urlsplit(text)
            port = parts.port
            host = (parts.hostname or "").encode("idna" if not text.isascii() else "ascii").decode()
        except ValueError:
            raise InvalidInput(f"{shown} isn't a URL") from None
        if parts.scheme not in _DEFAULT_PORTS or len(text) > _MAX_LENGTH:
            raise InvalidInput(f"{shown} isn't an http or https URL of at most {_MAX_LENGTH} characters")
        if "@" in parts.netloc:
            raise InvalidInput(f"the URL for {host!r} carries a user or password; that belongs into the credentials")
        if _HOST.fullmatch(host) is None or port == 0:
            raise InvalidInput(f"{shown} has no valid host or port")
        target = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=_KEPT)
        if not target.startswith("/"):
            target = f"/{target}"
        return cls(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme], target)

    def join(self, location: str) -> "Url":
        """What a `Location` field means here (RFC 9110, 10.2.2); raises `InvalidInput`."""
        try:
            return Url.parse(urljoin(str(self), location))
        except ValueError:
            raise InvalidInput(f"{location.partition('?')[0][:140]!r} isn't a URL") from None

    @property
    def origin(self) -> tuple[str, str, int]:
        """What makes two URLs the same server (RFC 9110, 4.3.1): scheme, host and port."""
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        """Host and port as a Host field has them: IPv6 in brackets, no default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def shown(self) -> str:
        """The URL for messages, without its query: that of a signed URL is a secret."""
        return f"{self.scheme}://{self.authority}{self.target.partition('?')[0]}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"
