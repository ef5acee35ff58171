"""What becomes of an agent's wish for a blob: a place in a relay, a swarm, or a sentence why not.

Decides by `choice`, and leaves the rest to `relaying`, `swarming` and `starting`. Lives on the trio thread; what
waits for the disk runs in worker threads, and whoever asks meanwhile waits with those who asked first.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace

import trio

from p2pdist.core.digest import Digest
from p2pdist.core.errors import BlobUnknown, P2PDistError, StoreError
from p2pdist.oci.rights import Asker, Place
from p2pdist.pki.vouch import Signer
from p2pdist.relay.node import RelayNode
from p2pdist.relay.notices import Notice
from p2pdist.store import BlobRecord, BlobStore
from p2pdist.telemetry.events import Event, EventLog
from p2pdist.telemetry.logging import get_logger
from p2pdist.telemetry.metrics import TrackerMetrics
from p2pdist.tracker.choice import Situation, Way, choose
from p2pdist.tracker.epochs import Live, Steering
from p2pdist.tracker.fleet import Agent, Fleet
from p2pdist.tracker.flights import unexpected
from p2pdist.tracker.gate import Gate, Held
from p2pdist.tracker.origins import Origins
from p2pdist.tracker.relaying import Relaying
from p2pdist.tracker.starting import Starting
from p2pdist.tracker.swarming import Swarming
from p2pdist.tracker.wishes import Claim, Say, Wish
from p2pdist.wire.messages import Join

_REMEMBERED_RECORDS = 64
log = get_logger("tracker.distribution")


class Distribution:
    """All blobs that agents want."""

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
        zone_of: Callable[[str], str],
        home: str,
        events: EventLog | None = None,
    ) -> None:
        self._fleet = fleet
        self._store = store
        self._origins = origins
        self._metrics = metrics
        self._nursery = nursery
        self._events = events
        steering = Steering(tracker, fleet, relay, metrics, nursery, say, flush_table, zone_of, home)
        self.relaying = Relaying(steering, self._decide)
        self._swarming = Swarming(fleet, metrics, say)
        self._starting = Starting(store, origins, signer, self.relaying, metrics, encrypted, events)
        self._gate = Gate(origins, nursery)
        self._checking: list[Wish] = []
        origins.on_shut = lambda place: nursery.start_soon(self._make_private, place)
        self._undecided: dict[Digest, list[Wish]] = {}
        self._records: OrderedDict[Digest, BlobRecord] = OrderedDict()
        self._verifying: set[Digest] = set()

    # What agents say.

    def join(self, agent: Agent, join: Join) -> None:
        """An agent wants a blob; the answer goes out by `say`, now or when it is known."""
        wish = Wish(agent.node, join)
        try:
            digest = Digest.parse(join.digest)
            self._origins.client(join.upstream)
        except P2PDistError as error:
            self.relaying.refuse(wish, error)
            return
        if self._events is not None:
            self._events.name_peer(agent.node, agent.member.name)
            self._events.note(Event.JOINED, digest, peer=agent.node, bytes=join.size_bytes)
        self._decide(wish)

    def lacking(self, agent: Agent, number: int, missing: bytes) -> None:
        """An agent lacks pieces that should have come; raises `InvalidInput` for a bitmap of the wrong length."""
        self.relaying.lacking(agent, number, missing)

    def left(self, agent: Agent, number: int, reason: str) -> None:
        """An agent holds the blob of a generation, or has given it up."""
        self.relaying.left(agent, number, reason)

    def lagging(self, agent: Agent, node: str) -> None:
        """An agent says that pieces go more slowly to another than to its siblings."""
        self.relaying.lagging(agent, node)

    def silent(self, agent: Agent, node: str) -> None:
        """An agent says that another gives no sign of life."""
        self.relaying.silent(agent, node)

    def heard(self, node: str) -> None:
        """An agent gave a sign of life."""
        self.relaying.heard(node)

    def began(self, agent: Agent, number: int, epoch: int, dealt: bytes) -> None:
        """A holder deals over a ring; raises `InvalidInput` for a bitmap of the wrong length."""
        self.relaying.began(agent.node, number, epoch, dealt)

    def deals_done(self, agent: Agent, number: int) -> None:
        """All that a holder dealt is acknowledged."""
        self.relaying.deals_done(agent.node, number)

    def held(self, node: str, digests: list[Digest]) -> None:
        """An agent got blobs."""
        self._swarming.held(node, digests)

    def distrusted(self, agent: Agent, digest: Digest, reason: str) -> None:
        """Bytes that we vouched for had another digest on an agent: read our own copy again.

        An agent's word alone costs one read; what doesn't hold is quarantined, so that the next pull fetches it anew.
        """
        self._metrics.distrusted.inc()
        log.warning("blob_distrusted", digest=digest, agent=agent.member.name, reason=reason)
        if self._store.has(digest) and digest not in self._verifying:
            self._nursery.start_soon(self.verify, digest)

    def disconnected(self, node: str) -> None:
        """An agent's connection broke, or its lease ended: relays and swarms go on without it."""
        for wishes in self._undecided.values():
            wishes[:] = [wish for wish in wishes if wish.node != node]
        self.relaying.disconnected(node)
        self._swarming.disconnected(node)

    def notice(self, notice: Notice) -> None:
        """Something happened in the relay's thread."""
        self.relaying.notice(notice)

    def waiting(self) -> Iterator[Wish]:
        """The joins that weren't answered yet."""
        for wishes in self._undecided.values():
            yield from wishes
        yield from self._checking
        yield from self.relaying.waiting()

    async def verify(self, digest: Digest) -> None:
        """Read our copy of a blob: after it, the store has it and serves it, or it is gone.

        A daemon that ends doesn't wait for a disk: closing the store ends the read.
        """
        self._verifying.add(digest)
        try:
            good = await trio.to_thread.run_sync(self._store.verify, digest, abandon_on_cancel=True)
            if good:
                log.info("blob_verified", digest=digest)
            else:
                self._metrics.quarantined.inc()
                log.error("blob_quarantined", digest=digest, reason="our copy was damaged")
        except P2PDistError as error:
            log.warning("blob_not_verified", digest=digest, reason=str(error))
        finally:
            self._verifying.discard(digest)

    # Decisions.

    def _decide(self, wish: Wish, looked_up: bool = False) -> None:
        """Answer a wish, or have it wait until that can be done. `looked_up`: the store was asked just now."""
        digest = Digest.parse(wish.join.digest)
        agent = self._fleet.get(wish.node)
        if agent is None:
            return
        if digest in self._undecided:
            self._undecided[digest].append(wish)
            return
        live = self.relaying.get(digest)
        record = self._records.get(digest)
        if live is None and record is None and not looked_up:
            self._undecided[digest] = [wish]
            self._nursery.start_soon(self._look_up, digest)
            return
        held = _held(live, record)
        if held is not None and not wish.admitted and not self._gate.admits(wish.asker, digest, held):
            self._checking.append(wish)
            self._nursery.start_soon(self._check, wish, digest, held)
            return
        metainfo = live.metainfo if live is not None else record.metainfo if record is not None else None
        holders = [
            holder
            for holder in self._fleet.holders(digest, besides=agent.node)
            if not self.relaying.is_silent(holder.node) and not self.relaying.is_severed(agent.node, holder.node)
        ]
        situation = Situation(
            live=live is not None,
            holders=len(holders),
            metainfo_known=metainfo is not None,
            private=live.generation.private if live is not None else record is not None and record.private,
            in_store=metainfo is not None and self._store.has(digest),
            fruitless=wish.join.fruitless > 0,
        )
        match choose(situation):
            case Way.JOIN_RELAY:
                assert live is not None
                self.relaying.enter(live, wish)
            case Way.SWARM:
                assert metainfo is not None
                assert held is not None
                self._swarming.send(agent, wish.join, metainfo, holders, held.home)
            case Way.RELAY_FROM_HOLDERS:
                self._undecided[digest] = [wish]
                self._nursery.start_soon(self._start, digest, record, holders)
            case Way.RELAY_FROM_STORE:
                self._undecided[digest] = [wish]
                self._nursery.start_soon(self._start, digest, record)
            case Way.RELAY_FROM_ORIGIN:
                self._undecided[digest] = [wish]
                self._nursery.start_soon(self._start, digest, None)

    async def size(self, asker: Asker, digest: Digest, *, proof: bool, there: bool) -> int:
        """The size of a blob if `asker` gets it from the place that he names; raises what `Gate.check` raises.

        `there`: only if the upstream has it in that place, whatever is held here: who is to push asks so.
        """
        if there:
            return await self._gate.check(asker, digest, None)
        live = self.relaying.get(digest)
        record = await trio.to_thread.run_sync(self._store.record, digest) if live is None else None
        return await self._gate.check(asker, digest, _held(live, record), proof=proof)

    async def _check(self, wish: Wish, digest: Digest, held: Held) -> None:
        """Ask the upstream whether a wish may be granted, and grant it or not."""
        try:
            await self._gate.check(wish.asker, digest, held)
        except Exception as error:
            self._checking.remove(wish)
            self._refuse(wish, digest, error)
        else:
            self._checking.remove(wish)
            self._decide(replace(wish, admitted=True))

    async def _make_private(self, place: Place) -> None:
        """What everybody could have and can't any more doesn't travel openly from now on."""
        try:
            for digest in await trio.to_thread.run_sync(self._store.make_private, place.upstream, place.repository):
                self._records.pop(digest, None)
                log.info("blob_made_private", digest=digest, place=place)
        except StoreError as error:
            log.error("blobs_not_made_private", place=place, reason=str(error))

    async def _look_up(self, digest: Digest) -> None:
        """See what the store knows of a blob; after an unclean boot that may take a read of all of it."""
        try:
            if digest in await trio.to_thread.run_sync(self._store.unverified):
                await self.verify(digest)
            record = await trio.to_thread.run_sync(self._store.record, digest)
            self._remember(digest, record)
            for wish in self._undecided.pop(digest, []):
                self._decide(wish, looked_up=True)
        except Exception as error:
            self._refuse_all(digest, error)

    def _remember(self, digest: Digest, record: BlobRecord | None) -> None:
        """Keep what is known of a blob: its torrent stays right even when our copy is evicted."""
        if record is not None and record.metainfo is not None:
            self._records[digest] = record
            if len(self._records) > _REMEMBERED_RECORDS:
                self._records.popitem(last=False)

    async def _start(self, digest: Digest, record: BlobRecord | None, holders: list[Agent] | None = None) -> None:
        """Begin a generation for those who wait, from holders, our store or an origin, and see it through."""
        try:
            if holders and record is not None and record.metainfo is not None:
                claim = Claim(self._undecided, digest)
                await self._starting.from_holders(record, record.metainfo, holders, claim)
                return
            if record is not None and record.metainfo is not None:
                try:
                    await self._starting.from_store(record, record.metainfo, Claim(self._undecided, digest))
                    return
                except BlobUnknown as error:
                    log.warning("blob_lost", digest=digest, reason=str(error))
            await self._fetch(digest)
        except Exception as error:
            self._refuse_all(digest, error)

    async def _fetch(self, digest: Digest) -> None:
        """Fetch from where the first who waits wants it; if that has it not, from where the next ones do."""
        while wishes := self._undecided.get(digest):
            asker, size_bytes = source = wishes[0].source
            try:
                await self._starting.from_origin(asker, digest, size_bytes, Claim(self._undecided, digest))
                return
            except StoreError:
                raise
            except P2PDistError as error:
                log.warning("blob_unavailable", digest=digest, reason=str(error))
                left = self._undecided.get(digest, [])
                for wish in [wish for wish in left if wish.source == source]:
                    left.remove(wish)
                    self.relaying.refuse(wish, error)
        self._undecided.pop(digest, None)

    def _refuse_all(self, digest: Digest, error: Exception) -> None:
        """The end of a task that was to answer wishes: none is left without one, and nothing else ends with it."""
        for wish in self._undecided.pop(digest, []):
            self._refuse(wish, digest, error)

    def _refuse(self, wish: Wish, digest: Digest, error: Exception) -> None:
        if isinstance(error, P2PDistError):
            log.warning("blob_unavailable", digest=digest, reason=str(error))
            self.relaying.refuse(wish, error)
        else:
            log.exception("blob_unavailable", error, digest=digest)
            self.relaying.refuse(wish, unexpected(error))


def _held(live: Live | None, record: BlobRecord | None) -> Held | None:
    """Where the bytes that are in the fleet came from, as far as the tracker knows."""
    if live is not None:
        generation = live.generation
        home = Place(generation.upstream, generation.repository)
        return Held(home, generation.private, generation.layout.size_bytes)
    if record is not None:
        return Held(Place(record.upstream, record.repository), record.private, record.size_bytes)
    return None
