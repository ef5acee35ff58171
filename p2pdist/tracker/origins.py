"""The upstreams that the tracker may speak to, with a client for each; counts what is asked of them."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from p2pdist.config import Upstream as UpstreamConfig
from p2pdist.core.digest import Digest
from p2pdist.core.errors import Denied, NotFound, P2PDistError
from p2pdist.oci.credentials import credential_source
from p2pdist.oci.origin import FetchedBlob, FetchedManifest, OriginClient, Upstream
from p2pdist.oci.reference import Tag
from p2pdist.telemetry.metrics import OriginOutcome, TrackerMetrics
from p2pdist.wire.messages import UpstreamInfo


class Origins:
    """Origin clients by upstream name; a context manager that closes them."""

    def __init__(self, upstreams: Iterable[UpstreamConfig], metrics: TrackerMetrics) -> None:
        self._metrics = metrics
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
                f"{name[:100]!r} isn't an upstream of this tracker; it has {', '.join(self._clients) or 'none'}:"
                " add an [[upstream]] to its configuration"
            )
        return client

    async def manifest(self, upstream: str, repository: str, wanted: Tag | Digest) -> FetchedManifest:
        """`OriginClient.manifest` of an upstream."""
        with self._counted(upstream):
            return await self.client(upstream).manifest(repository, wanted)

    async def blob_size(self, upstream: str, repository: str, digest: Digest) -> int:
        """`OriginClient.blob_size` of an upstream."""
        with self._counted(upstream):
            return await self.client(upstream).blob_size(repository, digest)

    async def blob(
        self,
        upstream: str,
        repository: str,
        digest: Digest,
        sink: Callable[[memoryview], None],
        *,
        on_size: Callable[[int], None],
        on_private: Callable[[], None],
    ) -> FetchedBlob:
        """`OriginClient.blob` of an upstream, all of it."""
        received = self._metrics.origin_bytes.labels(upstream)

        def counting(data: memoryview) -> None:
            received.inc(len(data))
            sink(data)

        with self._counted(upstream):
            return await self.client(upstream).blob(
                repository, digest, counting, on_size=on_size, on_private=on_private
            )

    def infos(self) -> tuple[UpstreamInfo, ...]:
        """What agents are told of the upstreams."""
        return tuple(UpstreamInfo(name, client.upstream.origin) for name, client in self._clients.items())

    @contextmanager
    def _counted(self, upstream: str) -> Iterator[None]:
        outcome = OriginOutcome.FAILED
        try:
            yield
            outcome = OriginOutcome.OK
        except P2PDistError as error:
            if isinstance(error, NotFound | Denied):
                outcome = OriginOutcome.DENIED if isinstance(error, Denied) else OriginOutcome.NOT_FOUND
            raise
        finally:
            self._metrics.origin_requests.labels(upstream, outcome).inc()


def upstream_of(configured: UpstreamConfig) -> Upstream:
    """The upstream that a table [[upstream]] describes."""
    source = credential_source(configured.credentials_file, configured.credential_helper or "")
    return Upstream(str(configured.name), str(configured.origin_url), configured.ca_file, source)
