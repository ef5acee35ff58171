"""What ties the agent's parts to the control connection: who this agent is, what it holds, what the tracker says.

Everything here runs on the trio thread.
"""

from contextlib import suppress
from dataclasses import dataclass, replace

import trio

from p2pdist import __version__
from p2pdist.agent.by_swarm import endpoints
from p2pdist.agent.control import ControlLink
from p2pdist.agent.library import Library, opened
from p2pdist.agent.relays import Relays
from p2pdist.agent.renewal import Renewal
from p2pdist.agent.supplying import Suppliers
from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput, P2PDistError
from p2pdist.oci.origin import OriginClient, Upstream
from p2pdist.oci.rights import Access
from p2pdist.pki.vouch import public_key_from_bytes
from p2pdist.relay.node import RelayNode
from p2pdist.relay.switchboard import NodeAddress
from p2pdist.store import BlobStore
from p2pdist.swarm import Endpoint, SeedFailed, Swarm
from p2pdist.swarm.endpoint import canonical_address
from p2pdist.telemetry.logging import get_logger
from p2pdist.telemetry.metrics import AgentMetrics
from p2pdist.wire.messages import (
    CAPABILITIES,
    VERSION,
    Deal,
    Dealt,
    Ended,
    Enrolled,
    Epoch,
    Expect,
    Fill,
    HeldBlob,
    Hello,
    Inventory,
    Message,
    RelayPlan,
    Supply,
    Table,
    UpstreamInfo,
    Welcome,
)

_INVENTORY_BLOBS = 5000
log = get_logger("agent")


@dataclass(frozen=True, slots=True)
class Advertised:
    """Where others reach this agent; an empty host stands for the address that the tracker sees."""

    relay_host: str
    relay_port: int
    swarm_host: str
    swarm_port: int


class Upstreams:
    """Origin clients for rescues: the tracker's upstreams, with what the configuration says of them going first.

    To whom their content is given the tracker says alone. The credentials of the configuration are used for upstreams
    whose content the whole fleet gets, and for no others.
    """

    def __init__(self, configured: dict[str, Upstream], via: str = "") -> None:
        self._configured = configured
        self._via = via
        self._told: dict[str, Upstream] = {}
        self._access: dict[str, Access] = {}
        self._clients: dict[str, OriginClient] = {}

    def tell(self, infos: tuple[UpstreamInfo, ...]) -> None:
        """The tracker's list."""
        told: dict[str, Upstream] = {}
        access: dict[str, Access] = {}
        for info in infos:
            with suppress(InvalidInput):
                told[info.name] = Upstream(info.name, info.origin)
                access[info.name] = _access(info.access)
        if (told, access) != (self._told, self._access):
            self._told, self._access = told, access
            self.close()

    def access(self, name: str) -> Access:
        """To whom an upstream's content is given."""
        return self._access.get(name, Access.CLIENT)

    def names(self) -> list[str]:
        """The upstreams that may be spoken to."""
        return list(self._told | self._configured)

    def get(self, name: str) -> Upstream | None:
        """An upstream, None when it isn't known."""
        upstream = (self._told | self._configured).get(name)
        if upstream is not None and self.access(name) is not Access.FLEET:
            return replace(upstream, credentials=None)
        return upstream

    def client(self, name: str) -> OriginClient | None:
        """The origin client of an upstream, None when it isn't known."""
        upstream = self.get(name)
        if upstream is None:
            return None
        if name not in self._clients:
            self._clients[name] = OriginClient(upstream, via=self._via)
        return self._clients[name]

    def close(self) -> None:
        """Close all clients."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()


def _access(text: str) -> Access:
    """A mode as the tracker says it; one that we don't know gives nothing away."""
    try:
        return Access(text)
    except ValueError:
        return Access.ANONYMOUS


