"""What each host wants and has: its client's pulls, layer by layer, and the agent's patience.

An agent looks after a pull every quarter of a second, as `agent/by_relay.py` does, with the agent's own rules
(`agent.sources`): pieces that are overdue are asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from p2pdist.agent.arrival import CHECK_SECONDS
from p2pdist.agent.sources import GAP_PIECES, Clock, Progress, Verdict, Way, judge
from simulations.model.events import Events
from simulations.model.node import Node
from simulations.model.steering import Blob, Steering

SWARM_SHARE_OF_LINK = 1 / 1.07
SWARM_START_SECONDS = 0.1


@dataclass(slots=True)
class Pull:
    """One layer on one host; times are of the model's clock, None for what hasn't happened."""

    blob: Blob
    asked_at: float
    first_at: float | None = None
    done_at: float | None = None
    by_swarm: bool = False
    dealt: bool = False
    rescued: bool = False
    lacking_at: float | None = None
    lacking_tries: int = 0


@dataclass(slots=True)
class Client:
    """A host's client, which pulls so many layers at once."""

    node: Node
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
        self.clients: dict[str, Client] = {}
        self._open: dict[tuple[str, str], Pull] = {}
        self.steering: Steering

    def start(self, node: Node) -> None:
        """The host's client asks for the image."""
        client = self.clients[node.name] = Client(node, self._events.now, waiting=list(self._blobs))
        for _ in range(self._parallel):
            self._next(client)

    def _next(self, client: Client) -> None:
        if client.waiting:
            blob = client.waiting.pop(0)
            pull = Pull(blob, self._events.now)
            client.pulls.append(pull)
            self._open[client.node.name, blob.digest.hex] = pull
            self.steering.join(client.node, blob)
            self._events.after(CHECK_SECONDS, self._check, client, pull, Clock(0, self._events.now))

    def got_piece(self, node: Node, generation: int, index: int) -> None:
        """A new piece is on a host."""
        blob = self.steering.blob_of[generation]
        pull = self._open.get((node.name, blob.digest.hex))
        if pull is None:
            return
        if index == 0:
            pull.first_at = self._events.now
        if node.parts[generation].held.complete:
            self._finish(node, pull)

    def to_swarm(self, node: Node, blob: Blob) -> None:
        """The tracker sends a host to the swarm, which is only estimated: near the host's link (facts.md)."""
        pull = self._open[node.name, blob.digest.hex]
        pull.by_swarm = True
        seconds = blob.layout.size_bytes / (node.down_bytes_per_second * SWARM_SHARE_OF_LINK) + SWARM_START_SECONDS
        pull.first_at = self._events.now + SWARM_START_SECONDS
        self._events.after(seconds, self._finish, node, pull)

    def dealt(self, node: Node, blob: Blob) -> None:
        """The tracker says that every piece was dealt."""
        pull = self._open.get((node.name, blob.digest.hex))
        if pull is not None:
            pull.dealt = True

    def _finish(self, node: Node, pull: Pull) -> None:
        if pull.done_at is not None or node.dead:
            return
        pull.done_at = self._events.now
        del self._open[node.name, pull.blob.digest.hex]
        self.steering.holds(node, pull.blob, in_relay=not pull.by_swarm)
        client = self.clients[node.name]
        self._next(client)
        if not client.waiting and all(each.done_at is not None for each in client.pulls):
            client.done_at = self._events.now
            self._on_done(client)

    def _check(self, client: Client, pull: Pull, clock: Clock) -> None:
        """The agent looks after a pull; see `agent/by_relay.py`."""
        node, live = client.node, pull.blob.live
        if pull.done_at is not None or pull.by_swarm or node.dead:
            return
        self._events.after(CHECK_SECONDS, self._check, client, pull, clock)
        part = node.parts.get(live.number) if live is not None else None
        if part is None or node.frozen:
            return
        now, piece_bytes = self._events.now, part.layout.piece_bytes
        held = part.held
        clock.look(len(held) * piece_bytes, held.first_missing * piece_bytes, piece_bytes, pull.dealt, now)
        ago = now - pull.lacking_at if pull.lacking_at is not None else None
        progress = Progress(
            Way.RELAY, True, clock.idle_seconds(now), clock.overdue_seconds(now), ago, pull.lacking_tries
        )
        verdict = judge(progress)
        if verdict is Verdict.SAY_LACKING:
            pull.lacking_at, pull.lacking_tries = now, pull.lacking_tries + 1
            newest = max(held, default=0)
            missing = [index for index in held.missing() if pull.dealt or index + GAP_PIECES < newest]
            self.steering.lacking(node, pull.blob, missing)
        elif verdict is Verdict.RESCUE and not pull.rescued:
            pull.rescued = True
            seconds = len(held.missing()) * piece_bytes / min(self._origin_bytes_per_second, node.down_bytes_per_second)
            self._events.after(seconds, self._finish, node, pull)
