"""Generations under way on this tracker: how they begin, who enters, who leaves, and how they end.

Only this module and `epochs` change a `Generation`. The relay's thread deals and tells by notices, agents hear by
`say`; a generation's rules are in `generation`, the deals' in `relay.engine`. Lives on the trio thread.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import trio

from p2pdist.core.digest import Digest
from p2pdist.core.errors import P2PDistError, Unavailable
from p2pdist.core.metainfo import Metainfo
from p2pdist.core.pieces import PieceLayout, PieceSet
from p2pdist.relay.notices import BadPiece, DealsDone, EpochBegan, Notice, PeerRejected, TransferFailed
from p2pdist.relay.transfer import Counts, PieceFile, TransferSpec
from p2pdist.telemetry.logging import get_logger
from p2pdist.telemetry.metrics import JoinAnswer
from p2pdist.tracker.epochs import VERDICT_WINDOW_SECONDS, Epochs, Live, Steering
from p2pdist.tracker.fleet import Agent
from p2pdist.tracker.generation import Generation, Stage
from p2pdist.tracker.severed import Severed
from p2pdist.tracker.slowness import witnesses_needed
from p2pdist.tracker.wishes import Claim, Wish, ended, failed
from p2pdist.wire.messages import Dealt, Ended, Probe, Supply

END_SECONDS = 60.0
STALL_SECONDS = 30.0
CHECK_SECONDS = 5.0
PROBE_SECONDS = 0.5
SLOWEST_BYTES_A_SECOND = 125_000
log = get_logger("tracker.relaying")


@dataclass(frozen=True, slots=True)
class Subject:
    """What a generation brings to the fleet."""

    number: int
    digest: Digest
    upstream: str
    repository: str
    private: bool
    layout: PieceLayout


class Relaying:
    """All generations. `again` gets a wish that came too late for a generation that has just ended well."""

    def __init__(self, steering: Steering, again: Callable[[Wish], None]) -> None:
        self._tracker = steering.tracker
        self._fleet = steering.fleet
        self._relay = steering.relay
        self._metrics = steering.metrics
        self._nursery = steering.nursery
        self._say = steering.say
        self._again = again
        self._epochs = Epochs(steering, self._made, self._end_hopeless)
        self._live: dict[Digest, Live] = {}
        self._numbers: dict[int, Live] = {}
        self._probes: dict[str, trio.Event] = {}
        self._severed = Severed()

    def get(self, digest: Digest) -> Live | None:
        """The generation of a blob that is under way."""
        return self._live.get(digest)

    def waiting(self) -> Iterator[Wish]:
        """The joins that wait for an epoch."""
        for live in self._live.values():
            yield from live.wishes

    # Beginning and entering.

    def open(self, subject: Subject, file: PieceFile, claim: Claim, fetch: trio.CancelScope | None = None) -> Live:
        """Begin a generation that this tracker deals from `file`: the size is known, so whoever waited enters.

        Raises `Unavailable` when no descriptor is left; the wishes then still wait.
        """
        generation = self._generation(subject, claim)
        spec = TransferSpec(subject.number, subject.digest, subject.layout, file, subject.private, generation.fan)
        try:
            counts = self._relay.open(spec).counts
        except OSError as error:
            raise Unavailable(f"the tracker can't begin to relay {subject.digest}: {error.strerror}") from error
        return self._begin(Live(generation, counts, fetch), claim)

    def open_held(
        self, subject: Subject, supply: Supply, metainfo: Metainfo, holders: list[Agent], claim: Claim
    ) -> Live:
        """Begin a generation that agents deal which hold the blob; whoever waited enters."""
        generation = self._generation(subject, claim)
        for agent in holders:
            generation.add_holder(agent.node, self._epochs.zone(agent.node))
        return self._begin(Live(generation, Counts(), metainfo=metainfo, supply=supply), claim)

    def _generation(self, subject: Subject, claim: Claim) -> Generation:
        return Generation(
            subject.number,
            subject.digest,
            subject.upstream,
            subject.repository,
            subject.layout,
            subject.private,
            self._tracker,
            by_offer=any(wish.join.held.strip(b"\0") for wish in claim.peek()),
            home=self._epochs.home(),
        )

    def _begin(self, live: Live, claim: Claim) -> Live:
        generation = live.generation
        self._live[generation.digest] = self._numbers[generation.number] = live
        self._metrics.generations_live.set(len(self._live))
        log.info(
            "generation_began",
            digest=generation.digest,
            size_bytes=generation.layout.size_bytes,
            upstream=generation.upstream,
            repository=generation.repository,
            private=generation.private,
            holders=len(generation.holders),
        )
        for wish in claim.take():
            # Not all who waited may have what one of them brought about.
            self._again(wish)
        return live

    def enter(self, live: Live, wish: Wish) -> None:
        """Take an agent in with the next epoch; refuses a bitmap that doesn't fit the blob."""
        layout = live.generation.layout
        held = PieceSet(layout.count)
        if wish.join.held and wish.join.piece_bytes == layout.piece_bytes:
            try:
                held = PieceSet.from_bytes(layout.count, wish.join.held)
            except P2PDistError as error:
                self.refuse(wish, error)
                return
        live.generation.join(wish.node, held, self._epochs.zone(wish.node))
        live.wishes.append(wish)
        self._epochs.plan(live)

    def refuse(self, wish: Wish, error: P2PDistError) -> None:
        """Tell an agent that it can't have the blob."""
        self._metrics.joins.labels(JoinAnswer.REFUSED).inc()
        self._say(wish.node, failed(wish.join.id, error))

    # What agents say.

    def lacking(self, agent: Agent, number: int, missing: bytes) -> None:
        """An agent lacks pieces that should have come; raises `InvalidInput` for a bitmap of the wrong length."""
        live = self._numbers.get(number)
        if live is None:
            self._say(agent.node, Ended(number, "BLOB_UNKNOWN", 404, "this distribution is over; join again"))
            return
        generation = live.generation
        wanted = [*PieceSet.from_bytes(generation.layout.count, missing)]
        log.info("fill_wanted", digest=generation.digest, agent=agent.member.name, pieces=len(wanted))
        for dealer in generation.dealers_of(agent.node, wanted):
            self._severed.lacks(number, agent.node, dealer, trio.current_time())
            if live.supply is not None:
                self.silent(agent, dealer)
        self._epochs.order(live, generation.lacking(agent.node, wanted))

    def left(self, agent: Agent, number: int, reason: str) -> None:
        """An agent holds the blob, or has given it up."""
        live = self._numbers.get(number)
        if live is None:
            return
        live.generation.finished(agent.node)
        if reason:
            log.info("member_gave_up", digest=live.generation.digest, agent=agent.member.name, reason=reason)
            self._drop(live, agent.node)
        self._end_if_done(live)

    def lagging(self, agent: Agent, node: str) -> None:
        """An agent says that pieces go more slowly to `node` than to others; when several do, it becomes a leaf.

        Nobody is called slow while fills fill its link.
        """
        shared = [each.generation for each in self._live.values() if node in each.generation.members]
        if not shared or any(generation.is_being_filled(node) for generation in shared):
            return
        needed = witnesses_needed(max(len(each.members) for each in shared), shared[0].fan)
        if self._epochs.slowness.lags(agent.node, node, needed, trio.current_time()):
            log.info("agent_is_slow", node=node, said_by=agent.member.name)
            for live in self._live.values():
                if node in live.generation.members and live.generation.stage is Stage.DEALING:
                    self._epochs.plan(live, VERDICT_WINDOW_SECONDS)

    def silent(self, agent: Agent, node: str) -> None:
        """An agent misses a sign of life of `node`; when we do too, relays go on without it."""
        if self._fleet.get(node) is not None and node not in self._probes and not self.is_silent(node):
            self._probes[node] = trio.Event()
            self._nursery.start_soon(self._probe, agent, node, self._probes[node])

    async def _probe(self, agent: Agent, node: str, heard: trio.Event) -> None:
        """Ask for a sign of life: what an agent misses may be the fault of a link between two, or of a queue."""
        self._say(node, Probe())
        with trio.move_on_after(PROBE_SECONDS):
            await heard.wait()
        del self._probes[node]
        if heard.is_set() or self._fleet.get(node) is None:
            return
        log.warning("agent_is_silent", node=node, said_by=agent.member.name)
        self._epochs.slowness.silent(node)
        for live in list(self._live.values()):
            if live.generation.leave_out(node) and live.generation.stage is Stage.DEALING:
                self._epochs.plan(live)
            self._epochs.replace_dealer(live, node)

    def is_silent(self, node: str) -> bool:
        """Whether an agent gives no sign of life, so that nobody is to rely on it."""
        return self._epochs.slowness.is_silent(node)

    def is_severed(self, agent: str, dealer: str) -> bool:
        """Whether an agent can't get from another, although both live."""
        return self._severed.between(agent, dealer, trio.current_time())

    def heard(self, node: str) -> None:
        """An agent gave a sign of life; whoever was left out for want of one is taken in again."""
        if node in self._probes:
            self._probes[node].set()
        if self._epochs.slowness.heard(node):
            log.info("agent_is_back", node=node)
            for live in self._live.values():
                if live.generation.take_back(node):
                    self._epochs.plan(live)

    def disconnected(self, node: str) -> None:
        """An agent's connection broke: relays go on without it."""
        self._epochs.slowness.heard(node)
        self._severed.gone(node)
        for live in list(self._live.values()):
            live.wishes = [wish for wish in live.wishes if wish.node != node]
            self._drop(live, node)
            self._end_if_done(live)

    def began(self, node: str, number: int, epoch: int, dealt: bytes) -> None:
        """An agent deals over a ring; raises `InvalidInput` for a bitmap of the wrong length."""
        live = self._numbers.get(number)
        if live is not None and live.generation.is_dealt_by(node, epoch):
            self._epochs.began(live, epoch, PieceSet.from_bytes(live.generation.layout.count, dealt))

    def deals_done(self, node: str, number: int) -> None:
        """All that an agent, or this tracker, dealt is acknowledged."""
        live = self._numbers.get(number)
        if live is not None:
            live.dealing.discard(node)
            self._dealt_if_done(live)

    def _drop(self, live: Live, node: str) -> None:
        if live.generation.leave(node):
            self._epochs.plan(live)
        self._epochs.replace_dealer(live, node)
        self._dealt_if_done(live)

    def _made(self, live: Live) -> None:
        """An epoch was made."""
        self._dealt_if_done(live)
        self._end_if_done(live)

    def _dealt_if_done(self, live: Live) -> None:
        """Everything is dealt when nobody has anything of its share left."""
        waits = live.dealing or live.generation.waiting or live.epoch_planned
        if live.metainfo is not None and not waits:
            self._all_dealt(live)

    # What the relay says.

    def notice(self, notice: Notice) -> None:
        """Something happened in the relay's thread."""
        match notice:
            case EpochBegan(number, epoch, dealt):
                live = self._numbers.get(number)
                if live is not None:
                    self._epochs.began(live, epoch, dealt)
            case DealsDone(number):
                self.deals_done(self._tracker, number)
            case TransferFailed(number, error):
                live = self._numbers.get(number)
                if live is not None:
                    self.fail(live, error)
            case BadPiece(number, node, index, reason):
                log.warning("bad_piece", generation=number, node=node, piece=index, reason=reason)
            case PeerRejected():
                self._metrics.protocol_errors.inc()

    def refresh_metrics(self) -> None:
        """Bring the counters up to what the relay's thread has counted."""
        for live in self._live.values():
            self._count(live)

    def _count(self, live: Live) -> None:
        sent, live.counted_bytes = live.counts.sent_bytes - live.counted_bytes, live.counts.sent_bytes
        self._metrics.dealt_bytes.inc(sent)

    # Ends.

    def deal(self, live: Live, pieces: list[tuple[int, bytes, bytes]]) -> None:
        """Pieces (index, hash, encoded vouch) are there."""
        self._relay.deal(live.generation.number, pieces)

    def whole(self, live: Live, metainfo: Metainfo) -> None:
        """The blob is committed here and every piece is with the relay."""
        if live.generation.stage is Stage.ENDED:
            return
        live.metainfo = metainfo
        live.fetch = None
        live.note_move()
        self._dealt_if_done(live)
        self._end_if_done(live)

    def _all_dealt(self, live: Live) -> None:
        generation = live.generation
        if generation.stage is not Stage.DEALING:
            return
        generation.stage = Stage.DEALT
        log.info("generation_dealt", digest=generation.digest, members=len(generation.members))
        for node in generation.members | generation.guests:
            self._say(node, Dealt(generation.number))
        self._nursery.start_soon(self._end_at_last, live)
        self._end_if_done(live)

    async def _end_at_last(self, live: Live) -> None:
        """A member that neither finishes nor leaves doesn't keep a generation for ever, counted from its last fill."""
        seconds = END_SECONDS + live.generation.layout.size_bytes / SLOWEST_BYTES_A_SECOND
        while live.generation.stage is not Stage.ENDED:
            left = live.moved[1] + seconds - trio.current_time()
            if left <= 0:
                self._end(live, Ended(live.generation.number))
                return
            with trio.move_on_after(left):
                await live.released.wait()

    def _end_if_done(self, live: Live) -> None:
        """End what is all here when nobody waits for it any more; a fetch goes on without members, into the store."""
        generation = live.generation
        if live.metainfo is not None and (generation.deserted or generation.all_done):
            self._end(live, Ended(generation.number))

    def _end_hopeless(self, live: Live) -> None:
        """Nobody is left who could deal: whoever still wants the blob asks anew, and gets another way."""
        log.warning("holders_gone", digest=live.generation.digest)
        self._end(live, Ended(live.generation.number))

    def fail(self, live: Live, error: P2PDistError) -> None:
        """End a generation badly: its pieces mustn't be served."""
        if live.generation.stage is Stage.ENDED:
            return
        log.warning("generation_failed", digest=live.generation.digest, reason=str(error))
        wishes, live.wishes = live.wishes, []
        self._end(live, ended(live.generation.number, error))
        for wish in wishes:
            self.refuse(wish, error)

    def _end(self, live: Live, word: Ended) -> None:
        """Close a generation here and at all who ever took part."""
        generation = live.generation
        if generation.stage is Stage.ENDED:
            return
        generation.stage = Stage.ENDED
        del self._live[generation.digest], self._numbers[generation.number]
        self._severed.ended(generation.number)
        if live.supply is None:
            self._relay.close(generation.number)
        self._count(live)
        if live.fetch is not None:
            live.fetch.cancel()
        live.released.set()
        self._metrics.generations_live.set(len(self._live))
        for node in generation.took_part | live.supplied:
            self._say(node, word)
        wishes, live.wishes = live.wishes, []
        for wish in wishes:
            self._again(wish)

    async def watch_stalls(self) -> None:
        """Let nobody wait for a deal that doesn't move although every piece is here."""
        while True:
            await trio.sleep(CHECK_SECONDS)
            now = trio.current_time()
            for live in list(self._live.values()):
                self._check(live, now)

    def _check(self, live: Live, now: float) -> None:
        generation, sent = live.generation, live.counts.sent_bytes
        if live.supply is not None:
            return
        if generation.stage is not Stage.DEALING or live.metainfo is None or sent != live.moved[0]:
            live.moved = (sent, now)
        elif now - live.moved[1] >= STALL_SECONDS:
            log.warning("deals_stalled", digest=generation.digest, sent_bytes=sent, members=len(generation.members))
            if sent == 0:
                self.fail(live, Unavailable(f"no agent could be reached by the relay for {STALL_SECONDS:g} s"))
            else:
                self._all_dealt(live)
