"""The root of every error that p2pdist raises on purpose.

A class carries what the edge needs to render it: the exit code of a command, the HTTP status and the code of an OCI
error body (OCI distribution spec, "Error Codes"). One place per edge renders them; everything between lets them pass.
"""


class P2PDistError(Exception):
    """Something that a user or operator must be told, in a sentence that says what was wrong, where, and what to do."""

    exit_code: int = 1
    http_status: int = 500
    oci_code: str = "UNKNOWN"


class InvalidInput(P2PDistError):
    """A value that came from outside doesn't have the form it must have."""

    exit_code = 2
    http_status = 400
    oci_code = "UNSUPPORTED"


class DigestInvalid(InvalidInput):
    """A digest that isn't one (OCI image spec, "Digests"), or content that doesn't match it."""

    oci_code = "DIGEST_INVALID"


class NotFound(P2PDistError):
    """The thing that was named doesn't exist where it was looked for."""

    http_status = 404
    oci_code = "NAME_UNKNOWN"


class BlobUnknown(NotFound):
    """No blob with this digest can be had."""

    oci_code = "BLOB_UNKNOWN"


class ManifestUnknown(NotFound):
    """No manifest with this tag or digest can be had."""

    oci_code = "MANIFEST_UNKNOWN"


class Denied(P2PDistError):
    """The caller, or the credentials that were used, may not do this."""

    http_status = 403
    oci_code = "DENIED"


class Unavailable(P2PDistError):
    """A part that is needed doesn't answer at the moment; the same call may succeed later."""

    exit_code = 3
    http_status = 503
    oci_code = "UNAVAILABLE"


class ProtocolError(P2PDistError):
    """The peer broke the protocol: its fault, never ours. The connection that carried it ends."""

    http_status = 502


class StoreError(P2PDistError):
    """The store can't be read or written: full, read-only, or damaged."""

    exit_code = 4
    http_status = 507
