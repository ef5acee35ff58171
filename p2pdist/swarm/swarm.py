"""The swarm of one agent: blobs that it holds are seeded, blobs that others hold are pulled.

Owns which torrents are loaded. A torrent costs memory, so a blob is seeded only from the moment when peers may come for
it, and among torrents without a peer only the last used stay. Knows nothing of trackers, pulls by other means, or who
may have which blob: peers and the addresses that may talk to us are handed in.
"""

import os
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import libtorrent as lt
import trio

from p2pdist.core.digest import Digest
from p2pdist.core.metainfo import Metainfo, file_name
from p2pdist.swarm.endpoint import Endpoint, canonical_address
from p2pdist.swarm.errors import SwarmError, SwarmStorageError
from p2pdist.swarm.events import (
    PeerConnected,
    PeerDisconnected,
    PieceFailed,
    PieceRejected,
    SeedFailed,
    SwarmEvent,
    TorrentChecking,
    TorrentEvent,
    TorrentFailed,
    TorrentRemoved,
)
from p2pdist.swarm.pull import Partial, Pull
from p2pdist.swarm.seeds import IdleSeeds
from p2pdist.swarm.session import Session, open_session
from p2pdist.swarm.stats import SwarmStats, TorrentStats
from p2pdist.swarm.torrent import Torrent
from p2pdist.swarm.tuning import SwarmSettings

WINDOW_PIECES = 48
_EVENTS_KEPT = 1000