class Service:
    """The control connection's listener."""

    def __init__(
        self,
        node: str,
        name: str,
        zone: str,
        advertised: Advertised,
        store: BlobStore,
        relay: RelayNode,
        relays: Relays,
        swarm: Swarm,
        upstreams: Upstreams,
        metrics: AgentMetrics,
        nursery: trio.Nursery,
    ) -> None:
        self._node, self._name, self._zone = node, name, zone
        self._advertised = advertised
        self._store = store
        self._relay = relay
        self._relays = relays
        self._swarm = swarm
        self._upstreams = upstreams
        self._metrics = metrics
        self._nursery = nursery
        self._suppliers = Suppliers(store, relays, nursery)
        self._token = trio.lowlevel.current_trio_token()
        # Without a bound, since what goes mustn't be forgotten; the store's size bounds it.
        self._gone, self._going = trio.open_memory_channel[Digest](float("inf"))
        self._control: ControlLink
        self._library: Library
        self._renewal: Renewal | None = None

    def attach(self, control: ControlLink, library: Library, renewal: Renewal | None) -> None:
        """The parts that need this one first; no `renewal` without a certificate."""
        self._control, self._library, self._renewal = control, library, renewal

    def hello(self) -> Hello:
        """See `Listener`."""
        where = self._advertised
        return Hello(
            VERSION,
            CAPABILITIES,
            f"p2pdist {__version__}",
            self._node,
            self._name,
            self._zone,
            where.relay_host,
            where.relay_port,
            where.swarm_host,
            where.swarm_port,
        )

    def connected(self, welcome: Welcome, tracker: str, tracker_address: str) -> None:
        """See `Listener`."""
        self._relay.set_secrets(list(welcome.relay_secrets))
        self._relays.set_alone(False)
        self._relay.trust(public_key_from_bytes(raw) for raw in welcome.keys)
        self._relays.set_tracker(tracker, NodeAddress(welcome.relay_host or tracker_address, welcome.relay_port))
        self._upstreams.tell(welcome.upstreams)
        self._library.set_upstreams(self._upstreams.names())
        held = []
        for digest, size_bytes in self._store.digests():
            held.append(HeldBlob(str(digest), size_bytes))
            if len(held) == _INVENTORY_BLOBS:
                self._control.say(Inventory(tuple(held)))
                held.clear()
        self._control.say(Inventory(tuple(held)))
        self._relays.reconnected()

    def disconnected(self) -> None:
        """See `Listener`. Relays and swarms go on with what they know."""
        self._relays.set_alone(True)

    def message(self, message: Message) -> None:
        """See `Listener`."""
        match message:
            case Table():
                self._relays.table(message)
            case Epoch() | Fill() | Deal() | Dealt() | Ended():
                self._relays.message(message)
            case Supply():
                self._suppliers.begin(message)
            case RelayPlan():
                self._relays.plan(message)
            case Expect(digest, peers):
                self._nursery.start_soon(self._expect, Digest.parse(digest), endpoints(peers))
            case Enrolled() if self._renewal is not None:
                self._renewal.answered(message)
            case _:
                log.warning("message_ignored", message=type(message).__name__)

    def allow_swarm_peers(self) -> None:
        """Let in whom the table shows; an entry that isn't an IP address costs that member, not the others."""
        hosts = []
        for host in self._relays.swarm_hosts():
            try:
                hosts.append(canonical_address(host))
            except InvalidInput as error:
                log.warning("swarm_address_ignored", reason=str(error))
        self._swarm.allow_peers(hosts)

    async def _expect(self, digest: Digest, peers: list[Endpoint]) -> None:
        """Peers come for a blob that we hold: load its torrent, and dial them too. Private blobs aren't swarmed."""
        try:
            if self._swarm.add_peers(digest, peers) or not self._store.has(digest):
                return
            record = await trio.to_thread.run_sync(self._store.record, digest)
            if record is None or record.metainfo is None or record.private:
                return
            async with opened(self._store, digest) as blob:
                await self._swarm.seed(blob.path, record.metainfo)
            self._swarm.add_peers(digest, peers)
        except P2PDistError as error:
            log.warning("seeding_failed", digest=digest, reason=str(error))

    def evicted(self, digest: Digest) -> None:
        """A blob is gone from the store; may be called from any thread, at any time."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._gone.send_nowait, digest)

    async def watch_store(self) -> None:
        """Tell the tracker of blobs that went, and seed them no more."""
        async for digest in self._going:
            self._metrics.evictions.inc()
            self._control.say(Inventory((), (str(digest),)))
            try:
                await self._swarm.unload(digest)
            except P2PDistError as error:
                log.warning("unloading_failed", digest=digest, reason=str(error))

    async def watch_swarm(self) -> None:
        """A blob that can't be seeded is wrong or unreadable: verify it."""
        async for event in self._swarm.events:
            if isinstance(event, SeedFailed) and self._store.has(event.digest):
                log.warning("seed_failed", digest=event.digest, reason=event.reason)
                try:
                    if not await trio.to_thread.run_sync(self._store.verify, event.digest):
                        self._metrics.quarantined.inc()
                except P2PDistError as error:
                    log.warning("blob_not_verified", digest=event.digest, reason=str(error))

    async def verify_store(self) -> None:
        """After an unclean boot, read every blob before it is served."""
        for digest in self._store.unverified():
            try:
                if await self._library.holds(digest):
                    size_bytes = dict(self._store.digests()).get(digest, 0)
                    self._control.say(Inventory((HeldBlob(str(digest), size_bytes),)))
            except P2PDistError as error:
                log.warning("blob_not_verified", digest=digest, reason=str(error))
