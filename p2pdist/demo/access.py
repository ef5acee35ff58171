"""Who may read from the embedded registry: everybody, users by Basic authentication, or bearers of its own tokens.

Distribution spec, "Authentication"; the token flow is the one of Docker's registry ("Token Authentication
Specification"). Decides only; the registry sends what is decided here.
"""

import base64
import binascii
import hmac
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from p2pdist.core.errors import P2PDistError
from p2pdist.http.server import Request

TOKEN_PATH = "/token"
_SERVICE = "p2pdist-demo-registry"


class Unauthorized(P2PDistError):
    """The request must be repeated with what `challenge` (a WWW-Authenticate header) asks for."""

    http_status = 401
    oci_code = "UNAUTHORIZED"

    def __init__(self, message: str, challenge: str) -> None:
        super().__init__(message)
        self.challenge = challenge


class Access(Protocol):
    """Decides about one request."""

    def check(self, request: Request, repository: str | None) -> None:
        """Let a request for a repository (None: for `/v2/` itself) pass, or raise `Unauthorized`."""


class OpenAccess:
    """Everybody may read everything."""

    def check(self, request: Request, repository: str | None) -> None: ...


class BasicAccess:
    """Users with a password may read everything; others nothing."""

    def __init__(self, users: Mapping[str, str]) -> None:
        self._users = users

    def check(self, request: Request, repository: str | None) -> None:
        if basic_user(request, self._users) is None:
            raise Unauthorized("a user and password are needed", 'Basic realm="p2pdist demo registry"')


@dataclass(frozen=True, slots=True)
class Token:
    """What a bearer may read, and until when (on the clock that the access was made with)."""

    repositories: frozenset[str]
    expires_at: float


class TokenAccess:
    """Bearers of a token may read what it was issued for; anybody gets one for what isn't private."""

    def __init__(
        self,
        users: Mapping[str, str],
        private: Collection[str] = (),
        lifetime_seconds: float = 300,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._users = users
        self._private = frozenset(private)
        self._lifetime_seconds = lifetime_seconds
        self._clock = clock
        self._tokens: dict[str, Token] = {}

    def check(self, request: Request, repository: str | None) -> None:
        token = self._bearer(request)
        if token is not None and (repository is None or repository in token.repositories):
            return
        realm = f"http://{request.headers.get('host')}{TOKEN_PATH}"
        challenge = f'Bearer realm="{realm}",service="{_SERVICE}"'
        if repository is not None:
            challenge += f',scope="repository:{repository}:pull"'
        if token is not None:
            challenge += ',error="insufficient_scope"'
        raise Unauthorized("a token is needed for this", challenge)

    def issue(self, request: Request) -> dict[str, object]:
        """The answer to a request for a token: one that reads what was asked for and the caller may read.

        Raises `Unauthorized` when the caller names a user, but not with the right password.
        """
        user = basic_user(request, self._users)
        if user is None and request.headers.get("authorization") is not None:
            raise Unauthorized("wrong user or password", f'Basic realm="{_SERVICE}"')
        asked = {
            name
            for scope in " ".join(request.query.get("scope", [])).split()
            for kind, _, rest in [scope.partition(":")]
            for name, _, actions in [rest.rpartition(":")]
            if kind == "repository" and "pull" in actions.split(",")
        }
        granted = frozenset(asked if user is not None else asked - self._private)
        now = self._clock()
        self._tokens = {text: token for text, token in self._tokens.items() if token.expires_at > now}
        text = secrets.token_urlsafe(24)
        self._tokens[text] = Token(granted, now + self._lifetime_seconds)
        return {"token": text, "access_token": text, "expires_in": int(self._lifetime_seconds)}

    def _bearer(self, request: Request) -> Token | None:
        kind, _, text = (request.headers.get("authorization") or "").partition(" ")
        token = self._tokens.get(text.strip()) if kind.lower() == "bearer" else None
        return token if token is not None and token.expires_at > self._clock() else None


def basic_user(request: Request, users: Mapping[str, str]) -> str | None:
    """The user whose right password the request carries (RFC 7617), or None."""
    kind, _, encoded = (request.headers.get("authorization") or "").partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    expected = users.get(user)
    if expected is None or not hmac.compare_digest(expected.encode(), password.encode()):
        return None
    return user
