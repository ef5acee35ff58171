"""One blob on its way to this host: it asks for a way, follows it, tries the next, and commits.

A pull belongs to the daemon, not to a request: it goes on when everybody hung up. Its partial blob is read while it
grows; everything that changes wakes `progress`. The one place that catches everything is `run`.
"""

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import trio

from p2pdist.agent.control import ControlLink
from p2pdist.agent.relays import Membership, Relays
from p2pdist.agent.rescue import rescue
from p2pdist.agent.sources import JOIN_SECONDS, Progress, Verdict, Way, judge, may_rescue
from p2pdist.core.digest import Digest
from p2pdist.core.errors import BlobUnknown, DigestInvalid, P2PDistError, Unavailable
from p2pdist.core.metainfo import Metainfo
from p2pdist.core.pieces import PieceLayout, PieceSet, piece_hash
from p2pdist.oci.origin import OriginClient
from p2pdist.store import BlobStore, PartialBlob
from p2pdist.swarm import Endpoint, Swarm
from p2pdist.telemetry.logging import get_logger
from p2pdist.telemetry.metrics import AgentMetrics, ByteSource, PullOutcome, PullSource
from p2pdist.wire.messages import Distrusted, HeldBlob, Inventory, Join, Lacking, Left, RelayPlan, SwarmPlan

