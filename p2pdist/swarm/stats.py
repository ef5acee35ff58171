"""What moved: one torrent's figures, and the session's."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TorrentStats:
    """One torrent since it was loaded; libtorrent brings its totals up to date about twice a second.

    Payload is what belongs to the blob, without the protocol's own bytes. Redundant bytes came twice, failed bytes
    belonged to a piece or block whose hash didn't hold; both are counted in the download as well. Rates are payload, in
    bytes per second.
    """

    downloaded_bytes: int = 0
    uploaded_bytes: int = 0
    redundant_bytes: int = 0
    failed_bytes: int = 0
    download_rate: int = 0
    upload_rate: int = 0
    peers: int = 0


@dataclass(frozen=True, slots=True)
class SwarmStats:
    """The session since it started, torrents that were unloaded included; the words are those of `TorrentStats`."""

    downloaded_bytes: int
    uploaded_bytes: int
    redundant_bytes: int
    failed_bytes: int
    connections: int
