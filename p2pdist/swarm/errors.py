"""What can go wrong in a swarm."""

from p2pdist.core.errors import P2PDistError, StoreError


class SwarmError(P2PDistError):
    """The session, or one torrent in it, can't do what it was asked to."""

    exit_code = 3
    http_status = 503
    oci_code = "UNAVAILABLE"


class SwarmStorageError(SwarmError, StoreError):
    """A torrent's file can't be read or written, or isn't the file that the metainfo describes."""

    exit_code = StoreError.exit_code
    http_status = StoreError.http_status
