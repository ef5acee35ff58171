"""One request to an origin, with everything around it: authorization, patience, and errors that say what to do.

Runs in a worker thread. Knows nothing of what the bodies mean.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from p2pdist.core.errors import BlobUnknown, Denied, ManifestUnknown, P2PDistError, ProtocolError, Unavailable
from p2pdist.http.client import ConnectionBroken, Exchange, HttpClient
from p2pdist.http.dial import ConnectFailed
from p2pdist.http.retry_after import parse_retry_after
from p2pdist.oci.authorizer import Authorizer, Grant
from p2pdist.oci.bearer import BearerToken
from p2pdist.oci.call import Call, Wanted
from p2pdist.oci.errors import Unauthorized, parse_error_body
from p2pdist.oci.redirects import discard, follow
from p2pdist.oci.upstream import Upstream

_MAX_ERROR_BYTES = 64 * 1024
_FINE = (200, 206)
_TRY_LATER = (429, 503)
_FAILURES = (500, 502, 504)
_MAYBE_WITH_MORE = (401, 403, 404, 429)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came, its body not yet read, and whether our credentials were needed for it. The exchange must be closed."""

    exchange: Exchange
    private: bool


class OriginSession:
    """Requests to one upstream; safe to use from several threads. With a `caller` nothing but his token is shown."""

    def __init__(
        self,
        upstream: Upstream,
        http: HttpClient,
        head_seconds: float,
        authorizer: Authorizer,
        caller: BearerToken | None = None,
    ) -> None:
        self._upstream = upstream
        self._http = http
        self._authorizer = authorizer
        self._head_seconds = head_seconds
        self._caller = caller

    def on_behalf_of(self, caller: BearerToken) -> "OriginSession":
        """The same with what the token of `caller` may read, and nothing else."""
        return OriginSession(self._upstream, self._http, self._head_seconds, self._authorizer, caller)

    def send(self, method: str, headers: Mapping[str, str], call: Call, *, tolerated: Collection[int] = ()) -> Answer:
        """GET or HEAD what `call` wants; an answer of status 200, 206 or one of `tolerated`.

        Waits and asks again, within the call's limits, when a connection fails or the origin fails or has no time.
        Raises `Denied` (`Unauthorized` where a token of somebody's could help), `ManifestUnknown`, `BlobUnknown`,
        `Unavailable` or `ProtocolError`, which name what was wanted.
        """
        with call.wanted.explaining():
            while True:
                try:
                    with call.within(self._head_seconds):
                        exchange, grant = self._authorized(method, headers, call)
                except (ConnectionBroken, ConnectFailed) as error:
                    call.failed(error)
                    continue
                if exchange.status in _FINE or exchange.status in tolerated:
                    return Answer(exchange, grant is not None and grant.private)
                with exchange, call.within(self._head_seconds):
                    body = _start(exchange)
                if exchange.status in _FAILURES:
                    call.failed(self._refusal(exchange, body, call))
                    continue
                if exchange.status not in _TRY_LATER:
                    raise self._refusal(exchange, body, call)
                call.wait(parse_retry_after(exchange.headers.get("retry-after", ""), datetime.now(UTC)))

    def ask(self, method: str, headers: Mapping[str, str], call: Call) -> Answer:
        """GET or HEAD what `call` wants, with as much authorization as it takes; whatever the answer's status is."""
        exchange, grant = self._authorized(method, headers, call)
        return Answer(exchange, grant is not None and grant.private)

    def _authorized(self, method: str, headers: Mapping[str, str], call: Call) -> tuple[Exchange, Grant | None]:
        """The answer to the least authorization that is accepted; the last refusal when none is."""
        url = self._upstream.url(call.wanted.path)
        if self._caller is not None:
            shown = Grant(self._caller.authorization, private=True)
            return follow(self._http, method, url, headers, shown.authorization, call), shown
        repository = call.wanted.repository.path
        grant = self._authorizer.proven(repository)
        exchange = follow(self._http, method, url, headers, grant.authorization if grant else "", call)
        try:
            for stronger in self._stronger(exchange, grant, call):
                with exchange:
                    discard(exchange)
                grant = stronger
                exchange = follow(self._http, method, url, headers, grant.authorization, call)
                if exchange.status not in _MAYBE_WITH_MORE:
                    break
        except BaseException:
            exchange.close()
            raise
        if grant is not None and exchange.status in _FINE:
            self._authorizer.prove(repository, grant)
        return exchange, grant

    def _stronger(self, exchange: Exchange, grant: Grant | None, call: Call) -> Iterator[Grant]:
        """What to try after `exchange`, if it is a refusal that authorization could change."""
        if exchange.status == 401:
            if grant is not None:
                self._authorizer.reject(call.wanted.repository.path, grant)
            line = exchange.headers.get("www-authenticate", "")
            return self._authorizer.answers(line, call, public_only=not exchange.inside)
        if exchange.status in _MAYBE_WITH_MORE and grant is not None and not grant.private:
            return self._authorizer.stronger(call)
        return iter(())

    def _refusal(self, exchange: Exchange, body: bytes, call: Call) -> P2PDistError:
        """The error for a refusal, with the challenge that a caller could answer."""
        error = _refusal(exchange.status, body, call.wanted, self._authorizer.has_credentials)
        ours = self._caller is None and self._authorizer.has_credentials
        if not isinstance(error, Denied) or ours or (self._caller is not None and exchange.status == 403):
            return error
        line = exchange.headers.get("www-authenticate", "")
        challenge = self._authorizer.challenge(line, call, public_only=not exchange.inside)
        if challenge is None:
            return error
        if self._caller is None:
            # What is wrong with an anonymous token of ours is nothing that a caller has to know.
            challenge = challenge.without("error")
        return Unauthorized(str(error)).with_challenge(challenge)


def _start(exchange: Exchange) -> bytes:
    """What a refusal says; that it can't be read doesn't make it less of a refusal."""
    try:
        return exchange.read_start(_MAX_ERROR_BYTES)
    except (ConnectionBroken, ProtocolError):
        return b""


def _refusal(status: int, body: bytes, wanted: Wanted, has_credentials: bool) -> P2PDistError:
    """The error for an answer that isn't what was wanted."""
    said = "; ".join(f"{code}: {message}" if message else code for code, message in parse_error_body(body))
    answered = f"the registry answers {status}" + (f" ({said})" if said else "")
    name = wanted.repository.registry
    if status == 401 and not has_credentials:
        return Denied(f"{answered}; it wants credentials: set credentials_file or credential_helper of {name}")
    if status in (401, 403):
        return Denied(f"{answered}; check that the account for {name} exists and may read this repository")
    if status == 404:
        unknown = BlobUnknown if wanted.is_blob else ManifestUnknown
        return unknown(f"{answered}; check the name, and that the account for {name} may read it if it is private")
    if status == 429 or status >= 500:
        return Unavailable(f"{answered}; try later")
    return ProtocolError(f"{answered}, which is no answer to such a request; check the origin of {name}")
