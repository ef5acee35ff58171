"""The upstreams that the tracker may speak to, with a client for each."""

from collections.abc import Iterable
from contextlib import ExitStack

from p2pdist.config import Upstream as UpstreamConfig
from p2pdist.core.errors import NotFound
from p2pdist.oci.credentials import credential_source
from p2pdist.oci.origin import OriginClient, Upstream
from p2pdist.wire.messages import UpstreamInfo


class Origins:
    """Origin clients by upstream name; a context manager that closes them."""

    def __init__(self, upstreams: Iterable[UpstreamConfig]) -> None:
        self._closing = ExitStack()
        self._clients: dict[str, OriginClient] = {}
        for configured in upstreams:
            upstream = upstream_of(configured)
            self._clients[upstream.name] = self._closing.enter_context(OriginClient(upstream))

    def __enter__(self) -> "Origins":
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def client(self, name: str) -> OriginClient:
        """The client of an upstream; raises `NotFound` for one that isn't configured."""
        client = self._clients.get(name)
        if client is None:
            raise NotFound(
                f"{name!r} isn't an upstream of this tracker; it has {', '.join(self._clients) or 'none'}:"
                " add an [[upstream]] to its configuration"
            )
        return client

    def infos(self) -> tuple[UpstreamInfo, ...]:
        """What agents are told of the upstreams."""
        return tuple(UpstreamInfo(name, client.upstream.origin) for name, client in self._clients.items())


def upstream_of(configured: UpstreamConfig) -> Upstream:
    """The upstream that a table [[upstream]] describes."""
    source = credential_source(configured.credentials_file, configured.credential_helper or "")
    return Upstream(str(configured.name), str(configured.origin_url), configured.ca_file, source)
