"""A blob that comes by relay: take part, ask for what is overdue, notice when the relay is no more use."""

import trio

from p2pdist.agent.account import Awaited
from p2pdist.agent.arrival import Arrival
from p2pdist.agent.relays import Membership
from p2pdist.agent.sources import QUIET_SECONDS, Clock, Progress, Verdict, Way, judge, overdue, quiet_seconds
from p2pdist.core.errors import BlobUnknown, DigestInvalid, P2PDistError, Unavailable
from p2pdist.core.pieces import PieceLayout
from p2pdist.store import PartialBlob
from p2pdist.wire.messages import Lacking, RelayPlan


async def follow_relay(arrival: Arrival, plan: RelayPlan) -> None:
    """Returns when every piece is here or the tracker must be asked again; raises when the relay brings no more."""
    arrival.account.wait_for(Awaited.RELAY)
    membership, partial = await _enter(arrival, plan)
    arrival.source = "relay"
    control = arrival.means.control
    connects = control.connects
    clock = Clock(partial.present_bytes, trio.current_time())
    lacking_at: float | None = None
    lacking_tries = 0
    while not partial.complete:
        if membership.failure is not None:
            raise membership.failure
        if membership.ended is not None:
            _check_end(membership)
            return
        if control.connected and control.connects != connects:
            return
        if not control.connected and membership.ticket.provisional:
            # Who fetches a stripe keeps the others fed, so that none of them would ever be idle for long.
            raise Unavailable("the tracker is gone, and other members fetch what is missing")
        await arrival.wait_a_moment()
        now = trio.current_time()
        layout = partial.layout
        clock.look(partial.present_bytes, partial.contiguous_bytes, layout.piece_bytes, membership.dealt, now)
        if clock.idle_seconds(now) >= QUIET_SECONDS:
            control.demand_sign(quiet_seconds(arrival.means.relays.fleet_size))
        verdict = judge(
            Progress(
                Way.RELAY,
                control.connected,
                clock.idle_seconds(now),
                clock.overdue_seconds(now),
                now - lacking_at if lacking_at is not None else None,
                lacking_tries,
                piece_seconds=clock.piece_seconds(layout.piece_bytes),
            )
        )
        if verdict is Verdict.SAY_LACKING:
            lacking_at, lacking_tries = now, lacking_tries + 1
            missing = overdue(partial.pieces, membership.dealt)
            control.say(Lacking(membership.generation, missing.to_bytes()))
            arrival.account.asked_for(len(missing), membership.generation)
        elif verdict is Verdict.RESCUE:
            raise Unavailable("the relay brings nothing more")


async def _enter(arrival: Arrival, plan: RelayPlan) -> tuple[Membership, PartialBlob]:
    """Become a member; who can't says so, or the tracker would wait for it."""
    relays = arrival.means.relays
    arrival.private = arrival.private or plan.private
    arrival.settle(plan)
    try:
        layout = PieceLayout(plan.size_bytes, plan.piece_bytes)
        partial = await trio.to_thread.run_sync(arrival.begin, layout)
        membership = relays.enter(plan, partial, arrival.wake)
    except P2PDistError as error:
        relays.decline(plan.generation, str(error))
        raise
    if membership not in arrival.memberships:
        arrival.memberships.append(membership)
        arrival.account.relays.append(membership.ticket.counts)
    return membership, partial


def _check_end(membership: Membership) -> None:
    """Raise what ended a generation, if it ended badly.

    A tracker that doesn't know the generation (any more) answers a question about it with BLOB_UNKNOWN; whether it
    knows the blob shows when it is asked for it again.
    """
    ended = membership.ended
    if ended is None or not ended.code or ended.code == BlobUnknown.oci_code:
        return
    error = DigestInvalid(ended.message) if ended.code == DigestInvalid.oci_code else Unavailable(ended.message)
    error.oci_code, error.http_status = ended.code, ended.status or error.http_status
    raise error
