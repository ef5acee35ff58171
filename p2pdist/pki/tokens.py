"""Join tokens: who knows one may enrol. Kept in the tracker's database, as hashes only.

A token is 192 random bits, so neither guessing nor the database's content helps anybody. It lets in `uses` different
agents until it expires. An agent that comes again with the same key doesn't count again, because the answer to its
first request may have been lost.
"""

import hashlib
import secrets
import sqlite3
import time
from dataclasses import dataclass
from enum import StrEnum

from p2pdist.core.errors import InvalidInput, NotFound
from p2pdist.pki.database import Database, reading, transaction
from p2pdist.pki.errors import TokenExpired, TokenRevoked, TokenUnknown, TokenUsedUp

PREFIX = "p2pjoin_"
DEFAULT_TTL_SECONDS = 24 * 3600.0
MAX_TTL_SECONDS = 366 * 86400.0
MAX_USES = 1_000_000
_RANDOM_BYTES = 24
_MAX_TOKEN_CHARACTERS = 128
_KEEP_SECONDS = 30 * 86400.0
_ID_DIGITS = 12
_SHORTEST_ID = 6


class TokenState(StrEnum):
    """What a token is good for."""

    VALID = "valid"
    USED_UP = "used up"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What is known of a token: not its text. `id` is the start of its hash, to name it by; times are Unix seconds."""

    id: str
    created_at: float
    expires_at: float
    uses: int
    used_by: tuple[str, ...]
    revoked_at: float | None

    def state(self, now: float) -> TokenState:
        """What it is good for at `now`."""
        if self.revoked_at is not None:
            return TokenState.REVOKED
        if now >= self.expires_at:
            return TokenState.EXPIRED
        return TokenState.USED_UP if len(self.used_by) >= self.uses else TokenState.VALID


def create(
    database: Database, *, ttl_seconds: float = DEFAULT_TTL_SECONDS, uses: int = 1, now: float | None = None
) -> str:
    """A new token's text, which can't be had again; raises `InvalidInput` for a lifetime or number out of range."""
    if not 1 <= ttl_seconds <= MAX_TTL_SECONDS:
        raise InvalidInput(f"a join token may live from 1s to 366d, not {ttl_seconds:g} seconds")
    if not 1 <= uses <= MAX_USES:
        raise InvalidInput(f"a join token may have 1 to {MAX_USES} uses, not {uses}")
    now = time.time() if now is None else now
    token = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    with transaction(database) as connection:
        # Those that have been of no use for a month are forgotten, so that the table doesn't grow for ever.
        old = (now - _KEEP_SECONDS,)
        connection.execute("DELETE FROM join_use WHERE hash IN (SELECT hash FROM join_token WHERE expires_at < ?)", old)
        connection.execute("DELETE FROM join_token WHERE expires_at < ?", old)
        connection.execute(
            "INSERT INTO join_token (hash, created_at, expires_at, uses) VALUES (?, ?, ?, ?)",
            (_hash(token), now, now + ttl_seconds, uses),
        )
    return token


def redeem(database: Database, token: str, agent_id: str, *, now: float | None = None) -> None:
    """Use `token` once for `agent_id`; atomic, and free when this agent has used it before.

    Raises `TokenUnknown`, `TokenRevoked`, `TokenExpired` or `TokenUsedUp`.
    """
    if not token.startswith(PREFIX) or len(token) > _MAX_TOKEN_CHARACTERS:
        raise TokenUnknown(f"that isn't a join token: one starts with {PREFIX}; make one with: p2pdist pki token")
    now = time.time() if now is None else now
    key = _hash(token)
    with transaction(database) as connection:
        found = _select(connection, "WHERE hash = ?", key)
        if not found:
            raise TokenUnknown("this tracker knows no such join token; make one with: p2pdist pki token")
        (known,) = found
        state = known.state(now)
        if state is TokenState.REVOKED:
            raise TokenRevoked(f"the join token {known.id} was revoked; make another with: p2pdist pki token")
        if state is TokenState.EXPIRED:
            raise TokenExpired(f"the join token {known.id} has expired; make another with: p2pdist pki token")
        if agent_id in known.used_by:
            return
        if state is TokenState.USED_UP:
            raise TokenUsedUp(
                f"the join token {known.id} is used up ({known.uses} of {known.uses});"
                " make another with: p2pdist pki token --uses N"
            )
        connection.execute("INSERT INTO join_use (hash, agent_id, used_at) VALUES (?, ?, ?)", (key, agent_id, now))


def listed(database: Database) -> list[JoinToken]:
    """Every token that is remembered, the newest first."""
    with reading(database) as connection:
        return _select(connection, "ORDER BY created_at DESC, hash")


def revoke(database: Database, token: str, *, now: float | None = None) -> JoinToken:
    """Take a token back, named by its text or its id (or the start of it); what it let in stays in.

    Raises `NotFound` when there is none such, `InvalidInput` when several ids start like that.
    """
    now = time.time() if now is None else now
    wanted = _hash(token).hex() if token.startswith(PREFIX) else token.lower()
    if len(wanted) < _SHORTEST_ID:
        raise InvalidInput(f"name a join token by at least {_SHORTEST_ID} digits of its id, or by its text")
    with transaction(database) as connection:
        found = [hash_ for (hash_,) in connection.execute("SELECT hash FROM join_token") if _named(hash_, wanted)]
        if not found:
            raise NotFound("there is no such join token; list them with: p2pdist pki tokens")
        if len(found) > 1:
            raise InvalidInput(f"{len(found)} join tokens start with {wanted[:64]}; write more digits")
        connection.execute("UPDATE join_token SET revoked_at = ifnull(revoked_at, ?) WHERE hash = ?", (now, found[0]))
        return _select(connection, "WHERE hash = ?", found[0])[0]


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _named(hash_: bytes, wanted: str) -> bool:
    return hash_.hex().startswith(wanted)


def _select(connection: sqlite3.Connection, rest: str, *parameters: object) -> list[JoinToken]:
    rows = connection.execute(
        f"SELECT hash, created_at, expires_at, uses, revoked_at FROM join_token {rest}", parameters
    ).fetchall()
    return [
        JoinToken(hash_.hex()[:_ID_DIGITS], created, expires, uses, _used_by(connection, hash_), revoked)
        for hash_, created, expires, uses, revoked in rows
    ]


def _used_by(connection: sqlite3.Connection, hash_: bytes) -> tuple[str, ...]:
    rows = connection.execute("SELECT agent_id FROM join_use WHERE hash = ? ORDER BY used_at, agent_id", (hash_,))
    return tuple(agent_id for (agent_id,) in rows)
