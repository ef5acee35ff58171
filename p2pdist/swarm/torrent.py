"""One torrent in the session: its handle, and what its events have told so far.

Whoever had it loaded follows it as its `observer`: a pull while it downloads, the swarm once it seeds.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import libtorrent as lt
import trio

from p2pdist.core.digest import Digest
from p2pdist.core.metainfo import Metainfo, file_name
from p2pdist.swarm.endpoint import Endpoint
from p2pdist.swarm.errors import SwarmError, SwarmStorageError
from p2pdist.swarm.events import (
    PeerConnected,
    PeerDisconnected,
    TorrentChecking,
    TorrentEvent,
    TorrentFailed,
    TorrentReady,
    TorrentRemoved,
)
from p2pdist.swarm.stats import TorrentStats

# With no_verify_files libtorrent doesn't look at the file when it loads a torrent (whoever loads one has) and connects
# to the peers that come with it at once, instead of at its next tick, which is up to a second away.
_FLAGS = (
    lt.torrent_flags.no_verify_files
    | lt.torrent_flags.apply_ip_filter
    | lt.torrent_flags.disable_pex
    | lt.torrent_flags.disable_lsd
    | lt.torrent_flags.disable_dht
    | lt.torrent_flags.duplicate_is_error
    | lt.torrent_flags.update_subscribe
)

Observer = Callable[["Torrent", TorrentEvent], None]


class Torrent:
    """A blob's torrent from the moment somebody wants it loaded until it is out of the session."""

    def __init__(self, digest: Digest, path: Path, observer: Observer) -> None:
        self.digest = digest
        self.name = file_name(digest)
        self.path = path
        self.observer = observer
        self.handle: lt.torrent_handle | None = None
        self.ready = trio.Event()
        self.loaded = False
        self.gone = trio.Event()
        self.closing = False
        self.failure: SwarmError | None = None
        self.peers: set[Endpoint] = set()
        self.stats = TorrentStats()
        if path.name != self.name:
            raise SwarmStorageError(f"{path} can't be the file of {digest}: it would be named {self.name}")

    def params(self, metainfo: Metainfo, peers: Iterable[Endpoint] = ()) -> lt.add_torrent_params:
        """What every torrent of ours is added with; raises `SwarmError` when libtorrent doesn't take the metainfo."""
        try:
            params = lt.load_torrent_buffer(metainfo.torrent())
        except RuntimeError as error:
            raise SwarmError(f"the metainfo of {metainfo.digest} isn't a torrent: {error}") from error
        params.save_path = str(self.path.parent)
        params.peers = [(peer.address, peer.port) for peer in peers]
        params.flags = _FLAGS
        return params

    @property
    def active(self) -> lt.torrent_handle | None:
        """The handle while there is one that may be used: not before the torrent is added, nor once it is to go."""
        return None if self.closing else self.handle

    def deliver(self, event: TorrentEvent) -> None:
        """Take note of `event`, then let the observer act on it."""
        match event:
            case TorrentReady():
                self.loaded = True
                self.ready.set()
            case TorrentChecking():
                self.fail("isn't the file that the metainfo describes, or isn't whole")
            case TorrentFailed(reason):
                self.fail(reason)
            case PeerConnected(endpoint):
                self.peers.add(endpoint)
            case PeerDisconnected(endpoint):
                self.peers.discard(endpoint)
            case TorrentRemoved():
                self.peers.clear()
                self.ready.set()
                self.gone.set()
        self.observer(self, event)

    def fail(self, reason: str) -> None:
        """Remember why the torrent is of no more use; the first reason counts."""
        if self.failure is None:
            self.failure = SwarmStorageError(f"the torrent of {self.digest} at {self.path} stopped: {reason}")
        self.ready.set()

    async def wait_ready(self) -> None:
        """Wait until it serves what it has; raises `SwarmError` when that never comes.

        What goes wrong later is the observer's, even if it does before whoever waits here runs again.
        """
        await self.ready.wait()
        if self.failure is not None and not self.loaded:
            raise self.failure
        if self.closing:
            raise SwarmError(f"the torrent of {self.digest} was unloaded while it was loaded")

    def connect(self, endpoints: Iterable[Endpoint]) -> None:
        """Have libtorrent connect to these peers within a second, and again when a connection breaks."""
        handle = self.active
        if handle is not None:
            for endpoint in endpoints:
                handle.connect_peer((endpoint.address, endpoint.port), 0, 0)

    def seed_only(self) -> None:
        """Never write to the file again, whatever happens to it, and take as many peers as the session does."""
        handle = self.active
        if handle is not None:
            handle.set_flags(lt.torrent_flags.upload_mode)
            handle.set_max_connections(-1)
