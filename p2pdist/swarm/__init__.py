"""Blobs as torrents among the agents that hold them: the only package that imports libtorrent."""

from p2pdist.swarm.endpoint import Endpoint
from p2pdist.swarm.errors import SwarmError, SwarmStorageError
from p2pdist.swarm.events import AlertsDropped, PeerRefused, PieceRejected, SeedFailed, SwarmEvent
from p2pdist.swarm.pull import Partial, Pull
from p2pdist.swarm.stats import SwarmStats, TorrentStats
from p2pdist.swarm.swarm import Swarm
from p2pdist.swarm.tuning import DiskBackend, SwarmSettings

__all__ = [
    "AlertsDropped",
    "DiskBackend",
    "Endpoint",
    "Partial",
    "PeerRefused",
    "PieceRejected",
    "Pull",
    "SeedFailed",
    "Swarm",
    "SwarmError",
    "SwarmEvent",
    "SwarmSettings",
    "SwarmStats",
    "SwarmStorageError",
    "TorrentStats",
]
