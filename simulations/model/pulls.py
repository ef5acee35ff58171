"""What each host wants and has: its client's pulls, layer by layer, and the agent's patience.

One way after the other, as `agent/pull.py` does, and a look at each every quarter of a second, as `agent/by_relay.py`
does, with the agent's own rules (`agent.sources`). Swarms and rescues from the origin aren't modelled but estimated:
the one takes 1.07 x what the host's link needs, and a moment to begin (facts.md), the other what both links need.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from p2pdist.agent.arrival import CHECK_SECONDS
from p2pdist.agent.relays import Membership
from p2pdist.agent.sources import FRUITLESS_TRIES, Clock, Progress, Verdict, Way, judge, overdue
from p2pdist.wire.messages import HeldBlob, Inventory, Join, Lacking, Left, RelayPlan, SwarmPlan
from simulations.model.agent import Agent
from simulations.model.blobs import Blob, HeldFile
from simulations.model.events import Events

UPSTREAM, REPOSITORY = "registry.example", "library/app"
SWARM_SHARE_OF_LINK = 1 / 1.07
SWARM_START_SECONDS = 0.1


@dataclass(slots=True)
class Pull:
    """One layer on one host; times are of the model's clock, None for what hasn't happened."""

    blob: Blob
    file: HeldFile
    asked_at: float
    first_at: float | None = None
    done_at: float | None = None
    by_swarm: bool = False
    rescued: bool = False
    lacking_at: float | None = None
    lacking_tries: int = 0
    ways: int = 0
    fruitless: int = 0
    had_pieces: int = 0
    clock: Clock | None = None
    membership: Membership | None = None
    memberships: list[Membership] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Client:
    """A host's client, which pulls so many layers at once."""

    agent: Agent
    asked_at: float | None = None
    done_at: float | None = None
    pulls: list[Pull] = field(default_factory=list)
    waiting: list[Blob] = field(default_factory=list)


