"""How the one libtorrent session is set up, and why each setting has its value.

Figures are from facts.md ("libtorrent 2.1.1", "What limits a swarm"). Two rules shape most of it: queues and buffers
are small, because deep ones age what peers know of each other, and they grow only with the link; and nothing looks for
peers by itself, because the tracker chooses the neighbours.
"""

import enum
import resource
from dataclasses import dataclass

import libtorrent as lt

from p2pdist import __version__
from p2pdist.core.pieces import BLOCK_BYTES
from p2pdist.swarm.endpoint import Endpoint

_KIB = 1024
_MIB = 1024 * _KIB
_LEAST_IN_FLIGHT_BYTES = 64 * _KIB
_MOST_IN_FLIGHT_BYTES = 4 * _MIB
_IN_FLIGHT_SECONDS = 0.01
_BLOCKS_PER_NEIGHBOUR = 16
_ALERTS_KEPT = 20_000

_ALERTS = (
    lt.alert_category.error
    | lt.alert_category.status
    | lt.alert_category.storage
    | lt.alert_category.piece_progress
    | lt.alert_category.connect
    | lt.alert_category.ip_block
)


class DiskBackend(enum.Enum):
    """Which of libtorrent's disk back ends; the value is the name that it knows it by."""

    POSIX = "posix_disk_io_constructor"
    PREAD = "pread_disk_io_constructor"

    @property
    def writes_before_it_reports(self) -> bool:
        """Whether a finished piece is in the file already; pread keeps it in memory until it is flushed."""
        return self is DiskBackend.POSIX


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmSettings:
    """What the owner of a swarm decides."""

    listen: tuple[Endpoint, ...]
    """Port 0 lets the system choose; the unspecified address stands for every interface."""
    disk: DiskBackend = DiskBackend.POSIX
    link_bps: int | None = None
    """The host's link in bits per second; None when nobody knows: treated as slow."""
    max_connections: int = 1000
    """Of all torrents together; half of what the process may open at most."""
    max_idle_seeds: int = 100
    """Torrents that stay loaded without a peer. One of 2,000 pieces costs about 90 KiB."""
    upload_limit_bps: int = 0
    """Bits per second over all peers, 0 for no limit."""
    download_limit_bps: int = 0
    """Bits per second over all peers, 0 for no limit."""


def in_flight_bytes(link_bps: int | None) -> int:
    """How much may be under way to one peer: what the link carries in 10 ms, within 64 KiB and 4 MiB.

    64 KiB is right up to about 50 Mbit/s (facts.md); kept for a single flow of 400 MiB/s it would cost a third of it.
    """
    if link_bps is None:
        return _LEAST_IN_FLIGHT_BYTES
    return min(max(int(link_bps / 8 * _IN_FLIGHT_SECONDS), _LEAST_IN_FLIGHT_BYTES), _MOST_IN_FLIGHT_BYTES)


def queue_settings(link_bps: int | None) -> "lt.settings_pack":
    """Queues and buffers for a link of this rate; libtorrent takes them while it runs, for new connections.

    libtorrent replaces its own `max_out_request_queue` by what the peer says it takes (`reqq` of BEP 10, which is the
    peer's `max_allowed_in_request_queue`, 2000 by default), so it is the uploader who bounds the queue on its uplink:
    both are set.
    """
    flight = in_flight_bytes(link_bps)
    requests = 4 * flight // BLOCK_BYTES
    socket_buffer = max(2 * flight, 128 * _KIB)
    return {
        "max_out_request_queue": requests,
        "max_allowed_in_request_queue": requests,
        "send_buffer_watermark": flight,
        "send_buffer_low_watermark": flight // 2,
        "send_socket_buffer_size": socket_buffer,
        "recv_socket_buffer_size": socket_buffer,
    }


def connections_for(missing_bytes: int) -> int:
    """How many peers a pull that lacks this much connects to at most; at least two, so that one may be frozen.

    Once every block is asked for somewhere, idle peers are asked for blocks that others owe already. What that wastes
    grows with the peers and not with the torrent, so a small torrent gets few.
    """
    return max(2, missing_bytes // (BLOCK_BYTES * _BLOCKS_PER_NEIGHBOUR))


def _connections_limit(wanted: int) -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(10, min(wanted, soft // 2))


def session_settings(settings: SwarmSettings) -> "lt.settings_pack":
    """Everything that is set on the session."""
    connections = _connections_limit(settings.max_connections)
    pack: lt.settings_pack = {
        "user_agent": f"p2pdist/{__version__}",
        "peer_fingerprint": "-PD0000-",
        "alert_mask": _ALERTS,
        "alert_queue_size": _ALERTS_KEPT,
        "listen_interfaces": ",".join(map(str, settings.listen)),
        # A port in use is an error for the operator, never a reason to listen somewhere else.
        "listen_system_port_fallback": False,
        "max_retry_port_bind": 10 if all(endpoint.port == 0 for endpoint in settings.listen) else 0,
        # uTP costs three times the CPU of TCP; encryption is for private blobs, which don't swarm.
        "enable_incoming_utp": False,
        "enable_outgoing_utp": False,
        "in_enc_policy": lt.enc_policy.pe_disabled,
        "out_enc_policy": lt.enc_policy.pe_disabled,
        # Peers come from the tracker alone.
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        # Several agents share an address on loopback and behind NAT.
        "allow_multiple_connections_per_ip": True,
        "connections_limit": connections,
        "unchoke_slots_limit": 20,
        "file_pool_size": max(40, connections // 4),
        "upload_rate_limit": settings.upload_limit_bps // 8,
        "download_rate_limit": settings.download_limit_bps // 8,
        # Neighbours are few and near: dial them at once, and give up on a silent one soon.
        "smooth_connects": False,
        "connection_speed": 200,
        "peer_connect_timeout": 5,
        "handshake_timeout": 5,
        "request_timeout": 10,
        "piece_timeout": 10,
        "min_reconnect_time": 2,
        "max_failcount": 20,
        # Nothing is asked for outside the order that a pull sets.
        "whole_pieces_threshold": 0,
        "initial_picker_threshold": 0,
        "allowed_fast_set_size": 0,
        # Threads of the pread back end; posix works in the network thread.
        "aio_threads": 2,
        "hashing_threads": 1,
    }
    return pack | queue_settings(settings.link_bps)
