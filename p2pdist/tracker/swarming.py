"""Answers to those who get a blob from agents that hold it: its torrent, neighbours, and word to these.

Remembers who is pulling what at the moment, because pullers are neighbours too.
"""

import random
from collections import defaultdict
from collections.abc import Iterable

from p2pdist.core.digest import Digest
from p2pdist.core.metainfo import Metainfo
from p2pdist.oci.rights import Place
from p2pdist.telemetry.metrics import JoinAnswer, TrackerMetrics
from p2pdist.tracker.fleet import Agent, Fleet
from p2pdist.tracker.handout import neighbours
from p2pdist.tracker.wishes import Say
from p2pdist.wire.messages import Expect, Join, SwarmPlan


class Swarming:
    """The swarms of the fleet as the tracker steers them."""

    def __init__(self, fleet: Fleet, metrics: TrackerMetrics, say: Say) -> None:
        self._fleet = fleet
        self._metrics = metrics
        self._say = say
        self._rng = random.Random()
        self._pullers: defaultdict[Digest, dict[str, None]] = defaultdict(dict)
        self._pulls: defaultdict[str, set[Digest]] = defaultdict(set)

    def send(self, agent: Agent, join: Join, metainfo: Metainfo, holders: list[Agent], home: Place) -> None:
        """Tell `agent` how to get the blob of `home` by swarm, and its neighbours to expect it."""
        digest, zone = metainfo.digest, agent.member.zone
        fellows = [
            fellow
            for node in self._pullers[digest]
            if node != agent.node and (fellow := self._fleet.get(node)) is not None and fellow.connected
        ]
        chosen = {peer.node: peer for peer in neighbours(zone, holders, self._rng)}
        chosen |= {peer.node: peer for peer in neighbours(zone, fellows, self._rng)}
        self._pullers[digest][agent.node] = None
        self._pulls[agent.node].add(digest)
        self._metrics.joins.labels(JoinAnswer.SWARM).inc()
        for node in chosen:
            self._say(node, Expect(str(digest), (agent.swarm,)))
        layout = metainfo.layout
        peers = tuple(peer.swarm for peer in chosen.values())
        hashes = b"".join(metainfo.hashes)
        self._say(
            agent.node,
            SwarmPlan(
                join.id,
                str(digest),
                layout.size_bytes,
                layout.piece_bytes,
                hashes,
                peers,
                home.upstream,
                home.repository,
            ),
        )

    def held(self, node: str, digests: Iterable[Digest]) -> None:
        """An agent has these blobs: it doesn't pull them any more."""
        for digest in digests:
            if digest in self._pulls.get(node, ()):
                self._pulls[node].discard(digest)
                self._ended(node, digest)
        if not self._pulls.get(node):
            self._pulls.pop(node, None)

    def disconnected(self, node: str) -> None:
        """An agent's connection broke: what it pulls, nobody knows any more."""
        for digest in self._pulls.pop(node, ()):
            self._ended(node, digest)

    @property
    def pulls(self) -> int:
        """How many pulls by swarm are under way, as far as we were told."""
        return sum(map(len, self._pullers.values()))

    def _ended(self, node: str, digest: Digest) -> None:
        pullers = self._pullers[digest]
        pullers.pop(node, None)
        if not pullers:
            del self._pullers[digest]
