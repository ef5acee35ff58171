"""The account of one pull: where its bytes came from, how long it waited and for what. The accounts of the last pulls.

A pull waits all the time until its first byte and after its last one, and whenever nothing comes for longer than
GAP_SECONDS. It says what it waits for when that changes (`wait_for`), and every new piece says that it came
(`piece_came`, from whichever thread wrote it): one look at the clock and one comparison. What is told here goes to the
event log too, if there is one. Knows nothing of how blobs are got; times are seconds of a monotonic clock.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from p2pdist.core.digest import Digest
from p2pdist.relay.transfer import Counts
from p2pdist.telemetry.events import By, Event, EventLog

GAP_SECONDS = 0.5
KEPT_PULLS = 256
KEPT_WAITS = 64
KEPT_STEPS = 64


class Awaited(StrEnum):
    """What a pull can wait for, as it is told to people."""

    CONNECTION = "the connection to the tracker"
    ANSWER = "the tracker's answer"
    RELAY = "pieces by relay"
    SWARM = "pieces by swarm"
    ORIGIN = "bytes from the origin"
    DIGEST = "the check of its digest"
    STORE = "its entry in the store"


class State(StrEnum):
    """How a pull stands."""

    RUNNING = "running"
    HELD = "held"
    FAILED = "failed"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class Interval:
    """Nothing came from `since`, for so long."""

    since: float
    seconds: float
    what: Awaited


@dataclass(slots=True)
class Account:
    """One pull; its methods are called on the trio thread, except `piece_came`."""

    digest: Digest
    upstream: str
    repository: str
    size_bytes: int = 0
    events: EventLog | None = None
    clock: Callable[[], float] = time.monotonic
    state: State = State.RUNNING
    error: str = ""
    private: bool = False
    wanted_at: float = field(default_factory=time.time)
    began: float = 0.0
    ended: float | None = None
    first_at: float | None = None
    last_at: float = float("-inf")
    awaited: Awaited = Awaited.ANSWER
    waits: list[Interval] = field(default_factory=list)
    waits_left_out: int = 0
    steps: list[tuple[float, str]] = field(default_factory=list)
    steps_left_out: int = 0
    overdue_pieces: int = 0
    relays: list[Counts] = field(default_factory=list)
    swarm_bytes: int = 0
    swarm_peers: dict[str, int] = field(default_factory=dict)
    origin_bytes: int = 0
    _since: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.began = self._since = self.clock()
        self._note(Event.WANTED, bytes=self.size_bytes, name=f"{self.upstream}/{self.repository}")

    # What happens to the pull.

    def piece_came(self) -> None:
        """A piece is here that wasn't; in any thread, for every piece."""
        now = self.clock()
        if now - self.last_at > GAP_SECONDS:
            self._move_after_a_gap(now)
        self.last_at = now

    def _move_after_a_gap(self, now: float) -> None:
        with self._lock:
            first = self.first_at is None
            if not first and now - self.last_at <= GAP_SECONDS:
                return
            self._close_wait(now)
            self.last_at = now
            if first:
                self.first_at = now

    def wait_for(self, what: Awaited) -> None:
        """From now on something else is waited for."""
        if what is self.awaited:
            return
        with self._lock:
            now = self.clock()
            self._close_wait(now)
            self.awaited, self._since = what, now

    def answered(self, how: str, generation: int = 0, epoch: int = 0) -> None:
        """The tracker said how the blob can be had: "relay", "swarm", or why not."""
        self._step(f"the tracker answered: {how}")
        seconds = self.clock() - self._since
        self._note(Event.PLANNED, by=how, generation=generation, epoch=epoch, seconds=seconds)

    def asked_for(self, pieces: int, generation: int) -> None:
        """Pieces are overdue, and the tracker was asked for them."""
        self.overdue_pieces += pieces
        self._step(f"asked for {pieces} overdue pieces")
        self._note(Event.LACKING, pieces=pieces, generation=generation)

    def rescued(self, reason: str) -> None:
        """What is missing is fetched from the origin from now on."""
        self._step(f"went to the origin: {reason}")
        self._note(Event.RESCUED, reason=reason)

    def came_from_origin(self, size_bytes: int) -> None:
        """Bytes came from the origin; in a worker thread."""
        self.origin_bytes += size_bytes
        self._note(Event.RECEIVED, by=By.ORIGIN, bytes=size_bytes)

    def came_by_swarm(self, total_bytes: int, peers: Mapping[str, int]) -> None:
        """So much has come by swarm in all, and so much of it from these peers (a node's id, else an address).

        libtorrent counts what a peer sent, also when it came twice; in all it isn't more than the blob has.
        """
        room = self.size_bytes - sum(self.swarm_peers.values())
        for peer, size_bytes in peers.items():
            known = self.swarm_peers.get(peer, 0)
            more = min(size_bytes - known, room)
            if more > 0:
                self.swarm_peers[peer] = known + more
                room -= more
                self._note(Event.SWARMED, peer=peer, bytes=more)
        self.swarm_bytes = total_bytes

    def end(self, state: State, error: str = "") -> None:
        """The pull is over."""
        with self._lock:
            self.ended = self.clock()
            self._close_wait(self.ended)
            self.state, self.error = state, error
        if (rest := self.swarm_bytes - sum(self.swarm_peers.values())) > 0:
            self._note(Event.SWARMED, bytes=rest)
        self._note(
            Event.HELD if state is State.HELD else Event.FAILED,
            bytes=self.size_bytes,
            seconds=self.ended - self.began,
            reason=error,
        )

    # What can be told of it.

    def waits_until(self, now: float) -> list[Interval]:
        """The waits that have ended, and the one that goes on."""
        with self._lock:
            going_on = self._wait_at(now) if self.ended is None else None
            return [*self.waits, *([going_on] if going_on is not None else [])]

    def received(self, tracker: str) -> dict[tuple[By, str], int]:
        """Bytes by where they came from: how, and the node's id, or a swarm peer's address, or "": not told apart."""
        found: dict[tuple[By, str], int] = {}
        for counts in self.relays:
            for node, size_bytes in dict(counts.received_from).items():
                key = (By.DEAL if node == tracker else By.RELAY, node)
                found[key] = found.get(key, 0) + size_bytes
        found |= {(By.SWARM, peer): size_bytes for peer, size_bytes in self._of_swarm().items()}
        if self.origin_bytes:
            found[By.ORIGIN, ""] = self.origin_bytes
        return found

    def _of_swarm(self) -> dict[str, int]:
        """By peer; what can't be said of one for sure goes to nobody, unless there was only one.

        Peers are ahead of what has come in all by pieces that aren't whole yet.
        """
        peers, total = self.swarm_peers, self.swarm_bytes
        counted = sum(peers.values())
        if not total:
            return {}
        if len(peers) == 1:
            return dict.fromkeys(peers, total)
        if counted > total:
            return {peer: size_bytes * total // counted for peer, size_bytes in peers.items()}
        return peers | ({"": total - counted} if counted < total else {})

    # Inside.

    def _wait_at(self, now: float) -> Interval | None:
        """The wait that would end now, if it counts as one."""
        since = max(self._since, self.last_at)
        ending = self.awaited in (Awaited.DIGEST, Awaited.STORE)
        counts = ending or self.first_at is None or now - since > GAP_SECONDS
        return Interval(since, now - since, self.awaited) if counts and now > since else None

    def _close_wait(self, now: float) -> None:
        wait = self._wait_at(now)
        if wait is None:
            return
        if len(self.waits) < KEPT_WAITS:
            self.waits.append(wait)
        else:
            self.waits_left_out += 1
        if wait.seconds > GAP_SECONDS:
            self._note(Event.STARVED, seconds=wait.seconds, reason=wait.what)

    def _step(self, what: str) -> None:
        if len(self.steps) < KEPT_STEPS:
            self.steps.append((self.clock(), what))
        else:
            self.steps_left_out += 1

    def _note(
        self,
        event: Event,
        *,
        peer: str = "",
        by: str = "",
        pieces: int = 0,
        bytes: int = 0,
        generation: int = 0,
        epoch: int = 0,
        seconds: float = 0,
        name: str = "",
        reason: str = "",
    ) -> None:
        if self.events is not None:
            self.events.note(
                event,
                self.digest,
                peer=peer,
                by=by,
                pieces=pieces,
                bytes=bytes,
                generation=generation,
                epoch=epoch,
                seconds=seconds,
                name=name,
                reason=reason,
            )


class Accounts:
    """The accounts of the last pulls, by digest; of one blob the newest."""

    def __init__(self, events: EventLog | None = None) -> None:
        self._events = events
        self._kept: OrderedDict[Digest, Account] = OrderedDict()

    def begin(self, digest: Digest, upstream: str, repository: str, size_bytes: int) -> Account:
        """Open the account of a new pull; the oldest one that has ended goes for it."""
        account = Account(digest, upstream, repository, size_bytes, self._events)
        self._kept.pop(digest, None)
        self._kept[digest] = account
        if len(self._kept) > KEPT_PULLS:
            over = next((old for old, kept in self._kept.items() if kept.ended is not None), None)
            if over is not None:
                del self._kept[over]
        return account

    def get(self, digest: Digest) -> Account | None:
        """The account of the newest pull of a blob."""
        return self._kept.get(digest)

    def __iter__(self) -> Iterator[Digest]:
        return iter(self._kept)
