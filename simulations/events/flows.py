"""Who got how much from whom, when, and when nothing came. Pure.

Bytes count where they arrive: `received` and `swarmed` of the receiver, `fetched` of the tracker. What a node sent is
in the log too, but a receiver's word says that it arrived, was new and was right.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from p2pdist.telemetry.events import By, Event, Line

ORIGIN = "origin"
UNKNOWN = "not known"
_PARTS = 1000
SOURCES = (By.DEAL.value, By.RELAY.value, By.SWARM.value, By.ORIGIN.value)


@dataclass(frozen=True, slots=True)
class Flow:
    """Bytes that came to a host at a moment, in seconds from the first line on."""

    seconds: float
    sender: str
    by: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Span:
    """A time of a host: a blob that it pulled, or a wait and what for."""

    host: str
    start: float
    end: float
    what: str


@dataclass(slots=True)
class Flows:
    """Everything that a log tells."""

    began_at: float = 0.0
    arrived: defaultdict[str, list[Flow]] = field(default_factory=lambda: defaultdict(list))
    pulls: list[Span] = field(default_factory=list)
    waits: list[Span] = field(default_factory=list)
    redundant: Counter[str] = field(default_factory=Counter)
    taken_over: Counter[str] = field(default_factory=Counter)
    failed: list[Span] = field(default_factory=list)
    unfinished: list[Span] = field(default_factory=list)
    blobs: set[str] = field(default_factory=set)

    @property
    def seconds(self) -> float:
        """From the first line that counts to the end of the last thing that happened."""
        ends = [flow.seconds for flows in self.arrived.values() for flow in flows] + [
            span.end for span in [*self.pulls, *self.waits]
        ]
        return max(ends, default=0.0)

    @property
    def receivers(self) -> list[str]:
        """Who got something, by name; the tracker first, since it got it first."""
        pulled = {span.host for span in [*self.pulls, *self.failed, *self.unfinished]}
        return sorted(pulled | self.arrived.keys(), key=lambda name: (name in pulled, _natural(name)))

    def matrix(self) -> dict[tuple[str, str], int]:
        """Bytes by sender and receiver."""
        found: defaultdict[tuple[str, str], int] = defaultdict(int)
        for receiver, flows in self.arrived.items():
            for flow in flows:
                found[flow.sender, receiver] += flow.bytes
        return dict(found)

    def by_source(self, host: str) -> dict[str, int]:
        """Bytes that a host got, by how they came."""
        found = dict.fromkeys(SOURCES, 0)
        for flow in self.arrived.get(host, ()):
            found[flow.by] += flow.bytes
        return found

    def binned(self, host: str, bins: int) -> dict[str, list[float]]:
        """A host's bytes per second, by how they came, in so many equal parts of the whole time."""
        width = max(self.seconds, 1e-9) / bins
        found = {source: [0.0] * bins for source in SOURCES}
        for flow in self.arrived.get(host, ()):
            found[flow.by][min(bins - 1, int(flow.seconds / width))] += flow.bytes / width
        return found


def flows_of(lines: Sequence[Line], digest: str = "") -> Flows:
    """What the lines tell, of one blob (whose digest begins so) or of all; time begins at the first pull."""
    chosen = [line for line in lines if line.digest and line.digest.startswith(digest)]
    found = Flows(began_at=min((line.time for line in chosen), default=0.0))
    wanted: dict[tuple[str, str], float] = {}
    for line in chosen:
        _take(found, line, line.time - found.began_at, wanted)
    found.unfinished = [Span(host, at, found.seconds, blob) for (host, blob), at in wanted.items()]
    return found


def _take(found: Flows, line: Line, at: float, wanted: dict[tuple[str, str], float]) -> None:
    found.blobs.add(line.digest)
    match line.event:
        case Event.RECEIVED:
            sender = ORIGIN if line.by == By.ORIGIN else line.peer
            found.arrived[line.node].append(Flow(at, sender, line.by, line.bytes))
        case Event.SWARMED:
            found.arrived[line.node].append(Flow(at, line.peer or UNKNOWN, By.SWARM.value, line.bytes))
        case Event.FETCHED:
            found.arrived[line.node] += _spread(line, at)
        case Event.REDUNDANT:
            found.redundant[line.node] += line.bytes
        case Event.TAKEN_OVER:
            found.taken_over[line.peer] += 1
        case Event.STARVED:
            found.waits.append(Span(line.node, max(0.0, at - line.seconds), at, line.reason))
        case Event.WANTED:
            wanted[line.node, line.digest] = at
        case Event.HELD | Event.FAILED:
            pull = Span(line.node, wanted.pop((line.node, line.digest), at - line.seconds), at, line.digest)
            (found.pulls if line.event == Event.HELD else found.failed).append(pull)


def _spread(line: Line, at: float) -> Iterable[Flow]:
    """A fetch is told once, at its end: its bytes are put evenly into the time that it took."""
    for part in range(_PARTS):
        seconds = max(0.0, at - line.seconds * (1 - (part + 1) / _PARTS))
        size_bytes = line.bytes * (part + 1) // _PARTS - line.bytes * part // _PARTS
        yield Flow(seconds, ORIGIN, By.ORIGIN.value, size_bytes)


def _natural(name: str) -> tuple[str, int]:
    """So that host2 stands before host10."""
    stem = name.rstrip("0123456789")
    digits = name[len(stem) :]
    return stem, int(digits) if digits else -1
