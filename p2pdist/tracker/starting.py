"""How a generation's bytes come to be on the tracker: from an origin, or from the tracker's own store.

Hashing, writing and signing happen in worker threads (`supply`). One fetch is one of the three places that catch
everything: whatever goes wrong with it ends its generation, and nothing is left half-written.
"""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import trio

from p2pdist.core.digest import Digest
from p2pdist.core.errors import Denied, DigestInvalid, P2PDistError, ProtocolError, StoreError, Unavailable
from p2pdist.core.metainfo import Metainfo
from p2pdist.core.pieces import PieceLayout
from p2pdist.oci.rights import Asker
from p2pdist.pki.vouch import Signer
from p2pdist.relay.spans import DEFAULT_FAN
from p2pdist.relay.whole import WholeFile, sign_whole
from p2pdist.store import BlobRecord, BlobStore, PartialBlob
from p2pdist.telemetry.events import By, Event, EventLog
from p2pdist.telemetry.logging import get_logger
from p2pdist.telemetry.metrics import TrackerMetrics
from p2pdist.tracker.epochs import Live
from p2pdist.tracker.fleet import Agent
from p2pdist.tracker.flights import unexpected
from p2pdist.tracker.origins import Origins
from p2pdist.tracker.relaying import Relaying, Subject
from p2pdist.tracker.supply import BATCH_SECONDS, STORE_BATCH, Pipeline, context_of, vouched
from p2pdist.tracker.wishes import Claim
from p2pdist.wire.messages import Supply

log = get_logger("tracker.starting")


@dataclass(slots=True)
class _Fetch:
    """What has come of one fetch so far."""

    private: bool = False
    partial: PartialBlob | None = None
    pipeline: Pipeline | None = None
    live: Live | None = None