CHECK_SECONDS = 0.25
HASH_AHEAD_BYTES = 4 * 1024 * 1024
GAP_PIECES = 16
log = get_logger("agent.pull")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which blob, and where a manifest says that it is; `size_bytes` is 0 when no manifest was seen."""

    upstream: str
    repository: str
    digest: Digest
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Means:
    """What a pull works with."""

    store: BlobStore
    control: ControlLink
    relays: Relays
    swarm: Swarm
    metrics: AgentMetrics
    origin: Callable[[str], OriginClient | None]


@dataclass(slots=True)
class Came:
    """Payload bytes of one pull by where they came from."""

    swarm_bytes: int = 0
    origin_bytes: int = 0


@dataclass(slots=True)
class _Clock:
    """Since when nothing has come, and since when something that should have come is missing."""

    present_bytes: int
    moved_at: float
    gap_at: int = 0
    overdue_since: float | None = None


class Pull:
    """One pull under way; `run` is its task."""

    def __init__(self, wanted: Wanted, means: Means) -> None:
        self.wanted = wanted
        self.partial: PartialBlob | None = None
        self.error: P2PDistError | None = None
        self.done = False
        self.came = Came()
        self.source = "waiting"
        self.started_at = trio.current_time()
        self.progress = trio.Event()
        self._means = means
        self._membership: Membership | None = None
        self._memberships: list[Membership] = []
        self._private = False
        self._token = trio.lowlevel.current_trio_token()
        self._tries = Progress(Way.RELAY, True, 0.0)

    # For those who wait.

    def wake(self) -> None:
        """Something has changed."""
        self.progress.set()
        self.progress = trio.Event()

    @property
    def received_bytes(self) -> int:
        """How much is here."""
        return self.partial.present_bytes if self.partial is not None else 0

    # The task.

    async def run(self) -> None:
        """Get the blob and commit it; never raises what is wrong with the pull: that is in `error`."""
        metrics = self._means.metrics
        metrics.pulls_running.inc()
        outcome = PullOutcome.ABANDONED
        try:
            await self._get()
            await self._commit()
            outcome = PullOutcome.DONE
        except P2PDistError as error:
            self.error, outcome = error, PullOutcome.FAILED
            await self._give_up(error)
        finally:
            self.done = True
            self.wake()
            metrics.pulls_running.dec()
            metrics.pull_seconds.observe(trio.current_time() - self.started_at)
            metrics.pulls.labels(outcome, self._main_source()).inc()

    async def _get(self) -> None:
        """Follow one way after the other until every piece is here."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hash_ahead)
            failure: P2PDistError | None = None
            while not self._complete and failure is None:
                failure = await self._caught(self._follow_a_way)
            if failure is not None and not self._complete and may_rescue(failure.oci_code):
                log.warning("rescue_begins", digest=self.wanted.digest, reason=str(failure))
                failure = await self._caught(self._rescue)
            nursery.cancel_scope.cancel()
        if failure is not None and not self._complete:
            raise failure

    async def _caught(self, step: Callable[[], Awaitable[None]]) -> P2PDistError | None:
        """Run a step; its error as a value, so that the nursery around doesn't wrap it."""
        try:
            await step()
        except P2PDistError as error:
            return error
        return None

    @property
    def _complete(self) -> bool:
        return self.partial is not None and self.partial.complete

    async def _follow_a_way(self) -> None:
        """Ask the tracker and do what it says; returns to ask again, raises when the tracker is no help."""
        wanted, partial = self.wanted, self.partial
        held = partial.pieces.to_bytes() if partial is not None else b""
        piece_bytes = partial.layout.piece_bytes if partial is not None else 0
        plan = await self._means.control.ask(
            lambda id_: Join(
                id_, wanted.upstream, wanted.repository, str(wanted.digest), wanted.size_bytes, piece_bytes, held
            ),
            JOIN_SECONDS,
        )
        match plan:
            case RelayPlan():
                await self._relay(plan)
            case SwarmPlan():
                await self._swarm(plan)
            case _:
                raise Unavailable(f"the tracker answers a join with {type(plan).__name__}")

    def _begin(self, layout: PieceLayout) -> PartialBlob:
        """The partial blob, made at the first way that knows the size. May be called in a worker thread."""
        if self.partial is None:
            wanted = self.wanted
            partial = self._means.store.begin(
                wanted.digest, layout, private=self._private, upstream=wanted.upstream, repository=wanted.repository
            )
            partial.on_progress(self._wake_from_a_thread)
            self.partial = partial
            self._wake_from_a_thread()
        return self.partial

    def _wake_from_a_thread(self) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self.wake, idempotent=True)

    # The relay.

    async def _relay(self, plan: RelayPlan) -> None:
        self._private = plan.private
        partial = await trio.to_thread.run_sync(self._begin, PieceLayout(plan.size_bytes, plan.piece_bytes))
        membership = self._means.relays.enter(plan, partial, self.wake)
        if membership not in self._memberships:
            self._memberships.append(membership)
        self._membership = membership
        self.source = "relay"
        connects = self._means.control.connects
        clock = _Clock(partial.present_bytes, trio.current_time())
        lacking_at: float | None = None
        lacking_tries = 0
        while not partial.complete:
            if membership.failure is not None:
                raise membership.failure
            if membership.ended is not None:
                self._check_end(membership)
                return
            if self._means.control.connected and self._means.control.connects != connects:
                return
            await self._wait_a_moment()
            now = trio.current_time()
            self._look(partial, clock, now, everything_dealt=membership.dealt)
            verdict = judge(
                replace(
                    self._seen(Way.RELAY, clock, now),
                    overdue_seconds=now - clock.overdue_since if clock.overdue_since is not None else 0.0,
                    said_lacking_seconds_ago=now - lacking_at if lacking_at is not None else None,
                    lacking_tries=lacking_tries,
                )
            )
            if verdict is Verdict.SAY_LACKING:
                lacking_at, lacking_tries = now, lacking_tries + 1
                self._means.control.say(Lacking(membership.generation, _overdue(partial, membership.dealt)))
            elif verdict is Verdict.RESCUE:
                raise Unavailable("the relay brings nothing more")

    def _check_end(self, membership: Membership) -> None:
        """Raise what ended a generation, if it ended badly."""
        ended = membership.ended
        if ended is not None and ended.code:
            error = Unavailable(ended.message)
            error.oci_code, error.http_status = ended.code, ended.status
            if ended.code == DigestInvalid.oci_code:
                raise DigestInvalid(ended.message)
            raise error

    def _seen(self, way: Way, clock: _Clock, now: float) -> Progress:
        return Progress(way, self._means.control.connected, now - clock.moved_at)

    def _look(self, partial: PartialBlob, clock: _Clock, now: float, everything_dealt: bool) -> None:
        """Keep the clock: did anything come, and is a piece missing that others came after?"""
        present = partial.present_bytes
        moved = present != clock.present_bytes
        if moved:
            clock.present_bytes, clock.moved_at = present, now
        gap = partial.contiguous_bytes
        if everything_dealt and moved:
            clock.overdue_since = None
        overdue = everything_dealt or present > gap + partial.layout.piece_bytes * GAP_PIECES
        if not overdue or gap != clock.gap_at:
            clock.overdue_since = None
        if overdue and clock.overdue_since is None:
            clock.overdue_since = now
        clock.gap_at = gap

    async def _wait_a_moment(self) -> None:
        """Until a piece comes or the tracker has news, but not for ever."""
        with trio.move_on_after(CHECK_SECONDS):
            await self.progress.wait()

    # The swarm.

    async def _swarm(self, plan: SwarmPlan) -> None:
        layout = PieceLayout(plan.size_bytes, plan.piece_bytes)
        hashes = tuple(plan.hashes[start : start + 32] for start in range(0, len(plan.hashes), 32))
        metainfo = Metainfo(self.wanted.digest, layout, hashes)
        partial = await trio.to_thread.run_sync(self._begin, layout)
        if partial.layout != layout:
            raise Unavailable(f"the swarm cuts {self.wanted.digest} into other pieces than we began with")
        self.source = "swarm"
        peers = [Endpoint(peer.host, peer.port) for peer in plan.neighbours]
        clock = _Clock(partial.present_bytes, trio.current_time())
        await trio.to_thread.run_sync(self._means.store.save_metainfo, self.wanted.digest, metainfo)
        async with self._means.swarm.pull(partial, metainfo, peers) as swarming:
            try:
                while not swarming.finished:
                    await self._wait_a_moment()
                    now = trio.current_time()
                    self._look(partial, clock, now, everything_dealt=False)
                    seen = replace(self._seen(Way.SWARM, clock, now), swarm_tries=self._tries.swarm_tries)
                    verdict = judge(seen)
                    if verdict is Verdict.RESCUE:
                        raise Unavailable("the swarm brings nothing more")
                    if verdict is Verdict.ASK_AGAIN:
                        self._tries = replace(self._tries, swarm_tries=self._tries.swarm_tries + 1)
                        return
            finally:
                self.came.swarm_bytes += swarming.received_bytes

    # The origin.

    async def _rescue(self) -> None:
        wanted = self.wanted
        client = self._means.origin(wanted.upstream)
        if client is None:
            raise BlobUnknown(f"no origin is known for {wanted.upstream}")
        self.source = "origin"
        self._means.metrics.rescues.inc()
        received = self._means.metrics.received_bytes.labels(ByteSource.ORIGIN)

        def count(size_bytes: int) -> None:
            self.came.origin_bytes += size_bytes
            received.inc(size_bytes)

        await rescue(
            client,
            wanted.repository,
            wanted.digest,
            self.partial,
            lambda size_bytes: self._begin(PieceLayout.for_size(size_bytes)),
            count,
        )

    # The end.

    async def _hash_ahead(self) -> None:
        """Hash what has come without a gap, so that little is left when the last piece comes."""
        hashed = 0
        while True:
            partial = self.partial
            if partial is not None and partial.contiguous_bytes - hashed >= HASH_AHEAD_BYTES:
                with suppress(P2PDistError):
                    hashed = await trio.to_thread.run_sync(partial.hash_prefix)
            await self.progress.wait()

    async def _commit(self) -> None:
        partial = self.partial
        assert partial is not None
        self.source = "verifying" if self.source == "waiting" else self.source
        await trio.to_thread.run_sync(self._commit_now, partial)
        means, digest = self._means, self.wanted.digest
        means.control.say(Inventory((HeldBlob(str(digest), partial.layout.size_bytes, self._private),)))
        for membership in self._memberships:
            means.control.say(Left(membership.generation))
        log.info(
            "blob_held",
            digest=digest,
            size_bytes=partial.layout.size_bytes,
            source=self.source,
            seconds=round(trio.current_time() - self.started_at, 3),
        )

    def _commit_now(self, partial: PartialBlob) -> None:
        """In a worker thread: the metainfo first, so that a committed blob has one."""
        store, digest = self._means.store, self.wanted.digest
        if store.metainfo(digest) is None:
            store.save_metainfo(digest, Metainfo(digest, partial.layout, tuple(self._hashes(partial))))
        partial.commit()

    def _hashes(self, partial: PartialBlob) -> list[bytes]:
        """The hash of every piece: known from the relay, or computed for pieces that came from the origin."""
        layout = partial.layout
        known = self._membership.ticket.hashes if self._membership is not None else [None] * layout.count
        found: list[bytes] = []
        with partial.held() as fd:
            for index, hash_ in enumerate(known):
                if hash_ is None:
                    hash_ = piece_hash(layout, _read(fd, layout.offset(index), layout.length(index)))
                found.append(hash_)
        return found

    async def _give_up(self, error: P2PDistError) -> None:
        means, digest = self._means, self.wanted.digest
        log.warning("pull_failed", digest=digest, repository=self.wanted.repository, reason=str(error))
        for membership in self._memberships:
            means.control.say(Left(membership.generation, str(error)[:1000]))
            means.relays.abandon(membership)
        if self.partial is None:
            return
        if isinstance(error, DigestInvalid):
            means.metrics.quarantined.inc()
            generation = self._membership.generation if self._membership is not None else 0
            means.control.say(Distrusted(str(digest), generation, str(error)[:1000]))
            await trio.to_thread.run_sync(means.store.quarantine, digest, str(error))
        else:
            await trio.to_thread.run_sync(self.partial.discard)

    def _main_source(self) -> PullSource:
        if self.source in ("relay", "swarm", "origin"):
            return PullSource(self.source)
        return PullSource.NONE


def _overdue(partial: PartialBlob, everything: bool) -> bytes:
    """The bitmap of missing pieces: all of them, or those well before the newest one that came."""
    pieces = partial.pieces
    newest = max(pieces, default=0)
    missing = pieces.missing()
    return PieceSet(pieces.count, [index for index in missing if everything or index + GAP_PIECES < newest]).to_bytes()


def _read(fd: int, offset: int, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        data += os.pread(fd, length - len(data), offset + len(data))
    return bytes(data)
