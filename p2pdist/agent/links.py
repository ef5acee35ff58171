"""URLs of an upstream in its answers, as a client of the shim must see them: Location and Link (RFC 9110, 10.2.2;
RFC 8288). And the query of a request, as the upstream must see it. Pure.

What leads to the same repository of the upstream leads through the shim again, by the name that the client knows it by;
anything else (another server's storage, say) stays what it is, made absolute, and the client goes there by itself, as
it would without a shim.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote_plus, urlencode

from p2pdist.core.errors import InvalidInput, ProtocolError
from p2pdist.http.url import Url

_LINK_TARGET = re.compile(r"<([^>]*)>")
_KEPT = "/:@~=+"


@dataclass(frozen=True, slots=True)
class Naming:
    """How a client calls a repository: the path up to it (not percent-encoded), and the `ns` parameter if it sent one.

    `root` is the same repository at its upstream: the URL that everything of it starts with.
    """

    base: str
    namespace: str | None
    root: Url

    def seen(self, location: str, asked: Url) -> str:
        """What a client must be shown for `location`, which came in the answer to `asked`.

        Raises `ProtocolError` for something that isn't a URL.
        """
        try:
            url = asked.join(location)
        except InvalidInput as error:
            raise ProtocolError(f"{asked.shown} names something that isn't a URL: {error}") from None
        inside = url.origin == self.root.origin and url.target.startswith(f"{self.root.target}/")
        if not inside:
            return str(url)
        target = quote(self.base, safe=_KEPT) + url.target.removeprefix(self.root.target)
        if self.namespace is None:
            return target
        return f"{target}{'&' if '?' in target else '?'}{urlencode({'ns': self.namespace})}"

    def seen_links(self, field: str, asked: Url) -> str:
        """A Link field with each of its targets as `seen`."""
        return _LINK_TARGET.sub(lambda match: f"<{self.seen(match[1], asked)}>", field)


def query_of(raw_target: str) -> str:
    """The query of a request target as the client wrote it, "" if there is none."""
    return raw_target.partition("#")[0].partition("?")[2]


def without(query: str, *names: str) -> str:
    """`query` without the parameters of these names; the others stay byte for byte what they are."""
    kept = (part for part in query.split("&") if part and unquote_plus(part.partition("=")[0]) not in names)
    return "&".join(kept)


def replaced(query: str, parameters: Mapping[str, str]) -> str:
    """`query` with these parameters instead of its own of the same names."""
    others = without(query, *parameters)
    return "&".join(filter(None, (others, urlencode(parameters, safe="/:"))))
