"""libtorrent's alerts as our events: the seam where its types, and its strings, end.

An alert is valid only until the next ones are fetched, so nothing of it is kept. Those that nobody acts on become None.
"""

from collections.abc import Callable
from typing import Any

import libtorrent as lt

from p2pdist.swarm.endpoint import Endpoint
from p2pdist.swarm.events import (
    AlertsDropped,
    Event,
    ForTorrent,
    PeerConnected,
    PeerDisconnected,
    PeerRefused,
    PieceFailed,
    PieceFinished,
    SessionMeasured,
    TorrentChecking,
    TorrentEvent,
    TorrentFailed,
    TorrentFinished,
    TorrentFlushed,
    TorrentReady,
    TorrentRemoved,
    TorrentsMeasured,
)
from p2pdist.swarm.stats import SwarmStats, TorrentStats

# torrent_handle::query_name of libtorrent/torrent_handle.hpp, which the Python binding doesn't name.
QUERY_NAME = 1 << 6


def _failed(alert: Any) -> TorrentEvent:
    return TorrentFailed(alert.error.message())


def _file_failed(alert: Any) -> TorrentEvent:
    return TorrentFailed(f"{alert.filename()}: {alert.error.message()}")


def _state_changed(alert: Any) -> TorrentEvent | None:
    return TorrentChecking() if alert.state == lt.torrent_status.states.checking_files else None


def _torrent_stats(status: lt.torrent_status) -> TorrentStats:
    return TorrentStats(
        downloaded_bytes=status.total_payload_download,
        uploaded_bytes=status.total_payload_upload,
        redundant_bytes=status.total_redundant_bytes,
        failed_bytes=status.total_failed_bytes,
        download_rate=status.download_payload_rate,
        upload_rate=status.upload_payload_rate,
        peers=status.num_peers,
    )


def _session_stats(values: dict[str, int]) -> SwarmStats:
    return SwarmStats(
        downloaded_bytes=values["net.recv_payload_bytes"],
        uploaded_bytes=values["net.sent_payload_bytes"],
        redundant_bytes=values["net.recv_redundant_bytes"],
        failed_bytes=values["net.recv_failed_bytes"],
        connections=values["peer.num_peers_connected"],
    )


_OF_TORRENT: dict[type, Callable[[Any], TorrentEvent | None]] = {
    lt.torrent_checked_alert: lambda alert: TorrentReady(),
    lt.state_changed_alert: _state_changed,
    lt.piece_finished_alert: lambda alert: PieceFinished(alert.piece_index),
    lt.hash_failed_alert: lambda alert: PieceFailed(alert.piece_index),
    lt.torrent_finished_alert: lambda alert: TorrentFinished(),
    lt.cache_flushed_alert: lambda alert: TorrentFlushed(),
    lt.torrent_error_alert: _failed,
    lt.file_error_alert: _file_failed,
    lt.torrent_removed_alert: lambda alert: TorrentRemoved(),
    lt.peer_connect_alert: lambda alert: PeerConnected(Endpoint(*alert.endpoint)),
    lt.peer_disconnected_alert: lambda alert: PeerDisconnected(Endpoint(*alert.endpoint), alert.error.message()),
}

_OF_SESSION: dict[type, Callable[[Any], Event]] = {
    lt.state_update_alert: lambda alert: TorrentsMeasured(
        {status.name: _torrent_stats(status) for status in alert.status}
    ),
    lt.session_stats_alert: lambda alert: SessionMeasured(_session_stats(alert.values)),
    lt.peer_blocked_alert: lambda alert: PeerRefused(alert.endpoint[0]),
    lt.alerts_dropped_alert: lambda alert: AlertsDropped(),
}


def translate(alert: lt.alert) -> Event | None:
    """The event that `alert` stands for, or None when it concerns nobody."""
    kind = type(alert)
    if (of_torrent := _OF_TORRENT.get(kind)) is not None:
        event = of_torrent(alert)
        return None if event is None else ForTorrent(alert.torrent_name, event)  # type: ignore[attr-defined]
    of_session = _OF_SESSION.get(kind)
    return None if of_session is None else of_session(alert)
