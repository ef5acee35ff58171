"""One blob wanted on this host: it asks for a way, follows it, tries the next, ends at the origin, and commits.

A pull belongs to the daemon, not to a request: it goes on when everybody hung up, unless all of them only wanted to
read from some byte on. The one place that catches everything is `run`: whatever goes wrong with a pull fails that pull
and nothing else.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from p2pdist.agent.account import Awaited, State
from p2pdist.agent.arrival import Arrival, Means, Wanted
from p2pdist.agent.by_relay import follow_relay
from p2pdist.agent.by_swarm import follow_swarm
from p2pdist.agent.commit import commit
from p2pdist.agent.control import Answer
from p2pdist.agent.relays import Membership
from p2pdist.agent.rescue import Source, rescue
from p2pdist.agent.sources import FRUITLESS_TRIES, JOIN_SECONDS, grace_seconds, may_rescue
from p2pdist.agent.together import Together
from p2pdist.core.errors import BlobUnknown, DigestInvalid, P2PDistError, Unavailable
from p2pdist.core.pieces import PieceLayout
from p2pdist.relay.spans import Ring
from p2pdist.telemetry.logging import get_logger
from p2pdist.telemetry.metrics import ByteSource, PullOutcome, PullSource
from p2pdist.wire.messages import Distrusted, HeldBlob, Inventory, Join, Left, RelayPlan, SwarmPlan, Token

HASH_AHEAD_BYTES = 4 * 1024 * 1024
INLINE_HASH_BYTES = 256 * 1024
"""Up to this size a blob is hashed on the event loop: its bytes were written a moment ago, and a hop costs as much."""
_REASON_CHARACTERS = 1000
log = get_logger("agent.pull")


class CalledOff(Unavailable):
    """Nobody reads any more from a pull that was only for those who read."""


class Pull(Arrival):
    """One pull under way; `run` is its task."""

    def __init__(self, wanted: Wanted, means: Means) -> None:
        super().__init__(wanted, means)
        self._scope = trio.CancelScope()

    def call_off(self) -> None:
        """End it: nobody wants the blob."""
        self._scope.cancel()

    async def run(self) -> None:
        """Get the blob and commit it; what is wrong with the pull isn't raised: it is in `error`."""
        metrics = self.means.metrics
        metrics.pulls_running.inc()
        outcome, state = PullOutcome.ABANDONED, State.ABANDONED
        try:
            with self._scope:
                await self._get()
                await self._commit()
                outcome, state = PullOutcome.DONE, State.HELD
            if self._scope.cancelled_caught:
                self.error = CalledOff(f"nobody reads {self.wanted.digest} any more")
                self.wake()
                await self._give_up(self.error)
        except Exception as error:
            outcome, state = PullOutcome.FAILED, State.FAILED
            self.error = self._told(error)
            self.wake()
            await self._give_up(self.error)
        finally:
            self.ended.set()
            self.wake()
            self.account.end(state, str(self.error or ""))
            metrics.pulls_running.dec()
            metrics.pull_seconds.observe(trio.current_time() - self.started_at)
            metrics.pulls.labels(outcome, self._main_source()).inc()

    def _told(self, error: Exception) -> P2PDistError:
        """`error`, or what those who wait are told in place of a bug."""
        if isinstance(error, P2PDistError):
            return error
        log.exception("pull_failed_by_bug", error, digest=self.wanted.digest)
        return Unavailable(f"the pull of {self.wanted.digest} failed by a bug of the agent; its log says more")

    # The ways.

    async def _get(self) -> None:
        """Follow one way after the other until every piece is here."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hash_ahead)
            failure = None
            while not self.complete and failure is None:
                before = self.received_bytes
                failure = await self._caught(self._follow_a_way)
                self.fruitless = self.fruitless + 1 if self.received_bytes == before else 0
                if self.fruitless >= FRUITLESS_TRIES and failure is None:
                    failure = Unavailable(f"{self.fruitless} ways in a row brought nothing")
                if failure is not None and not self.complete and may_rescue(failure):
                    log.warning("rescue_begins", digest=self.wanted.digest, reason=str(failure))
                    self.account.rescued(str(failure))
                    failure = await self._caught(self._rescue)
            nursery.cancel_scope.cancel()
        if failure is not None and not self.complete:
            raise failure

    async def _caught(self, step: Callable[[], Awaitable[None]]) -> P2PDistError | None:
        """Run a step; its error as a value, so that the nursery around doesn't wrap it."""
        try:
            await step()
        except P2PDistError as error:
            return error
        return None

    async def _follow_a_way(self) -> None:
        """Ask the tracker and do what it says; returns to ask again, raises when the tracker is no help."""
        match plan := await self._ask():
            case RelayPlan():
                self.account.answered("relay", plan.generation, max((ring.epoch for ring in plan.rings), default=0))
                await follow_relay(self, plan)
            case SwarmPlan():
                self.account.answered("swarm")
                await follow_swarm(self, plan)
            case _:
                raise Unavailable(f"the tracker answers a join with {type(plan).__name__}")

    async def _ask(self) -> Answer:
        """Join; a tracker that went away a moment ago is waited for, since it may only restart."""
        control = self.means.control
        while True:
            if not control.connected:
                self.account.wait_for(Awaited.CONNECTION)
                await control.wait_connected(grace_seconds(trio.current_time() - control.since))
            connects = control.connects
            self.account.wait_for(Awaited.ANSWER)
            try:
                return await control.ask(self._join, JOIN_SECONDS)
            except Unavailable:
                broke = not control.connected or control.connects != connects
                if not broke or not grace_seconds(trio.current_time() - control.since):
                    raise

    def _join(self, id_: int) -> Join:
        wanted, partial = self.wanted, self.partial
        held = partial.pieces.to_bytes() if partial is not None else b""
        piece_bytes = partial.layout.piece_bytes if partial is not None else 0
        return Join(
            id_,
            wanted.upstream,
            wanted.repository,
            str(wanted.digest),
            wanted.size_bytes,
            piece_bytes,
            held,
            self.fruitless,
            Token(wanted.token.value) if wanted.token is not None else None,
        )

    async def _rescue(self) -> None:
        """Get the rest from the origin: with the other members where a relay has lost its tracker, else alone.

        Returns short of the end when the tracker is back and is to be asked again.
        """
        wanted = self.wanted
        client = self.means.origin_for(wanted.asker)
        if client is None:
            raise BlobUnknown(f"no origin is known for {wanted.upstream}")
        self.source = "origin"
        self.account.wait_for(Awaited.ORIGIN)
        self.means.metrics.rescues.inc()
        received = self.means.metrics.received_bytes.labels(ByteSource.ORIGIN)

        def count(size_bytes: int) -> None:
            self.origin_bytes += size_bytes
            self.account.came_from_origin(size_bytes)
            received.inc(size_bytes)

        def on_private() -> None:
            self.private = True

        def begin(size_bytes: int) -> None:
            self.begin(PieceLayout.for_size(size_bytes))

        source = Source(client, wanted.repository, wanted.digest, count, on_private)
        orphan = self._orphan()
        if orphan is None or not await Together(self, *orphan, source).run():
            await rescue(source, lambda: self.partial, begin)

    def _orphan(self) -> tuple[Membership, Ring] | None:
        """Our part in a relay that goes on without its tracker, and the ring that its members stand on."""
        if self.means.control.connected or not self.memberships or not self.means.relays.peers:
            return None
        membership = self.memberships[-1]
        ring = membership.ring
        if membership.ended is not None or membership.failure is not None or ring is None or len(ring) < 2:
            return None
        return membership, ring

    async def _hash_ahead(self) -> None:
        """Hash what has come without a gap, so that little is left when the last piece comes."""
        while self.partial is None:
            await self.news.wait()
        partial, hashed = self.partial, 0
        with suppress(P2PDistError):
            while hashed < partial.layout.size_bytes:
                goal = min(hashed + HASH_AHEAD_BYTES, partial.layout.size_bytes)
                with self.reading(hashed, goal):
                    while partial.contiguous_bytes < goal:
                        await self.progress.wait()
                hashed = await trio.to_thread.run_sync(partial.hash_prefix)

    # The end.

    async def _commit(self) -> None:
        partial = self.partial
        assert partial is not None
        self.account.wait_for(Awaited.DIGEST)
        self.account.private = self.private
        if partial.layout.size_bytes <= INLINE_HASH_BYTES:
            partial.verify()
        else:
            await trio.to_thread.run_sync(partial.verify)
        # Whoever reads gets the last bytes now; that the blob is held is for those who come later.
        self.wake()
        self.account.wait_for(Awaited.STORE)
        await trio.to_thread.run_sync(commit, self, partial)
        control, digest = self.means.control, self.wanted.digest
        control.say(Inventory((HeldBlob(str(digest), partial.layout.size_bytes, self.private),)))
        for membership in self.memberships:
            control.say(Left(membership.generation))
        log.info(
            "blob_held",
            digest=digest,
            size_bytes=partial.layout.size_bytes,
            source=self.source,
            seconds=round(trio.current_time() - self.started_at, 3),
        )

    async def _give_up(self, error: P2PDistError) -> None:
        """Leave nothing behind; a store that fails at that too is only logged."""
        means, digest = self.means, self.wanted.digest
        reason = str(error)[:_REASON_CHARACTERS]
        told = log.info if isinstance(error, CalledOff) else log.warning
        told("pull_failed", digest=digest, repository=self.wanted.repository, reason=reason)
        for membership in self.memberships:
            means.relays.abandon(membership, reason)
        if self.partial is None:
            return
        try:
            if isinstance(error, DigestInvalid):
                self._distrust_signers()
                generation = self.memberships[-1].generation if self.memberships else 0
                means.control.say(Distrusted(str(digest), generation, reason))
                means.metrics.quarantined.inc()
                await trio.to_thread.run_sync(means.store.quarantine, digest, reason)
            else:
                await trio.to_thread.run_sync(self.partial.discard)
        except Exception as failure:
            log.exception("pull_not_cleaned_up", failure, digest=digest)

    def _distrust_signers(self) -> None:
        """Believe the agents no more that vouched for what came in a rescue: one of them may have lied."""
        relays = self.means.relays
        signers = {node for each in self.memberships for node in each.ticket.provisional.values()} - {relays.node}
        if signers:
            names = sorted(relays.name_of(node) or node for node in signers)
            log.error("signers_quarantined", digest=self.wanted.digest, agents=", ".join(names))
            relays.distrust(signers)

    def _main_source(self) -> PullSource:
        return PullSource(self.source) if self.source in ("relay", "swarm", "origin") else PullSource.NONE
