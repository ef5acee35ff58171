"""GET /v1/checkup: what `p2pdist doctor` can't see from outside the agent: certificate, store, the other agents."""

import shutil
from collections.abc import Callable

import msgspec
import trio

from p2pdist.agent.relays import Relays
from p2pdist.agent.report import Certificate, Checkup, StoreSpace
from p2pdist.config import AgentConfig
from p2pdist.http.server import Request, Response
from p2pdist.pki.identity import Identity
from p2pdist.store import BlobStore

_MOST_PEERS = 16


class CheckupReporter:
    """Answers for one agent; `identity` is who it is, None where connections are plain."""

    def __init__(
        self, config: AgentConfig, store: BlobStore, relays: Relays, identity: Callable[[], Identity | None]
    ) -> None:
        self._config = config
        self._store = store
        self._relays = relays
        self._identity = identity

    async def handle(self, _request: Request, response: Response) -> None:
        """The handler."""
        usage = await trio.to_thread.run_sync(shutil.disk_usage, self._config.state_dir)
        identity = self._identity()
        certificate = None
        if identity is not None:
            held = identity.validity
            certificate = Certificate(
                name=identity.peer.name,
                not_before=held.not_before.timestamp(),
                renew_after=held.renew_after.timestamp(),
                not_after=held.not_after.timestamp(),
            )
        store = StoreSpace(
            path=str(self._config.state_dir),
            used_bytes=self._store.used_bytes,
            quota_bytes=self._store.quota_bytes or 0,
            free_bytes=usage.free,
        )
        checkup = Checkup(certificate=certificate, store=store, peers=self._relays.addresses(_MOST_PEERS))
        await response.send(200, {"Content-Type": "application/json"}, msgspec.json.encode(checkup) + b"\n")
