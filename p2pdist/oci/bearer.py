"""The token that a caller brings: what an Authorization field carries for a registry (RFC 6750, 2.1). Pure.

A token is somebody's right to one repository for some minutes. It is held in memory only, shows in no repr, and goes
nowhere but to the upstream that it was asked for and, over mutual TLS, to the tracker. Whether it is worth anything
only the upstream knows.
"""

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from typing import Self

MAX_TOKEN_LENGTH = 16 * 1024
_HEADER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class BearerToken:
    """A token as the caller sent it."""

    value: str = field(repr=False)

    @classmethod
    def from_header(cls, authorization: str | None) -> Self | None:
        """The token in an Authorization field; None for another scheme, and for what can't be one.

        What can't be passed on is as good as nothing: its caller is told what the upstream wants, as others are.
        """
        if authorization is None or len(authorization) > MAX_TOKEN_LENGTH:
            return None
        match = _HEADER.fullmatch(authorization.strip())
        return cls(match[1]) if match else None

    @property
    def authorization(self) -> str:
        """The value of an Authorization field."""
        return f"Bearer {self.value}"

    @property
    def expires_at(self) -> float | None:
        """When it ends, as Unix time, if it is a JWT that says so (RFC 7519, 4.1.4); nothing of it is verified here.

        Good for forgetting earlier what the upstream once said of the token, never for trusting it longer.
        """
        parts = self.value.split(".")
        if len(parts) != 3:
            return None
        try:
            claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        except (binascii.Error, ValueError, RecursionError):
            return None
        expires = claims.get("exp") if isinstance(claims, dict) else None
        if isinstance(expires, bool) or not isinstance(expires, int | float):
            return None
        try:
            return float(expires)
        except OverflowError:
            return None
