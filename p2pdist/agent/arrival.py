"""A blob on its way to this host, as those who bring it and those who wait for it share it.

Owns the partial blob, what came from where, and the event that wakes whoever waits. Decides nothing: `pull.py` does,
with `by_relay.py`, `by_swarm.py` and `rescue.py` for the ways.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import trio

from p2pdist.agent.account import Accounts
from p2pdist.agent.control import ControlLink
from p2pdist.agent.relays import Membership, Relays
from p2pdist.core.digest import Digest
from p2pdist.core.errors import P2PDistError
from p2pdist.core.pieces import PieceLayout
from p2pdist.oci.bearer import BearerToken
from p2pdist.oci.origin import OriginClient
from p2pdist.oci.rights import Asker, Place
from p2pdist.pki.vouch import Signer
from p2pdist.store import BlobStore, PartialBlob
from p2pdist.swarm import Swarm
from p2pdist.telemetry.metrics import AgentMetrics
from p2pdist.wire.messages import RelayPlan, SwarmPlan

CHECK_SECONDS = 0.25
READER_SECONDS = 0.25
"""How long a reader waits for a whole run when a part of it is here."""
_RUNS_OF_A_BLOB = 64
_MIN_RUN_BYTES = 64 * 1024
_MAX_RUN_BYTES = 4 * 1024 * 1024


def run_bytes(size_bytes: int) -> int:
    """How much should have come of a blob before its readers are woken for it.

    Waking a reader costs a process whose caches others use about 250 us, as much as a piece of 32 KiB.
    """
    return min(max(size_bytes // _RUNS_OF_A_BLOB, _MIN_RUN_BYTES), _MAX_RUN_BYTES)


class _Run(NamedTuple):
    """The bytes that a reader waits for: those from `start` to `end`."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which blob, and where a manifest says that it is; `size_bytes` is 0 when no manifest was seen.

    `token` is shown to those who give the blob; None where nobody needs it.
    """

    upstream: str
    repository: str
    digest: Digest
    size_bytes: int = 0
    token: BearerToken | None = None

    @property
    def asker(self) -> Asker:
        """On whose behalf it is wanted."""
        return Asker(Place(self.upstream, self.repository), self.token)


@dataclass(frozen=True, slots=True)
class Means:
    """What a pull works with; the `signer` vouches for what this agent fetches in a rescue."""

    store: BlobStore
    control: ControlLink
    relays: Relays
    swarm: Swarm
    metrics: AgentMetrics
    origin: Callable[[str], OriginClient | None]
    signer: Signer
    accounts: Accounts = field(default_factory=Accounts)

    def origin_for(self, asker: Asker) -> OriginClient | None:
        """A client of an upstream with the rights of `asker` alone; None when none is known."""
        client = self.origin(asker.place.upstream)
        return client.on_behalf_of(asker.token) if client is not None and asker.token is not None else client


@dataclass(frozen=True, slots=True)
class Came:
    """Payload bytes of one pull by where they came from."""

    relayed_bytes: int
    dealt_bytes: int
    swarm_bytes: int
    origin_bytes: int


class Arrival:
    """One blob on its way; lives on the trio thread, except `begin` and `wake_from_a_thread`."""

    def __init__(self, wanted: Wanted, means: Means) -> None:
        self.wanted = wanted
        self.means = means
        self.account = means.accounts.begin(wanted.digest, wanted.upstream, wanted.repository, wanted.size_bytes)
        self.partial: PartialBlob | None = None
        self.error: P2PDistError | None = None
        self.private = False
        self.home = wanted.asker.place
        """Where its bytes come from, which says who else may have them."""
        self.kept = False
        """Whether somebody wants the blob on this host; else it is only read from while it comes."""
        self.readers = 0
        self.source = "waiting"
        self.fruitless = 0
        self.memberships: list[Membership] = []
        self.swarm_bytes = 0
        self.origin_bytes = 0
        self.started_at = trio.current_time()
        self.progress = trio.Event()
        self.news = trio.Event()
        self.ended = trio.Event()
        self._runs: tuple[_Run, ...] = ()
        self._token = trio.lowlevel.current_trio_token()

    # For those who wait.

    @property
    def done(self) -> bool:
        """Whether the pull is over; it has failed if `error` says why."""
        return self.ended.is_set()

    @property
    def received_bytes(self) -> int:
        """How much is here."""
        return self.partial.present_bytes if self.partial is not None else 0

    @property
    def complete(self) -> bool:
        """Whether every piece is here."""
        return self.partial is not None and self.partial.complete

    @property
    def came(self) -> Came:
        """Where the bytes came from, so far."""
        counts = [membership.ticket.counts for membership in self.memberships]
        return Came(
            sum(each.relayed_bytes for each in counts),
            sum(each.dealt_bytes for each in counts),
            self.swarm_bytes,
            self.origin_bytes,
        )

    @contextmanager
    def reading(self, start: int, end: int) -> Iterator[None]:
        """Inside, `progress` is set once the bytes from `start` to `end` are all here.

        Whoever waits for it looks first what is there, inside.
        """
        run = _Run(start, end)
        self._runs = (*self._runs, run)
        try:
            yield
        finally:
            position = self._runs.index(run)
            self._runs = self._runs[:position] + self._runs[position + 1 :]

    # For those who bring it.

    def settle(self, plan: RelayPlan | SwarmPlan) -> None:
        """The tracker says where the bytes come from."""
        if plan.upstream:
            self.home = Place(plan.upstream, plan.repository)

    def wake(self) -> None:
        """Something has changed, more than that a piece came."""
        self.news.set()
        self.news = trio.Event()
        self._wake_readers()

    def _wake_readers(self) -> None:
        self.progress.set()
        self.progress = trio.Event()

    def _piece_came(self) -> None:
        """In whichever thread wrote it, a thousand times a second: wake the loop for what is read, and at the end.

        A reader says what it waits for before it looks at what is there, and a piece is there before this looks for
        readers.
        """
        partial = self.partial
        if partial is None or not (partial.committed or partial.discarded):
            self.account.piece_came()
        if partial is None or partial.complete or partial.discarded:
            self.wake_from_a_thread()
            return
        for start, end in self._runs:
            if partial.available_from(start) >= end:
                with suppress(trio.RunFinishedError):
                    self._token.run_sync_soon(self._wake_readers, idempotent=True)
                return

    def wake_from_a_thread(self) -> None:
        """`wake`, from any thread, at any time."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self.wake, idempotent=True)

    def begin(self, layout: PieceLayout) -> PartialBlob:
        """The partial blob, made at the first way that knows the size; in a worker thread.

        Raises `StoreFull` and what else `BlobStore.begin` raises.
        """
        if self.partial is None:
            home = self.home
            partial = self.means.store.begin(
                self.wanted.digest, layout, private=self.private, upstream=home.upstream, repository=home.repository
            )
            partial.on_progress(self._piece_came)
            self.partial = partial
            self.account.size_bytes = layout.size_bytes
            self.wake_from_a_thread()
        return self.partial

    async def wait_a_moment(self) -> None:
        """Until the last piece comes or the tracker has news, but not for ever."""
        with trio.move_on_after(CHECK_SECONDS):
            await self.news.wait()