class Starting:
    """Begins generations. Without `encrypted` relay connections private blobs aren't begun."""

    def __init__(
        self,
        store: BlobStore,
        origins: Origins,
        signer: Signer,
        relaying: Relaying,
        metrics: TrackerMetrics,
        encrypted: bool,
        events: EventLog | None = None,
    ) -> None:
        self._store = store
        self._origins = origins
        self._signer = signer
        self._relaying = relaying
        self._metrics = metrics
        self._encrypted = encrypted
        self._events = events

    async def from_origin(self, asker: Asker, digest: Digest, size_bytes: int, claim: Claim) -> None:
        """Fetch a blob with the rights of `asker`, dealing while it comes; returns at the end.

        `size_bytes` is what a manifest says, or 0.

        Raises `P2PDistError` when no generation began; what goes wrong later ends the generation that did.
        """
        number, began = secrets.randbits(63), trio.current_time()
        upstream, repository = asker.place.upstream, asker.place.repository
        fetch = _Fetch()
        scope = trio.CancelScope()

        def on_private() -> None:
            fetch.private = True
            self._check_may_travel(upstream, repository, private=True)

        def on_size(found_bytes: int) -> None:
            if size_bytes and size_bytes != found_bytes:
                raise ProtocolError(
                    f"{upstream}/{repository}: a manifest gives {digest} {size_bytes} bytes, the registry {found_bytes}"
                )
            layout = PieceLayout.for_size(found_bytes)
            blob = fetch.partial = self._store.begin(
                digest, layout, private=fetch.private, upstream=upstream, repository=repository
            )
            subject = Subject(number, digest, upstream, repository, fetch.private, layout)
            live = fetch.live = trio.from_thread.run_sync(self._relaying.open, subject, blob, claim, scope)
            fetch.pipeline = Pipeline(blob, number, self._signer, lambda pieces: self._relaying.deal(live, pieces))

        def sink(data: memoryview) -> None:
            assert fetch.pipeline is not None
            fetch.pipeline.feed(data)

        try:
            with scope:
                body = partial(self._origins.blob, asker, digest, sink, on_size=on_size, on_private=on_private)
                await _with_stale_dealt(fetch, body)
                metainfo = await trio.to_thread.run_sync(self._finish, fetch)
            if scope.cancelled_caught:
                raise Unavailable(f"the fetch of {digest} was given up")
            assert fetch.live is not None
            self._note_fetched(digest, fetch, trio.current_time() - began)
            self._relaying.whole(fetch.live, metainfo)
        except P2PDistError as error:
            await self._undo(fetch, error)
        except Exception as error:
            log.exception("fetch_failed", error, digest=digest, upstream=upstream, repository=repository)
            await self._undo(fetch, unexpected(error))

    def _note_fetched(self, digest: Digest, fetch: _Fetch, seconds: float) -> None:
        if self._events is not None and fetch.pipeline is not None:
            self._events.note(Event.FETCHED, digest, by=By.ORIGIN, bytes=fetch.pipeline.received_bytes, seconds=seconds)

    def _finish(self, fetch: _Fetch) -> Metainfo:
        """In a worker thread: commit; the torrent is saved first, so that a committed blob has one."""
        if fetch.pipeline is None or fetch.partial is None:
            raise ProtocolError("the registry gave no size for a blob")
        metainfo = fetch.pipeline.metainfo()
        self._store.save_metainfo(fetch.partial.digest, metainfo)
        fetch.pipeline.commit()
        return metainfo

    async def _undo(self, fetch: _Fetch, error: P2PDistError) -> None:
        if fetch.partial is not None:
            await trio.to_thread.run_sync(self._discard, fetch.partial, error)
        if fetch.live is None:
            raise error
        self._relaying.fail(fetch.live, error)

    def _discard(self, partial: PartialBlob, error: P2PDistError) -> None:
        """In a worker thread: nothing of a failed fetch is left; wrong bytes are written down."""
        digest = partial.digest
        try:
            if isinstance(error, DigestInvalid):
                log.error("blob_quarantined", digest=digest, reason=str(error))
                self._metrics.quarantined.inc()
                self._store.quarantine(digest, str(error))
            else:
                partial.discard()
        except StoreError as problem:
            log.error("blob_not_discarded", digest=digest, reason=str(problem))

    async def from_store(self, record: BlobRecord, metainfo: Metainfo, claim: Claim) -> None:
        """Deal a blob of our store; returns when the generation has ended, until which the blob isn't evicted.

        Raises `P2PDistError` when no generation began, `BlobUnknown` when the store has lost it.
        """
        self._check_may_travel(record.upstream, record.repository, record.private)
        digest, layout = record.digest, metainfo.layout
        number = secrets.randbits(63)
        with self._store.committed(digest) as blob:
            subject = Subject(number, digest, record.upstream, record.repository, record.private, layout)
            live = self._relaying.open(subject, WholeFile(layout, blob.fd), claim)
            context = context_of(digest, layout, number)
            try:
                pieces = await trio.to_thread.run_sync(
                    vouched, self._signer, context, 0, list(metainfo.hashes), STORE_BATCH
                )
                self._relaying.deal(live, pieces)
                self._relaying.whole(live, metainfo)
                await live.released.wait()
            except Exception as error:
                log.exception("deal_failed", error, digest=digest)
                self._relaying.fail(live, unexpected(error))

    async def from_holders(self, record: BlobRecord, metainfo: Metainfo, holders: list[Agent], claim: Claim) -> None:
        """Have a blob dealt by agents that hold it: this tracker signs its pieces anew, and sends no byte of it.

        Raises `P2PDistError` when no generation began.
        """
        self._check_may_travel(record.upstream, record.repository, record.private)
        digest, layout = record.digest, metainfo.layout
        number = secrets.randbits(63)
        context = context_of(digest, layout, number)
        signatures = await trio.to_thread.run_sync(sign_whole, self._signer, context, metainfo.hashes)
        subject = Subject(number, digest, record.upstream, record.repository, record.private, layout)
        supply = Supply(
            number,
            str(digest),
            layout.size_bytes,
            layout.piece_bytes,
            DEFAULT_FAN,
            record.private,
            self._signer.key_id,
            signatures,
        )
        self._relaying.open_held(subject, supply, metainfo, holders, claim)

    def _check_may_travel(self, upstream: str, repository: str, private: bool) -> None:
        if private and not self._encrypted:
            raise Denied(
                f"{upstream}/{repository} is private, and private blobs travel only between agents with certificates:"
                " run p2pdist pki init on the tracker and enrol the agents"
            )


async def _with_stale_dealt(fetch: _Fetch, body: Callable[[], Awaitable[object]]) -> None:
    """Run `body`, which feeds the pipeline; no piece waits for its batch while the origin stands still."""
    failures: list[Exception] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_deal_stale, fetch)
        try:
            await body()
        except Exception as error:
            # Past the nursery, which would wrap it in a group.
            failures.append(error)
        nursery.cancel_scope.cancel()
    if failures:
        raise failures[0]


async def _deal_stale(fetch: _Fetch) -> None:
    while True:
        await trio.sleep(BATCH_SECONDS)
        if fetch.pipeline is not None and fetch.pipeline.is_stale:
            await trio.to_thread.run_sync(fetch.pipeline.deal_stale)
