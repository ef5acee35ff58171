"""An agent of the model: the real `agent.relays.Relays` between the modelled relay and the modelled control connection.

Here is what `agent/service.py` and `supplying.py` do around it. Every agent's table of members is the tracker's: nobody
comes to know it later than the epochs that need it, so one ring is made for all agents where each makes its own.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import cast

from p2pdist.agent.relays import Relays
from p2pdist.relay.node import RelayNode
from p2pdist.relay.notices import Notice
from p2pdist.relay.spans import Ring
from p2pdist.store import PartialBlob
from p2pdist.telemetry.metrics import AgentMetrics
from p2pdist.wire.messages import (
    Beat,
    Deal,
    Dealt,
    Ended,
    Epoch,
    Fill,
    Message,
    Probe,
    RelayPlan,
    RingInfo,
    Supply,
    SwarmPlan,
    Table,
    Welcome,
    slots_of,
)
from simulations.model.blobs import Blob, HeldFile
from simulations.model.events import Events
from simulations.model.node import Node

BEATS_A_LEASE = 3
_KEPT_RINGS = 256


class Rings:
    """Rings as the agents read them from messages; `node_at` says who has a slot."""

    def __init__(self, node_at: Callable[[int], str]) -> None:
        self._node_at = node_at
        self._rings: OrderedDict[RingInfo, Ring] = OrderedDict()

    def get(self, info: RingInfo) -> Ring:
        """The ring of a message."""
        ring = self._rings.get(info)
        if ring is None:
            members, leaves = ([self._node_at(slot) for slot in slots_of(bits)] for bits in (info.members, info.leaves))
            ring = self._rings[info] = Ring(info.epoch, members, info.dealer, leaves)
            if len(self._rings) > _KEPT_RINGS:
                self._rings.popitem(last=False)
        return ring


class _SharedRelays(Relays):
    """Relays whose rings are made once for all agents."""

    rings: Rings

    def _ring(self, info: RingInfo) -> Ring:
        return self.rings.get(info)


class Agent:
    """One host's agent. `on_plan(plan)` is told of the answer to a join, after `Relays` was."""

    def __init__(
        self,
        node: Node,
        events: Events,
        metrics: AgentMetrics,
        rings: Rings,
        tell_tracker: Callable[[str, Message], None],
    ) -> None:
        self.name = node.name
        self.node = node
        self._events = events
        self._tell_tracker = tell_tracker
        self.relays = _SharedRelays(node.name, cast(RelayNode, node), metrics, self.say, _nothing)
        self.relays.rings = rings
        self.files: dict[str, HeldFile] = {}
        self.on_plan: Callable[[RelayPlan | SwarmPlan], None] = _no_plan
        self._unread: list[Message] = []
        node.on_notice = self._notice
        node.on_resume = self._read_on

    @property
    def runs(self) -> bool:
        """Whether the process does anything."""
        return not self.node.dead and not self.node.frozen

    def hold(self, blob: Blob) -> None:
        """Have a blob from before."""
        self.files[str(blob.digest)] = HeldFile(blob, whole=True)

    def beat(self, seconds: float) -> None:
        """Give a sign of life every so often."""
        if not self.node.dead:
            self._events.after(seconds, self.beat, seconds)
            if not self.node.frozen:
                self.say(Beat())

    def say(self, message: Message) -> None:
        """Tell the tracker."""
        self._events.after(self.node.latency_seconds, self._tell_tracker, self.name, message)

    def hear(self, message: Message) -> None:
        """The tracker says something; see `agent.service.Service.message`."""
        if self.node.dead:
            return
        if self.node.frozen:
            self._unread.append(message)
            return
        match message:
            case Epoch() | Fill() | Deal() | Dealt() | Ended():
                self.relays.message(message)
            case Supply():
                self.relays.plan_supply(message)
                self._events.after(self.node.latency_seconds, self._supply, message)
            case RelayPlan():
                self.relays.plan(message)
                self._events.after(self.node.latency_seconds, self._planned, message)
            case SwarmPlan():
                self.on_plan(message)
            case Probe():
                self.say(Beat())
            case Table() | Welcome() | Beat():
                pass
            case _:
                raise AssertionError(f"the model's tracker has no business to say {type(message).__name__}")

    def _planned(self, plan: RelayPlan) -> None:
        if not self.node.dead:
            self.on_plan(plan)

    def _supply(self, supply: Supply) -> None:
        """Deal what is here; see `agent.supplying`."""
        if not self.node.dead:
            file = self.files[supply.digest]
            proofs = [(index, b"", b"") for index in file.pieces]
            self.relays.supply(supply, file, proofs, _nothing)

    def partial(self, digest: str) -> PartialBlob:
        """What is here of a blob, as `Relays.enter` takes it."""
        return cast(PartialBlob, self.files[digest])

    def _notice(self, notice: Notice) -> None:
        if self.runs:
            self.relays.notice(notice)

    def _read_on(self) -> None:
        unread, self._unread = self._unread, []
        for message in unread:
            self.hear(message)


def _nothing() -> None:
    """Nobody waits for it."""


def _no_plan(_plan: RelayPlan | SwarmPlan) -> None:
    """Nobody asked."""
