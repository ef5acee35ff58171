"""How to convince an origin: the token flow of registries, and Basic (distribution spec, "Token Authentication").

A 401 is answered with as little as possible: an anonymous token first, and only if that isn't enough one for our
credentials. That costs a private repository a few requests more, once per token, and tells what is public: what was
given to an anonymous token may be given to anybody, so `Grant.private` decides how its bytes may travel.
"""

import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import msgspec

from p2pdist.core.errors import Denied, InvalidInput, ProtocolError, Unavailable
from p2pdist.http.client import Exchange, HttpClient
from p2pdist.http.reach import names_private
from p2pdist.http.url import Url
from p2pdist.oci.call import Call
from p2pdist.oci.challenge import Challenge, parse_challenges, relayed
from p2pdist.oci.credentials import Credentials
from p2pdist.oci.redirects import follow
from p2pdist.oci.upstream import Upstream

_CLIENT_ID = "p2pdist"
_MAX_ANSWER_BYTES = 256 * 1024
_SHORTEST_LIFETIME_SECONDS = 60.0
_LONGEST_LIFETIME_SECONDS = 3600.0
_USED_LIFETIME = 0.9
_TOKEN_FORM = re.compile(r"[\x21-\x7e]+")
_MAX_REMEMBERED = 4096
_NOT_TO_ANYBODY = (400, 401, 403, 404, 429)


@dataclass(frozen=True, slots=True)
class Grant:
    """The value of an Authorization field, how long it is good (monotonic seconds), and whether it took credentials."""

    authorization: str = field(repr=False)
    private: bool
    expires: float = math.inf


@dataclass(frozen=True, slots=True)
class _Realm:
    """Where tokens for one repository come from, and what to ask for."""

    url: Url
    service: str
    scopes: tuple[str, ...]
    public_only: bool
    """Whether a registry of the internet names it, which may lead nobody to what only we reach (http/reach.py)."""

    def query(self) -> str:
        """What a GET asks; parameters of the realm itself stay in front."""
        asked = [("service", self.service)] if self.service else []
        return urlencode([*asked, *(("scope", scope) for scope in self.scopes)])


