"""Joins, epochs, fills and ends: how every blob that agents want gets to them. The only one who changes generations.

Everything here runs on the trio thread. The relay's thread deals and tells by notices; worker threads read origins and
tell through `supply.Pipeline`; agents hear by the `say` of their connection. Who decides what: `choice` the way,
`generation` epochs and fills, `relay.engine` the deals.
"""

import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial as partial_call

import trio

from p2pdist.core.digest import Digest
from p2pdist.core.errors import Denied, DigestInvalid, P2PDistError, ProtocolError
from p2pdist.core.metainfo import Metainfo
from p2pdist.core.pieces import PieceLayout, PieceSet
from p2pdist.oci.origin import OriginClient
from p2pdist.pki.vouch import Signer
from p2pdist.relay.node import RelayNode
from p2pdist.relay.notices import BadPiece, DealsDone, EpochBegan, Notice, PeerRejected, TransferFailed
from p2pdist.relay.transfer import Counts, TransferSpec
from p2pdist.store import BlobRecord, BlobStore, CommittedBlob
from p2pdist.telemetry.logging import get_logger
from p2pdist.telemetry.metrics import BadPiece as BadPieceReason
from p2pdist.telemetry.metrics import JoinAnswer, TrackerMetrics
from p2pdist.tracker.choice import Situation, Way, choose
from p2pdist.tracker.fleet import Agent, Fleet
from p2pdist.tracker.generation import Generation, Order, Stage
from p2pdist.tracker.handout import neighbours
from p2pdist.tracker.origins import Origins
from p2pdist.tracker.supply import STORE_BATCH, Pipeline, WholeFile, context_of, vouched
from p2pdist.wire.messages import (
    Dealt,
    Ended,
    Epoch,
    Expect,
    Failed,
    Fill,
    Join,
    Message,
    RelayPlan,
    SwarmPlan,
    members_bitmap,
)

JOIN_WINDOW_SECONDS = 0.005
END_SECONDS = 60.0
Say = Callable[[str, Message], None]
log = get_logger("tracker.distribution")


@dataclass(slots=True)
class _Wish:
    """A join that waits for its answer."""

    node: str
    join: Join


@dataclass(slots=True)
class _Live:
    """A generation and what belongs to it on this tracker."""

    generation: Generation
    counts: Counts
    wishes: list[_Wish] = field(default_factory=list)
    epoch_planned: bool = False
    metainfo: Metainfo | None = None
    counted_bytes: int = 0
    released: trio.Event = field(default_factory=trio.Event)


