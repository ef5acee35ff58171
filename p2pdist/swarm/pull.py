"""One blob while libtorrent downloads what is missing of it into the store's file.

Pieces are marked in the store when their bytes can be read from the file. The next missing pieces, a window of them,
are asked for before all others, so that the shim can send while the rest arrives; within the window and behind it the
order is libtorrent's: strictly in order, all pullers would want the same piece at the same time (4.8-6.8 x bound
against 1.08-1.17, facts.md).
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

import libtorrent as lt
import trio

from p2pdist.core.digest import Digest
from p2pdist.core.errors import P2PDistError
from p2pdist.core.metainfo import Metainfo
from p2pdist.core.pieces import PieceLayout, PieceSet
from p2pdist.swarm.endpoint import Endpoint
from p2pdist.swarm.events import (
    PeerConnected,
    PieceFinished,
    TorrentChecking,
    TorrentEvent,
    TorrentFailed,
    TorrentFinished,
    TorrentFlushed,
)
from p2pdist.swarm.stats import TorrentStats
from p2pdist.swarm.torrent import Torrent
from p2pdist.swarm.tuning import connections_for

_URGENT = 7
_NORMAL = 4
_MEASURE_SECONDS = 0.5


class Partial(Protocol):
    """What a pull needs of the store's partial blob."""

    @property
    def digest(self) -> Digest: ...

    @property
    def layout(self) -> PieceLayout: ...

    @property
    def path(self) -> Path: ...

    def has(self, index: int) -> bool: ...

    def mark_piece(self, index: int) -> bool: ...


def _received_from(handle: lt.torrent_handle) -> dict[Endpoint, int]:
    """In a worker thread, because it waits for libtorrent's: payload by the peers that are connected now."""
    try:
        peers = handle.get_peer_info()
    except RuntimeError:
        return {}  # the torrent has just been removed
    return {Endpoint(*peer.ip): peer.total_download for peer in peers if peer.total_download}


class PeerCounts:
    """Bytes by peer over all its connections; a connection's own count begins at zero."""

    def __init__(self) -> None:
        self.totals: dict[Endpoint, int] = {}
        self._now: dict[Endpoint, int] = {}

    def take(self, received: Mapping[Endpoint, int]) -> None:
        """The counts of the connections that stand."""
        for peer, size_bytes in received.items():
            before = self._now.get(peer, 0)
            more = size_bytes - before if size_bytes >= before else size_bytes
            self.totals[peer] = self.totals.get(peer, 0) + more
            self._now[peer] = size_bytes