class _TokenAnswer(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    expires_in: float | None = None


class Authorizer:
    """The grants that one upstream gave us; safe to use from several threads.

    Two threads may ask for the same token at once: that costs a request, and keeps a slow one from blocking another.
    """

    def __init__(self, upstream: Upstream, http: HttpClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._upstream = upstream
        self._http = http
        self._lock = threading.Lock()
        self._tokens: dict[tuple[_Realm, bool], Grant] = {}
        self._proven: dict[str, Grant] = {}
        self._realms: dict[str, _Realm] = {}

    def proven(self, repository: str) -> Grant | None:
        """What the origin accepted for `repository` lately and probably still does."""
        with self._lock:
            grant = self._proven.get(repository)
            return grant if grant is not None and grant.expires > self._clock() else None

    def prove(self, repository: str, grant: Grant) -> None:
        """Remember that the origin accepted `grant`."""
        with self._lock:
            _bound(self._proven)
            self._proven[repository] = grant

    def reject(self, repository: str, grant: Grant) -> None:
        """Forget a grant that the origin no longer accepts."""
        with self._lock:
            self._proven.pop(repository, None)
            self._tokens = {key: kept for key, kept in self._tokens.items() if kept != grant}

    def answers(self, challenge_line: str, call: Call, *, public_only: bool = False) -> Iterator[Grant]:
        """What to try after a 401 with this WWW-Authenticate, in order; each is obtained when it is asked for.

        `public_only`: the 401 came from a host of the internet, so its realm must be one too.
        Raises `Denied` when the token server refuses our credentials or no scheme is one of ours; `Unavailable`,
        `ProtocolError`.
        """
        challenges = {challenge.scheme: challenge for challenge in reversed(parse_challenges(challenge_line))}
        if bearer := challenges.get("bearer"):
            realm = self._realm(bearer, call, public_only)
            with self._lock:
                _bound(self._realms)
                self._realms[call.wanted.repository.path] = realm
            if anonymous := self._token(realm, None, call):
                yield anonymous
            yield from self.stronger(call)
        elif "basic" in challenges:
            if (credentials := self._credentials(call)) and credentials.username:
                yield Grant(credentials.basic, private=True)
        else:
            raise Denied(f"the registry wants one of {sorted(challenges)} as authorization; Bearer and Basic are ours")

    def stronger(self, call: Call) -> Iterator[Grant]:
        """What to try when an anonymous token wasn't enough: one for our credentials, if there are any."""
        with self._lock:
            realm = self._realms.get(call.wanted.repository.path)
        credentials = self._credentials(call) if realm is not None else None
        if realm is not None and credentials is not None and (grant := self._token(realm, credentials, call)):
            yield grant

    def challenge(self, challenge_line: str, call: Call, *, public_only: bool = False) -> Challenge | None:
        """What a caller who could bring a token is told: what this line says, or what the registry said before.

        None when the registry wants no token. Raises `ProtocolError` for a realm that nobody should be sent to.
        """
        said = relayed(challenge_line)
        if said is not None:
            realm, error = self._realm(said, call, public_only), said.parameters.get("error", "")
        else:
            with self._lock:
                remembered = self._realms.get(call.wanted.repository.path)
            if remembered is None:
                return None
            realm, error = remembered, ""
        parameters = {"realm": str(realm.url), "service": realm.service, "scope": " ".join(realm.scopes)}
        return relayed(str(Challenge("bearer", parameters | {"error": error})))

    @property
    def has_credentials(self) -> bool:
        """Whether a source of credentials is configured."""
        return self._upstream.credentials is not None

    def _credentials(self, call: Call) -> Credentials | None:
        source = self._upstream.credentials
        if source is None:
            return None
        found = source.get(self._upstream.base.authority, call.interrupt)
        return found or source.get(self._upstream.name, call.interrupt)

    def _realm(self, challenge: Challenge, call: Call, public_only: bool) -> _Realm:
        text = challenge.parameters.get("realm", "")
        try:
            url = Url.parse(text)
        except InvalidInput as error:
            raise ProtocolError(f"the registry sends us for a token to a bad address: {error}") from None
        if self._upstream.base.scheme == "https" and url.scheme == "http":
            raise ProtocolError(f"the registry sends us for a token from https to http: {url.shown}")
        if public_only and names_private(url.host):
            raise ProtocolError(
                f"a registry of the internet sends us for a token to {url.shown}, which is no host of it"
            )
        scope = challenge.parameters.get("scope") or f"repository:{call.wanted.repository.path}:pull"
        return _Realm(url, challenge.parameters.get("service", ""), tuple(scope.split()), public_only)

    def _token(self, realm: _Realm, credentials: Credentials | None, call: Call) -> Grant | None:
        """A token, from the cache or the realm; None when it gives none to the anonymous."""
        key = (realm, credentials is not None)
        with self._lock:
            cached = self._tokens.get(key)
        if cached is not None and cached.expires > self._clock():
            return cached
        asked = self._clock()
        with self._ask(realm, credentials, call) as exchange:
            if credentials is None and exchange.status in _NOT_TO_ANYBODY:
                return None
            _check_status(exchange)
            grant = _grant(exchange, asked, private=credentials is not None)
        with self._lock:
            _bound(self._tokens)
            self._tokens[key] = grant
        return grant

    def _ask(self, realm: _Realm, credentials: Credentials | None, call: Call) -> Exchange:
        """The request for a token: GET, or for an identity token the POST of OAuth2 (distribution spec, "oauth2")."""
        if credentials is not None and credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "service": realm.service,
                "client_id": _CLIENT_ID,
                "scope": " ".join(realm.scopes),
                "refresh_token": credentials.identity_token,
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            call.requests += 1
            return self._http.request(
                "POST",
                realm.url,
                headers,
                interrupt=call.interrupt,
                body=urlencode(form).encode(),
                public_only=realm.public_only,
            )
        separator = "&" if "?" in realm.url.target else "?"
        url = Url.parse(f"{realm.url}{separator}{realm.query()}")
        shown = credentials.basic if credentials else ""
        return follow(self._http, "GET", url, {}, shown, call, public_only=realm.public_only)


def _check_status(exchange: Exchange) -> None:
    status, server = exchange.status, exchange.url.shown
    if status in (400, 401, 403):
        raise Denied(f"the token server {server} refuses our credentials ({status}); check user and password")
    if status == 429 or status >= 500:
        raise Unavailable(f"the token server {server} answers {status}; try later")
    if status != 200:
        raise ProtocolError(f"the token server {server} answers {status}; check the realm that the registry names")


def _grant(exchange: Exchange, asked: float, *, private: bool) -> Grant:
    server = exchange.url.shown
    try:
        answer = msgspec.json.decode(exchange.read(_MAX_ANSWER_BYTES), type=_TokenAnswer)
    except (msgspec.MsgspecError, RecursionError):
        raise ProtocolError(f"the token server {server} answers with something that isn't a token") from None
    token = answer.token or answer.access_token
    if _TOKEN_FORM.fullmatch(token) is None:
        raise ProtocolError(f"the token server {server} gives a token that doesn't fit into a header field")
    lifetime = min(max(answer.expires_in or 0.0, _SHORTEST_LIFETIME_SECONDS), _LONGEST_LIFETIME_SECONDS)
    return Grant(f"Bearer {token}", private, asked + lifetime * _USED_LIFETIME)


def _bound(remembered: dict[Any, Any]) -> None:
    """Make room in a cache by dropping what has been there longest."""
    while len(remembered) >= _MAX_REMEMBERED:
        del remembered[next(iter(remembered))]