class Distribution:
    """All blobs under way.

    `say(node, message)` queues a message for a connected agent; `flush_table` has what changed in the table go first.
    """

    def __init__(
        self,
        tracker: str,
        fleet: Fleet,
        store: BlobStore,
        origins: Origins,
        relay: RelayNode,
        signer: Signer,
        metrics: TrackerMetrics,
        nursery: trio.Nursery,
        say: Say,
        flush_table: Callable[[], None],
        encrypted: bool,
    ) -> None:
        self._tracker = tracker
        self._fleet = fleet
        self._store = store
        self._origins = origins
        self._relay = relay
        self._signer = signer
        self._metrics = metrics
        self._nursery = nursery
        self._say = say
        self._flush_table = flush_table
        self._encrypted = encrypted
        self._rng = random.Random()
        self._starting: dict[Digest, list[_Wish]] = {}
        self._live: dict[Digest, _Live] = {}
        self._numbers: dict[int, _Live] = {}
        self._pulling: dict[Digest, dict[str, None]] = {}

    # What agents say.

    def join(self, agent: Agent, join: Join) -> None:
        """An agent wants a blob; the answer goes out by `say`, now or when it is known."""
        try:
            digest = Digest.parse(join.digest)
            client = self._origins.client(join.upstream)
        except P2PDistError as error:
            self._refuse(_Wish(agent.node, join), error)
            return
        wish = _Wish(agent.node, join)
        if digest in self._starting:
            self._starting[digest].append(wish)
            return
        live = self._live.get(digest)
        record = self._store.record(digest) if self._store.has(digest) or live is None else None
        holders = self._fleet.holders(digest, besides=agent.node)
        situation = Situation(
            being_dealt=live is not None and live.generation.stage is Stage.DEALING,
            dealt_not_ended=live is not None and live.generation.stage is Stage.DEALT,
            holders=len(holders),
            metainfo_known=self._metainfo(digest, live, record) is not None,
            size_bytes=live.generation.layout.size_bytes if live else record.size_bytes if record else 0,
            private=live.generation.private if live else bool(record and record.private),
            in_store=self._store.has(digest) and record is not None and record.metainfo is not None,
        )
        match choose(situation):
            case Way.JOIN_RELAY:
                assert live is not None
                self._enter(live, wish)
            case Way.SWARM:
                metainfo = self._metainfo(digest, live, record)
                assert metainfo is not None
                self._send_to_swarm(agent, join, metainfo, holders)
            case Way.RELAY_FROM_STORE:
                assert record is not None
                self._starting[digest] = [wish]
                self._nursery.start_soon(self._relay_from_store, record)
            case Way.RELAY_FROM_ORIGIN:
                self._starting[digest] = [wish]
                self._nursery.start_soon(self._relay_from_origin, client, join.repository, digest, join.size_bytes)

    def lacking(self, agent: Agent, number: int, missing: bytes) -> None:
        """An agent lacks pieces that should have come; raises `ProtocolError` for a bitmap of the wrong length."""
        live = self._numbers.get(number)
        if live is None or live.generation.stage is Stage.ENDED:
            self._say(agent.node, Ended(number, "BLOB_UNKNOWN", 404, "this distribution is over; join again"))
            return
        generation = live.generation
        wanted = [*PieceSet.from_bytes(generation.layout.count, missing)]
        log.info("fill_wanted", digest=generation.digest, agent=agent.member.name, pieces=len(wanted))
        self._order(live, generation.lacking(agent.node, wanted))

    def left(self, agent: Agent, number: int, reason: str) -> None:
        """An agent holds the blob, or has given it up."""
        live = self._numbers.get(number)
        if live is None:
            return
        live.generation.finished(agent.node)
        if reason:
            log.info("member_gave_up", digest=live.generation.digest, agent=agent.member.name, reason=reason)
            self._drop_member(live, agent.node)
        self._end_if_done(live)

    def distrusted(self, agent: Agent, text: str, reason: str) -> None:
        """Bytes that we vouched for had another digest on an agent: read our own copy again.

        An agent's word alone costs one read; what doesn't hold is quarantined, so that the next pull fetches it anew.
        """
        digest = Digest.parse(text)
        log.warning("blob_distrusted", digest=digest, agent=agent.member.name, reason=reason)
        if self._store.has(digest):
            self._nursery.start_soon(self._verify, digest)

    async def _verify(self, digest: Digest) -> bool:
        """Whether our copy of a blob is what its digest says; it is gone if not."""
        try:
            if await trio.to_thread.run_sync(self._store.verify, digest):
                return True
            self._metrics.quarantined.inc()
            log.error("blob_quarantined", digest=digest, reason="our copy was damaged")
        except P2PDistError as error:
            log.warning("blob_not_verified", digest=digest, reason=str(error))
        return False

    def disconnected(self, node: str) -> None:
        """An agent's connection broke: relays go on without it."""
        for wishes in self._starting.values():
            wishes[:] = [wish for wish in wishes if wish.node != node]
        for live in list(self._live.values()):
            live.wishes = [wish for wish in live.wishes if wish.node != node]
            self._drop_member(live, node)
            self._end_if_done(live)
        for pulling in self._pulling.values():
            pulling.pop(node, None)

    def held(self, node: str, digests: list[Digest]) -> None:
        """An agent got blobs: it doesn't pull them any more."""
        for digest in digests:
            pulling = self._pulling.get(digest)
            if pulling is not None:
                pulling.pop(node, None)
                if not pulling:
                    del self._pulling[digest]

    # What the relay says.

    def notice(self, notice: Notice) -> None:
        """Something happened in the relay's thread."""
        match notice:
            case EpochBegan(number, epoch, dealt):
                live = self._numbers.get(number)
                if live is not None:
                    self._order(live, live.generation.began(epoch, dealt))
            case DealsDone(number):
                live = self._numbers.get(number)
                if live is not None and live.metainfo is not None:
                    self._all_dealt(live, live.metainfo)
            case TransferFailed(number, error):
                live = self._numbers.get(number)
                if live is not None:
                    self._fail(live, error)
            case BadPiece(number, node, index, reason):
                self._metrics.bad_pieces.labels(BadPieceReason.HASH).inc()
                log.warning("bad_piece", generation=number, node=node, piece=index, reason=reason)
            case PeerRejected():
                self._metrics.protocol_errors.inc()

    def refresh_metrics(self) -> None:
        """Bring the counters up to what the relay's thread has counted."""
        for live in self._live.values():
            self._count(live)

    def _count(self, live: _Live) -> None:
        sent, live.counted_bytes = live.counts.sent_bytes - live.counted_bytes, live.counts.sent_bytes
        self._metrics.dealt_bytes.inc(sent)

    # Starting.

    async def _relay_from_origin(self, client: OriginClient, repository: str, digest: Digest, size_hint: int) -> None:
        if digest in self._store.unverified() and await self._verify(digest):
            record = self._store.record(digest)
            if record is not None and record.metainfo is not None:
                await self._relay_from_store(record)
                return
        number = secrets.randbits(63)
        upstream = client.upstream.name
        started: list[tuple[_Live, Pipeline]] = []
        private = False

        def on_private() -> None:
            nonlocal private
            private = True

        def on_size(size_bytes: int) -> None:
            if size_hint and size_hint != size_bytes:
                raise ProtocolError(
                    f"{upstream}/{repository}: the manifest gives {digest} {size_hint} bytes, the registry {size_bytes}"
                )
            layout = PieceLayout.for_size(size_bytes)
            partial = self._store.begin(digest, layout, private=private, upstream=upstream, repository=repository)
            pipeline = Pipeline(partial, number, self._signer, partial_call(self._relay.deal, number))
            generation = Generation(number, digest, upstream, repository, layout, private, self._tracker)
            generation.by_offer = self._wishes_hold_pieces(digest)
            spec = TransferSpec(number, digest, layout, partial, private, generation.fan, generation.by_offer)
            live = _Live(generation, self._relay.open(spec).counts)
            started.append((live, pipeline))
            trio.from_thread.run_sync(self._begin, live)

        def sink(data: memoryview) -> None:
            self._metrics.origin_bytes.labels(upstream).inc(len(data))
            started[0][1].feed(data)

        try:
            await client.blob(repository, digest, sink, on_size=on_size, on_private=on_private)
            if not started:
                raise ProtocolError(f"{upstream}/{repository}: the registry gave no size for {digest}")
            live, pipeline = started[0]
            metainfo = await trio.to_thread.run_sync(pipeline.finish)
            await trio.to_thread.run_sync(self._store.save_metainfo, digest, metainfo)
        except P2PDistError as error:
            await trio.to_thread.run_sync(self._discard, digest, error)
            if started:
                self._fail(started[0][0], error)
            else:
                self._refuse_all(digest, error)
            return
        self._whole(live, metainfo)

    def _discard(self, digest: Digest, error: P2PDistError) -> None:
        partial = self._store.partial(digest)
        if isinstance(error, DigestInvalid):
            self._store.quarantine(digest, str(error))
            self._metrics.quarantined.inc()
            log.error("blob_quarantined", digest=digest, reason=str(error))
        elif partial is not None:
            partial.discard()

    def _wishes_hold_pieces(self, digest: Digest) -> bool:
        return any(wish.join.held.strip(b"\0") for wish in self._starting.get(digest, ()))

    async def _relay_from_store(self, record: BlobRecord) -> None:
        assert record.metainfo is not None
        metainfo = record.metainfo
        try:
            with self._store.committed(record.digest) as blob:
                live = self._open_from_store(record, metainfo, blob)
                await trio.lowlevel.checkpoint()
                self._begin(live)
                pieces = await trio.to_thread.run_sync(
                    vouched,
                    self._signer,
                    context_of(record.digest, metainfo.layout, live.generation.number),
                    0,
                    list(metainfo.hashes),
                    STORE_BATCH,
                )
                self._relay.deal(live.generation.number, pieces)
                self._whole(live, metainfo)
                await live.released.wait()
        except P2PDistError as error:
            self._refuse_all(record.digest, error)

    def _open_from_store(self, record: BlobRecord, metainfo: Metainfo, blob: CommittedBlob) -> _Live:
        layout = metainfo.layout
        generation = Generation(
            secrets.randbits(63),
            record.digest,
            record.upstream,
            record.repository,
            layout,
            record.private,
            self._tracker,
            by_offer=self._wishes_hold_pieces(record.digest),
        )
        spec = TransferSpec(
            generation.number,
            record.digest,
            layout,
            WholeFile(layout, blob.fd),
            record.private,
            generation.fan,
            generation.by_offer,
        )
        return _Live(generation, self._relay.open(spec).counts)

    def _begin(self, live: _Live) -> None:
        """The size is known: whoever waited enters."""
        generation = live.generation
        self._live[generation.digest] = live
        self._numbers[generation.number] = live
        self._metrics.generations_live.set(len(self._live))
        log.info(
            "generation_began",
            digest=generation.digest,
            size_bytes=generation.layout.size_bytes,
            upstream=generation.upstream,
            repository=generation.repository,
            private=generation.private,
        )
        for wish in self._starting.pop(generation.digest, []):
            self._enter(live, wish)

    def _enter(self, live: _Live, wish: _Wish) -> None:
        generation = live.generation
        if generation.private and not self._encrypted:
            sentence = (
                f"{generation.upstream}/{generation.repository} is private, and private blobs travel only between"
                " agents with certificates: run p2pdist pki init on the tracker and enrol the agents"
            )
            self._refuse(wish, Denied(sentence))
            return
        layout = generation.layout
        held = PieceSet(layout.count)
        if wish.join.held and wish.join.piece_bytes == layout.piece_bytes:
            held = PieceSet.from_bytes(layout.count, wish.join.held)
        generation.join(wish.node, held)
        live.wishes.append(wish)
        self._plan_epoch(live)

    # Epochs and fills.

    def _plan_epoch(self, live: _Live) -> None:
        if not live.epoch_planned:
            live.epoch_planned = True
            self._nursery.start_soon(self._epoch_soon, live)

    async def _epoch_soon(self, live: _Live) -> None:
        """Let joins come together, then make an epoch of them. The wait is the batch, not a synchronisation."""
        await trio.sleep(JOIN_WINDOW_SECONDS)
        live.epoch_planned = False
        generation = live.generation
        if generation.stage is Stage.ENDED:
            return
        old = set(generation.members)
        ring = generation.next_epoch(self._fleet.in_order(generation.members | generation.waiting.keys()))
        if not ring.members:
            self._end_if_done(live)
            return
        self._flush_table()
        bitmap = members_bitmap(self._fleet.slots(ring.members))
        wishes, live.wishes = live.wishes, []
        for wish in wishes:
            self._metrics.joins.labels(JoinAnswer.RELAY).inc()
            self._say(wish.node, self._plan(generation, wish.join.id, ring.epoch, bitmap))
        for node in old & set(ring.members) - {wish.node for wish in wishes}:
            self._say(node, Epoch(generation.number, ring.epoch, bitmap, self._tracker))
        self._relay.start_dealing(generation.number, ring)
        if live.metainfo is not None:
            self._relay.watch(generation.number)
            if generation.stage is Stage.DEALT:
                for wish in wishes:
                    self._say(wish.node, Dealt(generation.number, live.metainfo.info_hash))

    def _plan(self, generation: Generation, id_: int, epoch: int, bitmap: bytes) -> RelayPlan:
        return RelayPlan(
            id_,
            str(generation.digest),
            generation.layout.size_bytes,
            generation.layout.piece_bytes,
            generation.number,
            generation.fan,
            generation.private,
            epoch,
            bitmap,
            self._tracker,
        )

    def _order(self, live: _Live, orders: list[Order]) -> None:
        """Have fills dealt: tell the cohort who deals, and the dealer what."""
        number, count = live.generation.number, live.generation.layout.count
        for order in orders:
            bitmap = members_bitmap(self._fleet.slots(order.ring.members))
            for node in order.ring.members:
                self._say(node, Epoch(number, order.ring.epoch, bitmap, order.dealer))
            if order.dealer == self._tracker:
                self._relay.start_fill(number, order.ring, order.pieces)
            else:
                pieces = PieceSet(count, order.pieces).to_bytes()
                self._say(order.dealer, Fill(number, order.ring.epoch, bitmap, pieces))

    def _drop_member(self, live: _Live, node: str) -> None:
        if live.generation.leave(node):
            self._plan_epoch(live)

    # Ends.

    def _whole(self, live: _Live, metainfo: Metainfo) -> None:
        """The blob is committed here and every piece is with the relay."""
        live.metainfo = metainfo
        self._relay.watch(live.generation.number)

    def _all_dealt(self, live: _Live, metainfo: Metainfo) -> None:
        generation = live.generation
        if generation.waiting or generation.stage is not Stage.DEALING:
            return
        generation.stage = Stage.DEALT
        log.info("generation_dealt", digest=generation.digest, members=len(generation.members))
        for node in generation.members:
            self._say(node, Dealt(generation.number, metainfo.info_hash))
        self._nursery.start_soon(self._end_at_last, live)
        self._end_if_done(live)

    async def _end_at_last(self, live: _Live) -> None:
        """A member that neither finishes nor leaves doesn't keep a generation for ever."""
        with trio.move_on_after(END_SECONDS):
            await live.released.wait()
        self._end(live, Ended(live.generation.number))

    def _end_if_done(self, live: _Live) -> None:
        if live.generation.all_done:
            self._end(live, Ended(live.generation.number))

    def _fail(self, live: _Live, error: P2PDistError) -> None:
        log.warning("generation_failed", digest=live.generation.digest, reason=str(error))
        for wish in live.wishes:
            self._refuse(wish, error)
        self._end(live, Ended(live.generation.number, error.oci_code, error.http_status, str(error)))

    def _end(self, live: _Live, ended: Ended) -> None:
        """Close a generation here and at all who ever took part."""
        generation = live.generation
        if generation.stage is Stage.ENDED:
            return
        generation.stage = Stage.ENDED
        self._live.pop(generation.digest, None)
        self._numbers.pop(generation.number, None)
        self._relay.close(generation.number)
        self._count(live)
        live.released.set()
        self._metrics.generations_live.set(len(self._live))
        for node in generation.took_part:
            self._say(node, ended)

    # Answers.

    def _send_to_swarm(self, agent: Agent, join: Join, metainfo: Metainfo, holders: list[Agent]) -> None:
        digest = metainfo.digest
        pulling = self._pulling.setdefault(digest, {})
        fellows = [fellow for node in pulling if (fellow := self._fleet.get(node)) is not None and fellow.connected]
        peers = neighbours(agent.member.zone, holders, self._rng)
        peers += neighbours(agent.member.zone, [fellow for fellow in fellows if fellow.node != agent.node], self._rng)
        pulling[agent.node] = None
        self._metrics.joins.labels(JoinAnswer.SWARM).inc()
        for peer in peers:
            self._say(peer.node, Expect(str(digest), (agent.swarm,)))
        self._say(
            agent.node,
            SwarmPlan(
                join.id,
                str(digest),
                metainfo.layout.size_bytes,
                metainfo.layout.piece_bytes,
                b"".join(metainfo.hashes),
                tuple(peer.swarm for peer in peers),
            ),
        )

    def _metainfo(self, digest: Digest, live: _Live | None, record: BlobRecord | None) -> Metainfo | None:
        if live is not None and live.metainfo is not None:
            return live.metainfo
        return record.metainfo if record is not None else None

    def _refuse_all(self, digest: Digest, error: P2PDistError) -> None:
        log.warning("blob_unavailable", digest=digest, reason=str(error))
        for wish in self._starting.pop(digest, []):
            self._refuse(wish, error)

    def _refuse(self, wish: _Wish, error: P2PDistError) -> None:
        self._metrics.joins.labels(JoinAnswer.REFUSED).inc()
        self._say(wish.node, Failed(wish.join.id, error.oci_code, error.http_status, str(error)))
