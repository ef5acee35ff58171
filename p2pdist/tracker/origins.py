"""The upstreams that the tracker may speak to, with a client for each; counts what is asked of them.

The one place where it is decided with whose rights an upstream is asked, and where its answers are learnt:

- in the mode `fleet`, with the operator's credentials where the upstream wants some;
- else as an anonymous, unless the upstream has refused the place to these lately; what they get is everybody's;
- in the mode `client`, when that isn't enough, with the caller's token, if he brought one over mutual TLS.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import trio

from p2pdist.config import Upstream as UpstreamConfig
from p2pdist.core.digest import Digest
from p2pdist.core.errors import Denied, NotFound, P2PDistError
from p2pdist.oci.bearer import BearerToken
from p2pdist.oci.credentials import credential_source
from p2pdist.oci.descriptor import Descriptor
from p2pdist.oci.errors import Unauthorized
from p2pdist.oci.origin import FetchedBlob, FetchedManifest, OriginClient, Upstream
from p2pdist.oci.reference import Tag
from p2pdist.oci.rights import Access, Asker, Closed, Place, Rights
from p2pdist.telemetry.metrics import OriginOutcome, TrackerMetrics
from p2pdist.wire.messages import UpstreamInfo

CLOSED_SECONDS = 30.0
"""For how long an anonymous isn't tried again where he was refused; whoever brings a token doesn't wait for it."""
T = TypeVar("T")
Learn = Callable[[], None]


class Origins:
    """Origin clients by upstream name; a context manager that closes them. Lives on the trio thread.

    Without `takes_tokens` (there is no TLS) nobody's token is used, and nobody is told to bring one. `on_shut` is
    called when an upstream refuses a place to an anonymous. `via` is the tracker's own id.
    """

    def __init__(
        self, upstreams: Iterable[UpstreamConfig], metrics: TrackerMetrics, *, takes_tokens: bool = True, via: str = ""
    ) -> None:
        self._metrics = metrics
        self._takes_tokens = takes_tokens
        self._closing = ExitStack()
        self._clients: dict[str, OriginClient] = {}
        self._configured: dict[str, UpstreamConfig] = {}
        self.rights = Rights(self.access)
        self.on_shut: Callable[[Place], None] = lambda _: None
        for configured in upstreams:
            upstream = upstream_of(configured)
            self._clients[upstream.name] = self._closing.enter_context(OriginClient(upstream, via=via))
            self._configured[upstream.name] = configured

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

    def access(self, name: str) -> Access:
        """To whom an upstream's content is given; one that isn't configured any more gives nobody anything."""
        configured = self._configured.get(name)
        return Access(configured.access) if configured is not None else Access.CLIENT

    def stale_seconds(self, name: str) -> float:
        """How old the answer to a tag may be while an upstream can't be asked."""
        configured = self._configured.get(name)
        return float(configured.stale_if_error) if configured is not None else 0.0

    def infos(self) -> tuple[UpstreamInfo, ...]:
        """What agents are told of the upstreams."""
        return tuple(
            UpstreamInfo(name, client.upstream.origin, self.access(name).value)
            for name, client in self._clients.items()
        )

    # Questions. They raise what `OriginClient` raises, `Unauthorized` only if a caller's token would be used.

    async def resolve(self, asker: Asker, wanted: Tag | Digest) -> Descriptor:
        """What a tag points at, or whether there is such a manifest."""
        return await self._ask(asker, lambda client: client.resolve(asker.place.repository, wanted))

    async def manifest(self, asker: Asker, wanted: Tag | Digest) -> FetchedManifest:
        """A manifest."""
        return await self._ask(asker, lambda client: client.manifest(asker.place.repository, wanted))

    async def blob_size(self, asker: Asker, digest: Digest) -> int:
        """The size of a blob, which is there then."""
        size_bytes = await self._ask(asker, lambda client: client.blob_size(asker.place.repository, digest))
        self.rights.found(asker.place, digest, size_bytes)
        return size_bytes

    async def blob(
        self,
        asker: Asker,
        digest: Digest,
        sink: Callable[[memoryview], None],
        *,
        on_size: Callable[[int], None] = lambda _: None,
        on_private: Callable[[], None] = lambda: None,
    ) -> FetchedBlob:
        """All of a blob; the last three are called in a worker thread."""
        received = self._metrics.origin_bytes.labels(asker.place.upstream)

        def counting(data: memoryview) -> None:
            received.inc(len(data))
            sink(data)

        def found(learn: Callable[[], None], size_bytes: int) -> None:
            self.rights.found(asker.place, digest, size_bytes)
            learn()

        async def ask(client: OriginClient, learn: Callable[[], None]) -> FetchedBlob:
            def sized(size_bytes: int) -> None:
                # Whoever waits for the blob is judged by what this answer says.
                trio.from_thread.run_sync(found, learn, size_bytes)
                on_size(size_bytes)

            return await client.blob(asker.place.repository, digest, counting, on_size=sized, on_private=on_private)

        return await self._ask_early(asker, ask)

    async def _ask(self, asker: Asker, ask: Callable[[OriginClient], Awaitable[T]]) -> T:
        async def whole(client: OriginClient, learn: Learn) -> T:
            answer = await ask(client)
            learn()
            return answer

        return await self._ask_early(asker, whole)

    async def _ask_early(self, asker: Asker, ask: Callable[[OriginClient, Learn], Awaitable[T]]) -> T:
        """Ask with the least right that is enough; `ask` calls what it is given once the upstream has said yes."""
        place, access = asker.place, self.access(asker.place.upstream)
        client = self.client(place.upstream)
        if access is Access.FLEET:
            return await self._with_our_rights(place, client, ask)
        token = asker.token if access is Access.CLIENT and self._takes_tokens else None
        closed = self.rights.closed(place)
        if closed is None:
            begun = trio.Event()
            try:
                return await self._as_anybody(place, client, ask, begun)
            except (Denied, NotFound):
                # Some registries say of what somebody may read that it isn't there.
                if token is None or begun.is_set():
                    raise
        elif token is None:
            raise self._refusal(place, closed)
        assert token is not None
        return await self._as_caller(place, client.on_behalf_of(token), ask, token)

    async def _with_our_rights(
        self, place: Place, client: OriginClient, ask: Callable[[OriginClient, Learn], Awaitable[T]]
    ) -> T:
        try:
            with self._counted(place.upstream):
                return await ask(client, lambda: None)
        except Unauthorized as error:
            raise Denied(str(error)) from error

    async def _as_anybody(
        self, place: Place, client: OriginClient, ask: Callable[[OriginClient, Learn], Awaitable[T]], begun: trio.Event
    ) -> T:
        seconds = self._seconds(place)

        def learn() -> None:
            begun.set()
            self.rights.opened(place, seconds)

        try:
            with self._counted(place.upstream):
                return await ask(client, learn)
        except Denied as error:
            closed = Closed(error.challenge if isinstance(error, Unauthorized) else None)
            self.rights.shut(place, closed, min(seconds, CLOSED_SECONDS))
            self.on_shut(place)
            raise self._refusal(place, closed, error) from error

    async def _as_caller(
        self, place: Place, client: OriginClient, ask: Callable[[OriginClient, Learn], Awaitable[T]], token: BearerToken
    ) -> T:
        try:
            with self._counted(place.upstream):
                return await ask(client, lambda: self.rights.granted(place, token, self._seconds(place)))
        except Denied:
            self.rights.revoked(place, token)
            raise

    def _seconds(self, place: Place) -> float:
        return float(self._configured[place.upstream].recheck)

    def _refusal(self, place: Place, closed: Closed, error: Denied | None = None) -> Denied:
        """What an anonymous is told: with the challenge where somebody's token would be used."""
        text = str(error) if error is not None else f"{place} isn't for everybody; its registry said so a moment ago"
        if closed.challenge is None or not self._takes_tokens or self.access(place.upstream) is not Access.CLIENT:
            return Denied(text)
        return Unauthorized(text).with_challenge(closed.challenge)

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
    """The upstream that a table [[upstream]] describes; credentials count in the mode `fleet` only."""
    source = None
    if Access(configured.access) is Access.FLEET:
        source = credential_source(configured.credentials_file, configured.credential_helper or "")
    return Upstream(str(configured.name), str(configured.origin_url), configured.ca_file, source, int(configured.rate))
