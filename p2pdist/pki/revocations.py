"""Agents that an operator shut out, in the tracker's database.

Certificates renew by themselves, so a stolen key would be good for ever. The tracker asks here at every registration
and every renewal; an agent without a lease is served by nobody, since relay and swarm connections are accepted only
from leased agents.
"""

import time

from p2pdist.core.errors import InvalidInput
from p2pdist.pki.database import Database, reading, transaction
from p2pdist.pki.errors import AgentRevoked
from p2pdist.pki.peers import is_id


def revoke(database: Database, agent_id: str, *, now: float | None = None) -> None:
    """Shut `agent_id` out, for good: its key gets no lease and no certificate any more."""
    if not is_id(agent_id):
        raise InvalidInput(f"{agent_id[:80]!r} isn't an agent's id, which has 32 hex digits")
    with transaction(database) as connection:
        connection.execute(
            "INSERT OR IGNORE INTO revoked_agent (agent_id, revoked_at) VALUES (?, ?)",
            (agent_id, time.time() if now is None else now),
        )


def check(database: Database, agent_id: str) -> None:
    """Raise `AgentRevoked` when `agent_id` was shut out."""
    with reading(database) as connection:
        found = connection.execute("SELECT 1 FROM revoked_agent WHERE agent_id = ?", (agent_id,)).fetchone()
    if found:
        raise AgentRevoked(f"agent {agent_id} was revoked; to let this host in again, remove its key and enrol it anew")


def listed(database: Database) -> dict[str, float]:
    """Every agent that was shut out, and when (Unix seconds)."""
    with reading(database) as connection:
        return dict(connection.execute("SELECT agent_id, revoked_at FROM revoked_agent ORDER BY revoked_at"))