class Pull:
    """A download under way; made by `Swarm.pull`."""

    def __init__(
        self,
        partial: Partial,
        torrent: Torrent,
        *,
        window_pieces: int,
        marks_at_once: bool,
        measure: Callable[[], Awaitable[None]],
    ) -> None:
        self.digest = partial.digest
        self.received_bytes = 0
        """Verified bytes that this pull added to the file."""
        self._peers = PeerCounts()
        self._met: set[Endpoint] = set()
        self._due = trio.Event()
        self._partial = partial
        self._torrent = torrent
        self._layout = partial.layout
        self._pieces = PieceSet(self._layout.count, filter(partial.has, range(self._layout.count)))
        self._missing = self._measured_at = self._layout.count - len(self._pieces)
        self._window_pieces = window_pieces
        self._urgent_end = 0
        self._urgent_missing = 0
        self._marks_at_once = marks_at_once
        self._unmarked: list[int] = []
        self._flushing: list[int] | None = None
        self._complete = False
        self._last_flush = False
        self._over = trio.Event()
        self._failure: P2PDistError | None = None
        self._measure = measure
        if not self._layout.count:
            self._over.set()

    # For whoever pulls

    @property
    def peers(self) -> frozenset[Endpoint]:
        """The peers that it is connected with now."""
        return frozenset(self._torrent.peers)

    @property
    def finished(self) -> bool:
        """Whether every piece is in the file and marked."""
        return self._over.is_set() and self._failure is None

    async def wait_finished(self) -> None:
        """Wait until every piece is in the file and marked.

        Raises `SwarmStorageError` when the file can't be written, and what `mark_piece` raised. It waits for ever while
        no peer has what is missing: a time limit is the caller's.
        """
        await self._over.wait()
        if self._failure is not None:
            raise self._failure

    @property
    def peer_bytes(self) -> Mapping[Endpoint, int]:
        """Payload bytes by peer as they were last measured: often enough to tell them apart, not to the last byte."""
        if not self._peers.totals and len(self._met) == 1:
            return dict.fromkeys(self._met, self.received_bytes)
        return self._peers.totals

    async def stats(self) -> TorrentStats:
        """What moved so far."""
        await self._measure()
        return self._torrent.stats

    # For the swarm

    def params(self, metainfo: Metainfo, peers: Iterable[Endpoint]) -> lt.add_torrent_params:
        """The torrent with the pieces that are there already; none of them is read again."""
        params = self._torrent.params(metainfo, peers)
        count = self._layout.count
        params.have_pieces = [index in self._pieces for index in range(count)]
        urgent = set(self._move_window())
        params.piece_priorities = [_URGENT if index in urgent else _NORMAL for index in range(count)]
        params.max_connections = connections_for(sum(map(self._layout.length, self._pieces.missing())))
        return params

    def start(self) -> None:
        """Called once the torrent is in the session: act on what was told before its handle was known."""
        self._flush()

    async def measure_peers(self, until: trio.CancelScope) -> None:
        """Keep `peer_bytes` up to date until `until` is cancelled."""
        with until:
            while (handle := self._torrent.active) is not None:
                with trio.move_on_after(_MEASURE_SECONDS):
                    await self._due.wait()
                self._due = trio.Event()
                self._peers.take(await trio.to_thread.run_sync(_received_from, handle))

    def observe(self, torrent: Torrent, event: TorrentEvent) -> None:
        """Act on what happened to the torrent; after a failure nothing that libtorrent says of the file counts."""
        if self._failure is not None:
            return
        match event:
            case PeerConnected(endpoint):
                self._met.add(endpoint)
            case PieceFinished(index) if index not in self._pieces:
                self._unmarked.append(index)
                self._measure_in_time()
                if self._marks_at_once:
                    unmarked, self._unmarked = self._unmarked, []
                    self._mark(unmarked)
                else:
                    self._flush()
            case TorrentFinished():
                self._complete = True
                self._flush()
            case TorrentFlushed() if self._flushing is not None:
                self._flushed(self._flushing)
            case TorrentFailed() | TorrentChecking() if torrent.failure is not None:
                self._fail(torrent.failure)

    def _measure_in_time(self) -> None:
        """Whenever half of what was missing has come: at the end libtorrent parts from its peers at once."""
        self._missing -= 1
        if 2 * self._missing <= self._measured_at:
            self._measured_at = self._missing
            self._due.set()

    def _flush(self) -> None:
        """Have libtorrent put what it keeps in memory into the file; one flush at a time."""
        handle = self._torrent.active
        if handle is None or self._flushing is not None or not (self._unmarked or self._complete):
            return
        self._flushing, self._unmarked = self._unmarked, []
        self._last_flush = self._complete
        handle.flush_cache()

    def _flushed(self, indices: list[int]) -> None:
        self._flushing = None
        if not self._last_flush:
            self._mark(indices)
            self._flush()
            return
        # Everything is there, whether or not the alert of each piece came through.
        self._mark(self._pieces.missing())
        self._over.set()

    def _mark(self, indices: list[int]) -> None:
        try:
            for index in indices:
                if self._pieces.add(index):
                    self._partial.mark_piece(index)
                    self.received_bytes += self._layout.length(index)
                    self._urgent_missing -= index < self._urgent_end
        except P2PDistError as error:
            self._fail(error)
        urgent = self._move_window()
        handle = self._torrent.active
        if urgent and handle is not None:
            handle.prioritize_pieces([(index, _URGENT) for index in urgent])

    def _move_window(self) -> list[int]:
        """The pieces that come into the window, which always holds so many missing ones as long as there are any."""
        entered = []
        while self._urgent_missing < self._window_pieces and self._urgent_end < self._layout.count:
            if self._urgent_end not in self._pieces:
                entered.append(self._urgent_end)
                self._urgent_missing += 1
            self._urgent_end += 1
        return entered

    def _fail(self, error: P2PDistError) -> None:
        if not self._over.is_set():
            self._failure = error
            self._over.set()
