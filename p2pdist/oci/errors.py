"""OCI error bodies: ours rendered, the origin's read (OCI distribution spec, "Error Codes").

Pure: knows neither requests nor who asked.
"""

import json
from typing import Self

from p2pdist.core.errors import Denied, InvalidInput, P2PDistError, ProtocolError
from p2pdist.oci.challenge import Challenge

_MAX_ERRORS = 8
_MAX_TEXT = 300


class NameInvalid(InvalidInput):
    """A registry, repository, tag or whole reference that isn't written as the OCI specs want it."""

    oci_code = "NAME_INVALID"


class ManifestInvalid(ProtocolError):
    """A manifest that isn't one, is too large, or isn't the one that its digest names."""

    oci_code = "MANIFEST_INVALID"


class Unauthorized(Denied):
    """The upstream wants a token; `challenge` says where there are some, and is what a caller is told."""

    http_status = 401
    oci_code = "UNAUTHORIZED"
    challenge = Challenge("bearer")

    def with_challenge(self, challenge: Challenge) -> Self:
        """The same error with its challenge."""
        self.challenge = challenge
        return self


def error_body(error: P2PDistError) -> bytes:
    """`error` as the JSON body of an answer; the status that goes with it is `error.http_status`."""
    return json.dumps({"errors": [{"code": error.oci_code, "message": str(error)}]}).encode()


def parse_error_body(body: bytes) -> list[tuple[str, str]]:
    """The (code, message) pairs of a registry's error answer, fit for a log line; none when `body` isn't one.

    Never raises: the body explains an answer that has already failed. Texts are cut at 300 characters and control
    characters become spaces; entries beyond the eighth are left out.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return []
    errors = document.get("errors") if isinstance(document, dict) else None
    if not isinstance(errors, list):
        return []
    entries = [entry for entry in errors[:_MAX_ERRORS] if isinstance(entry, dict)]
    return [(_text(entry.get("code")) or "UNKNOWN", _text(entry.get("message"))) for entry in entries]


def _text(value: object) -> str:
    if not isinstance(value, str):
        return ""
    return "".join(char if char.isprintable() else " " for char in value[:_MAX_TEXT]).strip()
