"""A fleet of engines on an adversarial network: links are FIFO, but which link moves next is drawn by a seed."""

import random
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field

from p2pdist.core.pieces import PieceSet
from p2pdist.relay.engine import Ack, Action, Credit, Engine, Offer, Push, Want
from p2pdist.relay.spans import Ring

DEALER = "dealer"
GENERATION = 7


@dataclass
class Fleet:
    """Nodes, the messages between them, and what each received; deaths are seen by the others when told."""

    pieces: int
    members: list[str]
    seed: int = 0
    fan: int = 4
    piece_bytes: int = 1 << 20
    leaves: tuple[str, ...] = ()
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.engines: dict[str, Engine] = {}
        self.held: dict[str, PieceSet] = {}
        self.links: defaultdict[tuple[str, str], deque[Action]] = defaultdict(deque)
        self.received: Counter[tuple[str, int]] = Counter()
        self.uploads: Counter[str] = Counter()
        self.silent: set[str] = set()
        self.cut: set[str] = set()
        self.ring = Ring(1, self.members, DEALER, self.leaves)
        for node in [DEALER, *self.members, *self.leaves]:
            self.add(node)
            self.engines[node].add_ring(GENERATION, self.ring)
        self.engines[DEALER].start_dealing(GENERATION, self.ring)

    def add(self, node: str) -> None:
        self.engines[node] = Engine(node, random.Random(self.rng.random()))
        self.held[node] = PieceSet(self.pieces, range(self.pieces) if node == DEALER else ())
        self.engines[node].open(GENERATION, self.held[node], self.piece_bytes, self.fan)

    def collect(self) -> None:
        for node, engine in self.engines.items():
            for action in engine.take_actions():
                if action.to not in self.cut and node not in self.cut:
                    self.links[node, action.to].append(action)

    def step(self) -> bool:
        """Deliver one message; False when nothing can move."""
        self.collect()
        movable = sorted(link for link, queue in self.links.items() if queue and not {*link} & self.silent)
        if not movable:
            return False
        sender, receiver = self.rng.choice(movable)
        self.deliver(sender, receiver, self.links[sender, receiver].popleft())
        return True

    def deliver(self, sender: str, receiver: str, action: Action) -> None:
        engine = self.engines[receiver]
        match action:
            case Push():
                self.engines[sender].written(action.tag)
                engine.admit(sender, GENERATION, action.index, action.epoch, action.root, action.span, action.offered)
                self.received[receiver, action.index] += 1
                self.uploads[sender] += 1
                self.held[receiver].add(action.index)
                engine.pushed(sender, action)
            case Offer():
                engine.offered(sender, action)
            case Want():
                engine.wanted(sender, action.tag)
            case Ack():
                engine.acked(sender, action.tag)
            case Credit():
                engine.credited(sender, action.tag)

    def run(self, steps: int = 1_000_000) -> None:
        while steps and self.step():
            steps -= 1
        assert steps, "the fleet doesn't come to rest"

    def die(self, node: str) -> None:
        """The node is gone: what it had under way is lost, in both directions."""
        self.collect()
        self.cut.add(node)
        self.silent.add(node)
        for link in self.links:
            if node in link:
                self.links[link].clear()

    def notice(self, node: str) -> None:
        for other, engine in self.engines.items():
            if other != node:
                engine.lost(node)

    def thaw(self, node: str) -> None:
        self.silent.discard(node)
        for other, engine in self.engines.items():
            if other != node:
                engine.back(node)

    def lacking(self, node: str) -> list[int]:
        return self.held[node].missing()
