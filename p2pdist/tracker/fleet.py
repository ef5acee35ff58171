"""Who is in the fleet, who holds what. Pure: the clock is a parameter, nothing is sent from here.

A member keeps its slot while its lease holds, over a broken connection too; a slot that is free again is given to the
next who comes, so that bitmaps over slots stay short.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from p2pdist.core.digest import Digest
from p2pdist.wire.messages import Endpoint, Member


@dataclass(slots=True)
class Agent:
    """A registered agent; `connected` is False between a broken connection and its return or the lease's end."""

    member: Member
    lease_until: float
    connected: bool = True
    holds: set[Digest] = field(default_factory=set)

    @property
    def node(self) -> str:
        """The agent's id."""
        return self.member.node

    @property
    def swarm(self) -> Endpoint:
        """Where its swarm listens."""
        return self.member.swarm


@dataclass(frozen=True, slots=True)
class TableChange:
    """What the others must learn."""

    added: tuple[Member, ...] = ()
    removed: tuple[int, ...] = ()


class Fleet:
    """The table of members and the index of holders."""

    def __init__(self, lease_seconds: float) -> None:
        self.lease_seconds = lease_seconds
        self._agents: dict[str, Agent] = {}
        self._slots: list[str | None] = []
        self._free: list[int] = []
        self._holders: defaultdict[Digest, set[str]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self._agents)

    def get(self, node: str) -> Agent | None:
        """The agent with this id, if its lease holds."""
        return self._agents.get(node)

    def agents(self) -> Iterable[Agent]:
        """All whose lease holds."""
        return self._agents.values()

    def table(self) -> tuple[Member, ...]:
        """The whole table."""
        return tuple(agent.member for agent in self._agents.values())

    def register(
        self, node: str, name: str, zone: str, relay: Endpoint, swarm: Endpoint, now: float
    ) -> tuple[Agent, TableChange]:
        """Grant a lease, or renew the one that this node has; what it holds must be told anew."""
        known = self._agents.get(node)
        slot = known.member.slot if known else self._free_slot()
        member = Member(slot, node, name, zone, relay, swarm)
        if known is not None:
            self.update_holdings(node, removed=list(known.holds))
        agent = self._agents[node] = Agent(member, now + self.lease_seconds)
        self._slots[slot] = node
        return agent, TableChange() if known and known.member == member else TableChange(added=(member,))

    def renew(self, node: str, now: float) -> None:
        """The node gave a sign of life."""
        agent = self._agents.get(node)
        if agent is not None:
            agent.lease_until = now + self.lease_seconds

    def renew_all(self, now: float) -> None:
        """Nobody could be heard until now: everybody gets a whole lease to give a sign of life."""
        for agent in self._agents.values():
            agent.lease_until = now + self.lease_seconds

    def disconnected(self, node: str) -> None:
        """The node's connection broke; its lease goes on."""
        agent = self._agents.get(node)
        if agent is not None:
            agent.connected = False

    def remove(self, node: str) -> TableChange:
        """End a lease."""
        agent = self._agents.pop(node, None)
        if agent is None:
            return TableChange()
        for digest in agent.holds:
            self._unhold(node, digest)
        self._slots[agent.member.slot] = None
        heapq.heappush(self._free, agent.member.slot)
        return TableChange(removed=(agent.member.slot,))

    def expired(self, now: float) -> list[str]:
        """The nodes whose lease has run out."""
        return [node for node, agent in self._agents.items() if agent.lease_until <= now]

    def update_holdings(self, node: str, added: Iterable[Digest] = (), removed: Iterable[Digest] = ()) -> None:
        """A node got or lost blobs."""
        agent = self._agents.get(node)
        if agent is None:
            return
        for digest in removed:
            agent.holds.discard(digest)
            self._unhold(node, digest)
        for digest in added:
            agent.holds.add(digest)
            self._holders[digest].add(node)

    def holders(self, digest: Digest, besides: str = "") -> list[Agent]:
        """The connected agents that hold a blob."""
        nodes = self._holders.get(digest, ())
        return [agent for node in nodes if node != besides and (agent := self._agents[node]).connected]

    def slots(self, nodes: Iterable[str]) -> list[int]:
        """The slots of those of `nodes` whose lease holds, ascending."""
        return sorted(agent.member.slot for node in nodes if (agent := self._agents.get(node)) is not None)

    def in_order(self, nodes: Iterable[str]) -> list[str]:
        """Those of `nodes` whose lease holds, by slot."""
        return [node for slot in self.slots(nodes) if (node := self._slots[slot]) is not None]

    def _unhold(self, node: str, digest: Digest) -> None:
        holders = self._holders.get(digest)
        if holders is not None:
            holders.discard(node)
            if not holders:
                del self._holders[digest]

    def _free_slot(self) -> int:
        if self._free:
            return heapq.heappop(self._free)
        self._slots.append(None)
        return len(self._slots) - 1