class Pulls:
    """The clients of all hosts. `on_done(client)` is told when a host has the whole image."""

    def __init__(
        self,
        events: Events,
        blobs: Sequence[Blob],
        parallel: int,
        origin_bytes_per_second: float,
        on_done: Callable[[Client], None],
    ) -> None:
        self._events = events
        self._blobs = list(blobs)
        self._parallel = parallel
        self._origin_bytes_per_second = origin_bytes_per_second
        self._on_done = on_done
        self._ids = count(1)
        self.clients: dict[str, Client] = {}

    def start(self, agent: Agent) -> None:
        """The host's client asks for the image."""
        client = self.clients[agent.name] = Client(agent, self._events.now, waiting=list(self._blobs))
        agent.on_plan = lambda plan: self._planned(client, plan)
        for _ in range(self._parallel):
            self._next(client)

    def _next(self, client: Client) -> None:
        if client.waiting:
            blob = client.waiting.pop(0)
            file = HeldFile(blob, on_piece=lambda index: self._got_piece(client, pull, index))
            client.agent.files[str(blob.digest)] = file
            pull = Pull(blob, file, self._events.now)
            client.pulls.append(pull)
            self._ask(client, pull)

    # The ways.

    def _ask(self, client: Client, pull: Pull) -> None:
        """Join, and follow what the tracker says."""
        pull.ways += 1
        pull.membership = None
        pull.had_pieces = len(pull.file.pieces)
        layout = pull.blob.layout
        held = pull.file.pieces.to_bytes() if pull.had_pieces else b""
        piece_bytes = layout.piece_bytes if pull.had_pieces else 0
        client.agent.say(
            Join(
                next(self._ids),
                UPSTREAM,
                REPOSITORY,
                str(pull.blob.digest),
                layout.size_bytes,
                piece_bytes,
                held,
                pull.fruitless,
            )
        )

    def _planned(self, client: Client, plan: RelayPlan | SwarmPlan) -> None:
        pull = next(pull for pull in client.pulls if str(pull.blob.digest) == plan.digest)
        if pull.done_at is not None:
            return
        if isinstance(plan, SwarmPlan):
            self._follow_swarm(client, pull)
            return
        way = pull.ways
        relays = client.agent.relays
        membership = relays.enter(plan, client.agent.partial(plan.digest), lambda: self._woken(client, pull, way))
        if membership not in pull.memberships:
            pull.memberships.append(membership)
        pull.membership = membership
        pull.lacking_at, pull.lacking_tries = None, 0
        pull.clock = Clock(self._present_bytes(pull), self._events.now)
        self._woken(client, pull, way)
        self._events.after(CHECK_SECONDS, self._look, client, pull, way)

    def _woken(self, client: Client, pull: Pull, way: int) -> None:
        """The tracker said something of the relay; at its end the next way begins."""
        membership = pull.membership
        if pull.ways == way and pull.done_at is None and membership is not None and membership.ended is not None:
            self._next_way(client, pull)

    def _next_way(self, client: Client, pull: Pull) -> None:
        pull.fruitless = pull.fruitless + 1 if len(pull.file.pieces) == pull.had_pieces else 0
        if pull.fruitless >= FRUITLESS_TRIES:
            self._rescue(client, pull)
        else:
            self._ask(client, pull)

    def _look(self, client: Client, pull: Pull, way: int) -> None:
        """The agent looks after a relay; see `agent/by_relay.py`."""
        membership, clock = pull.membership, pull.clock
        if pull.done_at is not None or pull.ways != way or client.agent.node.dead:
            return
        assert membership is not None
        assert clock is not None
        self._events.after(CHECK_SECONDS, self._look, client, pull, way)
        if client.agent.node.frozen:
            return
        now, pieces, piece_bytes = self._events.now, pull.file.pieces, pull.blob.layout.piece_bytes
        contiguous_bytes = pieces.first_missing * piece_bytes
        clock.look(self._present_bytes(pull), contiguous_bytes, piece_bytes, membership.dealt, now)
        ago = now - pull.lacking_at if pull.lacking_at is not None else None
        verdict = judge(
            Progress(
                Way.RELAY,
                True,
                clock.idle_seconds(now),
                clock.overdue_seconds(now),
                ago,
                pull.lacking_tries,
                piece_seconds=clock.piece_seconds(piece_bytes),
            )
        )
        if verdict is Verdict.SAY_LACKING:
            pull.lacking_at, pull.lacking_tries = now, pull.lacking_tries + 1
            client.agent.say(Lacking(membership.generation, overdue(pieces, membership.dealt).to_bytes()))
        elif verdict is Verdict.RESCUE:
            self._rescue(client, pull)

    def _follow_swarm(self, client: Client, pull: Pull) -> None:
        pull.by_swarm = True
        pull.first_at = pull.first_at or self._events.now + SWARM_START_SECONDS
        down = client.agent.node.down_bytes_per_second * SWARM_SHARE_OF_LINK
        self._estimated(client, pull, SWARM_START_SECONDS + self._missing_bytes(pull) / down)

    def _rescue(self, client: Client, pull: Pull) -> None:
        pull.rescued = True
        rate = min(self._origin_bytes_per_second, client.agent.node.down_bytes_per_second)
        self._estimated(client, pull, self._missing_bytes(pull) / rate)

    def _estimated(self, client: Client, pull: Pull, seconds: float) -> None:
        pull.ways += 1
        self._events.after(seconds, self._all_here, client, pull)

    def _all_here(self, client: Client, pull: Pull) -> None:
        if not client.agent.node.dead:
            for index in pull.file.pieces.missing():
                pull.file.write_piece(index, b"")

    # The bytes.

    def _present_bytes(self, pull: Pull) -> int:
        return len(pull.file.pieces) * pull.blob.layout.piece_bytes

    def _missing_bytes(self, pull: Pull) -> int:
        return (pull.blob.layout.count - len(pull.file.pieces)) * pull.blob.layout.piece_bytes

    def _got_piece(self, client: Client, pull: Pull, index: int) -> None:
        if index == 0 and pull.first_at is None:
            pull.first_at = self._events.now
        if pull.file.pieces.complete:
            self._finish(client, pull)

    def _finish(self, client: Client, pull: Pull) -> None:
        pull.done_at = self._events.now
        agent, blob = client.agent, pull.blob
        agent.say(Inventory((HeldBlob(str(blob.digest), blob.layout.size_bytes),)))
        for membership in pull.memberships:
            agent.say(Left(membership.generation))
        self._next(client)
        if not client.waiting and all(each.done_at is not None for each in client.pulls):
            client.done_at = self._events.now
            self._on_done(client)