def _size_of(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise SwarmStorageError(f"{path} can't be swarmed: {error.strerror}") from error


class Swarm:
    """Torrents of one agent; made by `Swarm.open`."""

    def __init__(self, settings: SwarmSettings, session: Session) -> None:
        self._disk = settings.disk
        self._session = session
        self._idle = IdleSeeds(settings.max_idle_seeds)
        self._pulls: set[Digest] = set()
        # Without a bound for SeedFailed, which comes once a torrent and mustn't be lost; see `_announce` for the rest.
        self._events, self.events = trio.open_memory_channel[SwarmEvent](float("inf"))
        session.on_event = self._announce

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: SwarmSettings) -> AsyncIterator["Swarm"]:
        """A swarm that listens and lets nobody in yet; raises `SwarmError` when it can't listen."""
        async with open_session(settings) as session:
            yield cls(settings, session)

    # Peers

    @property
    def addresses(self) -> tuple[Endpoint, ...]:
        """Where it listens, with the ports that the system chose."""
        return self._session.addresses

    def allow_peers(self, addresses: Iterable[str]) -> None:
        """Talk to peers at these IP addresses and no others; connections with others end at once.

        Raises `InvalidInput` for what isn't an IP address; nothing has changed then.
        """
        self._session.allow(frozenset(map(canonical_address, addresses)))

    def add_peers(self, digest: Digest, peers: Iterable[Endpoint]) -> bool:
        """Connect the torrent of `digest` to these peers; False when it isn't loaded."""
        torrent = self._loaded(digest)
        if torrent is None:
            return False
        torrent.connect(peers)
        return True

    # Seeding

    @property
    def loaded(self) -> Collection[Digest]:
        """The blobs whose torrents are loaded, pulled or seeded."""
        return [torrent.digest for torrent in self._session.torrents.values() if not torrent.closing]

    async def seed(self, path: Path, metainfo: Metainfo) -> None:
        """Serve the blob at `path`, as soon as this returns; cheap when it is loaded already.

        The file isn't read: each piece is checked when it is first asked for. Raises `SwarmStorageError` when there is
        no such file or it has another size. Does nothing for a blob that is being pulled, which serves what it has
        anyway, and for an empty one, which no torrent can hold.
        """
        if not metainfo.layout.count or metainfo.digest in self._pulls:
            return
        torrent = await self._session.settled(file_name(metainfo.digest))
        if torrent is not None:
            await torrent.wait_ready()
            if metainfo.digest in self._idle:
                self._rest(torrent)
            return
        found = _size_of(path)
        if found != metainfo.layout.size_bytes:
            raise SwarmStorageError(
                f"{path} can't be seeded: it has {found} bytes, its metainfo says {metainfo.layout.size_bytes}"
            )
        torrent = Torrent(metainfo.digest, path, lambda torrent, event: None)
        params = torrent.params(metainfo)
        params.flags |= lt.torrent_flags.seed_mode | lt.torrent_flags.upload_mode
        await self._session.add(torrent, params)
        self._begin_seeding(torrent)

    async def unload(self, digest: Digest) -> None:
        """Stop seeding `digest`; does nothing when it isn't loaded. Its file isn't touched any more afterwards.

        Raises `SwarmError` when the blob is being pulled: the pull must be ended instead.
        """
        self._check_no_pull(digest)
        torrent = self._session.torrents.get(file_name(digest))
        if torrent is not None:
            await self._session.remove(torrent)

    # Pulling

    @asynccontextmanager
    async def pull(
        self,
        blob: Partial,
        metainfo: Metainfo,
        peers: Iterable[Endpoint] = (),
        *,
        window_pieces: int = WINDOW_PIECES,
    ) -> AsyncIterator[Pull]:
        """Download what `blob` lacks from `peers` and from those who come by themselves.

        At the end of the block a finished pull seeds on. One that isn't finished, or whose block raises, is taken out
        of the swarm; the file stays, with the pieces that were marked. `window_pieces` missing pieces from the first
        gap on are asked for first; 0 leaves the order to libtorrent.

        Raises `SwarmError` when the blob is being pulled already or `metainfo` is of another blob or layout,
        `SwarmStorageError` when the file isn't there.
        """
        if (blob.digest, blob.layout) != (metainfo.digest, metainfo.layout):
            raise SwarmError(f"the metainfo of {metainfo.digest}, {metainfo.layout}, doesn't fit {blob.digest}")
        torrent = Torrent(metainfo.digest, blob.path, lambda torrent, event: None)
        pull = Pull(
            blob,
            torrent,
            window_pieces=window_pieces,
            marks_at_once=self._disk.writes_before_it_reports,
            measure=self._session.measure,
        )
        if pull.finished:
            yield pull
            return
        _size_of(blob.path)
        self._check_no_pull(metainfo.digest)
        self._pulls.add(metainfo.digest)
        torrent.observer = partial(self._pulling, pull)
        try:
            seeded = self._session.torrents.get(torrent.name)
            if seeded is not None:
                await self._session.remove(seeded)
            await self._session.add(torrent, pull.params(metainfo, peers))
            measuring = trio.CancelScope()
            try:
                pull.start()
                self._session.nursery.start_soon(pull.measure_peers, measuring)
                yield pull
            except BaseException:
                await self._session.remove(torrent)
                raise
            finally:
                measuring.cancel()
            if pull.finished:
                self._begin_seeding(torrent)
            else:
                await self._session.remove(torrent)
        finally:
            self._pulls.discard(metainfo.digest)

    # Figures

    async def stats(self) -> SwarmStats:
        """What moved in all."""
        return await self._session.totals()

    async def torrent_stats(self) -> dict[Digest, TorrentStats]:
        """What moved in each torrent that is loaded."""
        await self._session.measure()
        return {torrent.digest: torrent.stats for torrent in self._session.torrents.values()}

    def set_link_rate(self, link_bps: int) -> None:
        """Size queues and buffers for a link of `link_bps` bits per second, measured or configured by now."""
        self._session.size_queues(link_bps)

    # Inside

    def _loaded(self, digest: Digest) -> Torrent | None:
        torrent = self._session.torrents.get(file_name(digest))
        return None if torrent is None or torrent.closing else torrent

    def _check_no_pull(self, digest: Digest) -> None:
        if digest in self._pulls:
            raise SwarmError(f"{digest} is being pulled; end that pull first")

    def _begin_seeding(self, torrent: Torrent) -> None:
        torrent.observer = self._seeding
        torrent.seed_only()
        if torrent.failure is not None:
            self._give_up(torrent, str(torrent.failure))
        elif not torrent.peers:
            self._rest(torrent)

    def _rest(self, torrent: Torrent) -> None:
        """Nobody needs `torrent` now: it stays until others were needed later than it."""
        for digest in self._idle.put(torrent.digest):
            evicted = self._loaded(digest)
            if evicted is not None:
                self._session.nursery.start_soon(self._retire, evicted)

    async def _retire(self, torrent: Torrent) -> None:
        try:
            await self._session.remove(torrent)
        except SwarmError as error:
            self._announce(SeedFailed(torrent.digest, str(error)))

    def _pulling(self, pull: Pull, torrent: Torrent, event: TorrentEvent) -> None:
        if isinstance(event, PieceFailed):
            self._announce(PieceRejected(torrent.digest, event.index))
        pull.observe(torrent, event)

    def _seeding(self, torrent: Torrent, event: TorrentEvent) -> None:
        match event:
            case PeerConnected() | TorrentRemoved():
                self._idle.discard(torrent.digest)
            case PeerDisconnected() if not torrent.peers and not torrent.closing:
                self._rest(torrent)
            case PieceFailed(index):
                self._give_up(torrent, f"piece {index} of {torrent.path} isn't what it was")
            case TorrentFailed() | TorrentChecking():
                self._give_up(torrent, str(torrent.failure))

    def _give_up(self, torrent: Torrent, reason: str) -> None:
        torrent.observer = lambda torrent, event: None
        self._idle.discard(torrent.digest)
        if not torrent.closing:
            self._announce(SeedFailed(torrent.digest, reason))
            self._session.nursery.start_soon(self._retire, torrent)

    def _announce(self, event: SwarmEvent) -> None:
        """Tell the owner; what strangers and liars cause is dropped while a thousand events wait to be read."""
        if isinstance(event, SeedFailed) or self._events.statistics().current_buffer_used < _EVENTS_KEPT:
            self._events.send_nowait(event)
