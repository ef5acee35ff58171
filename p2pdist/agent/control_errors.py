"""Why a control connection ended, and what a tracker's errors are as errors of ours."""

import trio

from p2pdist.core.errors import (
    BlobUnknown,
    Denied,
    DigestInvalid,
    ManifestUnknown,
    NotFound,
    P2PDistError,
    ProtocolError,
    Unavailable,
)
from p2pdist.oci.challenge import Challenge, relayed
from p2pdist.oci.errors import ManifestInvalid, NameInvalid, Unauthorized
from p2pdist.wire.messages import Goodbye

_ERRORS: dict[str, type[P2PDistError]] = {
    "BLOB_UNKNOWN": BlobUnknown,
    "MANIFEST_UNKNOWN": ManifestUnknown,
    "MANIFEST_INVALID": ManifestInvalid,
    "NAME_UNKNOWN": NotFound,
    "NAME_INVALID": NameInvalid,
    "DIGEST_INVALID": DigestInvalid,
    "DENIED": Denied,
    "UNAUTHORIZED": Denied,
}
_BUSY_STATUS = (429, 503, 507)
_BROKEN = (trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class Refused(Denied):
    """The tracker says that coming back is of no use before something changes."""


def error_of(code: str, status: int, text: str, challenge: str = "") -> P2PDistError:
    """What the tracker said as an error of ours; with a challenge, one that a caller could answer."""
    if code == Unauthorized.oci_code and (wanted := _challenge(challenge)) is not None:
        return Unauthorized(text).with_challenge(wanted)
    error = _ERRORS.get(code, Unavailable if status in _BUSY_STATUS else ProtocolError)(text)
    error.oci_code = code or error.oci_code
    if 400 <= status <= 599:
        error.http_status = status
    return error


def _challenge(text: str) -> Challenge | None:
    try:
        return relayed(text)
    except ProtocolError:
        return None


def farewell(goodbye: Goodbye) -> Denied:
    """A goodbye of the tracker as the reason for which a connection ended."""
    return (Refused if goodbye.final else Denied)(f"the tracker says goodbye: {goodbye.reason}")


def said_by_the_system(error: OSError) -> str:
    """The reason in an `OSError` of trio, which puts those of several addresses into a group."""
    cause: BaseException | None = error
    while cause is not None and not getattr(cause, "strerror", None):
        cause = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else cause.__cause__
    return getattr(cause, "strerror", None) or str(error)


def reason_in(group: BaseExceptionGroup) -> P2PDistError | None:
    """The one reason for which the tasks of a connection ended; None when it is a bug, or none at all."""
    leaves = _flat(group)
    for error in leaves:
        if isinstance(error, P2PDistError):
            return error
    if any(isinstance(error, _BROKEN) for error in leaves):
        return Unavailable("the connection broke, or the tracker doesn't read")
    return None


def _flat(group: BaseExceptionGroup) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_flat(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]
