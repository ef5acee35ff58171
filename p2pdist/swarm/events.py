"""What happens in a session, as frozen values: what libtorrent's alerts become in the pump.

`TorrentEvent`s go to the one torrent that they name; `SwarmEvent`s are those that whoever owns the swarm must hear of.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from p2pdist.core.digest import Digest
from p2pdist.swarm.endpoint import Endpoint
from p2pdist.swarm.stats import SwarmStats, TorrentStats


@dataclass(frozen=True, slots=True)
class TorrentReady:
    """The torrent knows which pieces it has and serves them."""


@dataclass(frozen=True, slots=True)
class TorrentChecking:
    """libtorrent distrusts the file and began to read all of it."""


@dataclass(frozen=True, slots=True)
class PieceFinished:
    """Piece `index` is there and its hash held."""

    index: int


@dataclass(frozen=True, slots=True)
class PieceFailed:
    """Piece `index` arrived, or was read for a peer, and its hash didn't hold."""

    index: int


@dataclass(frozen=True, slots=True)
class TorrentFinished:
    """Every piece is there."""


@dataclass(frozen=True, slots=True)
class TorrentFlushed:
    """All that had finished before the flush was asked for is in the file."""


@dataclass(frozen=True, slots=True)
class TorrentFailed:
    """The torrent stopped: its file can't be read or written, or something worse."""

    reason: str


@dataclass(frozen=True, slots=True)
class TorrentRemoved:
    """The torrent is out of the session and touches its file no more."""


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """A connection with a peer of this torrent stands; an incoming one has the port that it came from."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class PeerDisconnected:
    """A connection ended, or couldn't be made."""

    endpoint: Endpoint
    reason: str


TorrentEvent = (
    TorrentReady
    | TorrentChecking
    | PieceFinished
    | PieceFailed
    | TorrentFinished
    | TorrentFlushed
    | TorrentFailed
    | TorrentRemoved
    | PeerConnected
    | PeerDisconnected
)


@dataclass(frozen=True, slots=True)
class ForTorrent:
    """An event and the torrent (by the name of its file) that it happened to."""

    name: str
    event: TorrentEvent


@dataclass(frozen=True, slots=True)
class TorrentsMeasured:
    """Figures of the torrents in which something changed since they were last asked for, by name."""

    stats: Mapping[str, TorrentStats]


@dataclass(frozen=True, slots=True)
class SessionMeasured:
    """The session's totals."""

    stats: SwarmStats


@dataclass(frozen=True, slots=True)
class PeerRefused:
    """A peer was turned away, or not dialled, because its address isn't allowed."""

    address: str


@dataclass(frozen=True, slots=True)
class PieceRejected:
    """A peer sent wrong bytes for a piece of `digest`; the piece is fetched again."""

    digest: Digest
    index: int


@dataclass(frozen=True, slots=True)
class SeedFailed:
    """The file of a blob that was being seeded is wrong or unreadable; the torrent was unloaded."""

    digest: Digest
    reason: str


@dataclass(frozen=True, slots=True)
class AlertsDropped:
    """The session's queue was full and alerts were lost: pieces may be noticed only when their torrent finishes."""


SwarmEvent = PeerRefused | PieceRejected | SeedFailed | AlertsDropped
Event = ForTorrent | TorrentsMeasured | SessionMeasured | PeerRefused | AlertsDropped
