"""A blob that comes by swarm, from agents that hold it."""

from collections.abc import Callable, Iterable

import trio

from p2pdist.agent.account import Awaited
from p2pdist.agent.arrival import CHECK_SECONDS, Arrival
from p2pdist.agent.sources import QUIET_SECONDS, Clock, Progress, Verdict, Way, judge, quiet_seconds
from p2pdist.core.errors import InvalidInput, Unavailable
from p2pdist.core.metainfo import Metainfo
from p2pdist.core.pieces import PieceLayout
from p2pdist.swarm import Endpoint
from p2pdist.swarm.pull import Pull as SwarmPull
from p2pdist.telemetry.logging import get_logger
from p2pdist.wire.messages import Endpoint as WireEndpoint
from p2pdist.wire.messages import SwarmPlan

_HASH_BYTES = 32
log = get_logger("agent.by_swarm")


async def follow_swarm(arrival: Arrival, plan: SwarmPlan) -> None:
    """Returns when every piece is here or the tracker must be asked again; raises when the swarm brings no more."""
    means, digest = arrival.means, arrival.wanted.digest
    layout = PieceLayout(plan.size_bytes, plan.piece_bytes)
    starts = range(0, len(plan.hashes), _HASH_BYTES)
    metainfo = Metainfo(digest, layout, tuple(plan.hashes[start : start + _HASH_BYTES] for start in starts))
    arrival.settle(plan)
    partial = await trio.to_thread.run_sync(arrival.begin, layout)
    if partial.layout != layout:
        raise Unavailable(f"the swarm cuts {digest} into other pieces than we began with")
    arrival.source = "swarm"
    arrival.account.wait_for(Awaited.SWARM)
    clock = Clock(partial.present_bytes, trio.current_time())
    await trio.to_thread.run_sync(means.store.save_metainfo, digest, metainfo)
    count = _counting(arrival)
    async with means.swarm.pull(partial, metainfo, endpoints(plan.neighbours)) as swarming:
        try:
            while not swarming.finished:
                with trio.move_on_after(CHECK_SECONDS):
                    await swarming.wait_finished()
                count(swarming)
                now = trio.current_time()
                clock.look(partial.present_bytes, partial.contiguous_bytes, layout.piece_bytes, False, now)
                connected, idle = means.control.connected, clock.idle_seconds(now)
                if idle >= QUIET_SECONDS:
                    means.control.demand_sign(quiet_seconds(means.relays.fleet_size))
                verdict = judge(Progress(Way.SWARM, connected, idle, fruitless=arrival.fruitless))
                if verdict is Verdict.RESCUE:
                    raise Unavailable("the swarm brings nothing more")
                if verdict is Verdict.ASK_AGAIN:
                    return
        finally:
            count(swarming)


def _counting(arrival: Arrival) -> Callable[[SwarmPull], None]:
    """A function that adds what a pull by swarm has brought so far to what other pulls brought before."""
    counted_bytes, counted = arrival.swarm_bytes, dict(arrival.account.swarm_peers)
    nodes: dict[Endpoint, str] = {}

    def count(swarming: SwarmPull) -> None:
        arrival.swarm_bytes = counted_bytes + swarming.received_bytes
        peers = dict(counted)
        for peer, size_bytes in swarming.peer_bytes.items():
            if peer not in nodes:
                nodes[peer] = arrival.means.relays.node_at(peer) or str(peer)
            peers[nodes[peer]] = peers.get(nodes[peer], 0) + size_bytes
        arrival.account.came_by_swarm(arrival.swarm_bytes, peers)

    return count


def endpoints(peers: Iterable[WireEndpoint]) -> list[Endpoint]:
    """The peers that are named by IP address; the others are left out, so that one bad entry costs one peer."""
    found = []
    for peer in peers:
        try:
            found.append(Endpoint(peer.host, peer.port))
        except InvalidInput as error:
            log.warning("peer_ignored", reason=str(error))
    return found
