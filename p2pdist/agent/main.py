"""The agent as a process: its parts, put together, its listeners, its admin address."""

import socket
import ssl
from contextlib import ExitStack, suppress

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client import CollectorRegistry

from p2pdist.agent.account import Accounts
from p2pdist.agent.arrival import Means
from p2pdist.agent.checkup import CheckupReporter
from p2pdist.agent.control import ControlLink
from p2pdist.agent.enrol import identity_of, plain_is_fine
from p2pdist.agent.explain import Explainer
from p2pdist.agent.front import Front
from p2pdist.agent.guard import commands_only
from p2pdist.agent.image_pull import ImagePuller
from p2pdist.agent.library import Library
from p2pdist.agent.passing import PassThrough
from p2pdist.agent.relays import Relays
from p2pdist.agent.renewal import Renewal
from p2pdist.agent.service import Advertised, Service, Upstreams
from p2pdist.agent.shim import Shim
from p2pdist.agent.status import Reporter
from p2pdist.config import Address, AgentConfig, is_loopback
from p2pdist.config import AgentUpstream as UpstreamConfig
from p2pdist.core.errors import InvalidInput, Unavailable
from p2pdist.daemon import advertised, allow_descriptors, listen_tcp, run_daemon
from p2pdist.http.activation import Inherited
from p2pdist.http.admin import admin_handler
from p2pdist.http.listeners import CannotListen
from p2pdist.http.server import Request, Response
from p2pdist.http.server import serve as serve_http
from p2pdist.oci.credentials import credential_source
from p2pdist.oci.origin import Upstream
from p2pdist.pki import contexts
from p2pdist.pki.identity import Identity, open_key
from p2pdist.pki.peers import id_of
from p2pdist.pki.vouch import Signer, Verifier
from p2pdist.relay.node import RelayNode
from p2pdist.relay.notices import Notice
from p2pdist.relay.session import TlsContexts
from p2pdist.store import BlobStore
from p2pdist.swarm import Endpoint, Swarm, SwarmSettings
from p2pdist.telemetry import logging
from p2pdist.telemetry.events import EventLog
from p2pdist.telemetry.metrics import AgentMetrics, OnScrape
from p2pdist.wire.messages import Message

log = logging.get_logger("agent")


def run(config: AgentConfig) -> int:
    """Run the agent until it is told to stop; returns the exit code, raises a `P2PDistError` when it can't go on."""
    logging.setup(config.log.level, config.log.format)
    allow_descriptors()
    with ExitStack() as stack:
        events = stack.enter_context(EventLog.open(config.log.events)) if config.log.events is not None else None
        store = stack.enter_context(BlobStore.open(config.state_dir, config.store.quota_bytes))
        agent = _Agent(config, store, events)
        return run_daemon("agent", agent.serve, agent.drain)


class _Agent:
    """One agent while it starts; its parts know each other afterwards."""

    def __init__(self, config: AgentConfig, store: BlobStore, events: EventLog | None) -> None:
        self._config = config
        self._store = store
        self._events = events
        self._explainer: Explainer | None = None
        self._checker: CheckupReporter | None = None
        self._renewal: Renewal | None = None
        self._reporter: Reporter | None = None
        self._images: ImagePuller | None = None
        enrolled = (config.state_dir / "identity" / "agent.pem").exists()
        self._front = Front(may_wait=enrolled or config.tracker.join_token is None)
        self._registry = CollectorRegistry()
        self._registry.register(OnScrape(self._refresh))
        self._metrics = AgentMetrics(self._registry)

    async def serve(self, nursery: trio.Nursery) -> None:
        """Start everything in `nursery`: first what answers, so that an agent that waits can say what it waits for."""
        config = self._config
        host = config.admin.listen.host
        routes = {
            ("GET", "/v1/status"): commands_only(self._status, host),
            ("GET", "/v1/checkup"): commands_only(self._checkup, host),
            ("GET", "/v1/explain"): commands_only(self._explain, host),
            ("POST", "/v1/pull"): commands_only(self._pull, host),
        }
        admin = admin_handler(self._registry, self._why_not_ready, routes)
        inherited = Inherited.take()
        listeners, _ = await inherited.open("admin", str(config.admin.listen))
        nursery.start_soon(serve_http, admin, listeners)
        await self._front.listen(nursery, inherited, map(str, config.shim.listen))
        inherited.check_none_left()
        swarm_at = [endpoint for address in config.swarm.listen for endpoint in _endpoints(address)]
        relay_sockets = listen_tcp(map(str, config.relay.listen))
        with ExitStack() as owned:
            for sock in relay_sockets:
                owned.enter_context(sock)
            key, control_context, relay_tls = await self._get_identity()
            async with Swarm.open(SwarmSettings(listen=tuple(swarm_at))) as swarm, trio.open_nursery() as parts:
                await self._run_parts(key, control_context, relay_tls, swarm, relay_sockets, parts, owned)

    async def _run_parts(
        self,
        key: Ed25519PrivateKey,
        control_context: ssl.SSLContext | None,
        relay_tls: TlsContexts | None,
        swarm: Swarm,
        relay_sockets: list[socket.socket],
        parts: trio.Nursery,
        owned: ExitStack,
    ) -> None:
        config, store, metrics = self._config, self._store, self._metrics
        node, signer = id_of(key.public_key()), Signer(key, agent=True)
        token = trio.lowlevel.current_trio_token()
        upstreams = Upstreams({each.name: each for each in map(_upstream, config.upstream)}, node)

        def notify(notice: Notice) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(relays.notice, notice)

        def say(message: Message) -> None:
            control.say(message)

        def allow_peers() -> None:
            service.allow_swarm_peers()

        where = Advertised(
            *advertised(config.relay.advertise, relay_sockets[0].getsockname()[1]),
            *advertised(config.swarm.advertise, swarm.addresses[0].port),
        )
        name, zone = str(config.node_name), str(config.zone or "")
        events, accounts = self._events, Accounts(self._events)
        if events is not None:
            events.introduce(node, name, "agent")
        relay = RelayNode(node, relay_sockets, Verifier({}), notify, relay_tls, events)
        owned.pop_all()
        relays = Relays(node, relay, metrics, say, allow_peers, events)
        service = Service(node, name, zone, where, store, relay, relays, swarm, upstreams, metrics, parts)
        control = ControlLink(
            config.tracker.address.host, config.tracker.address.port, lambda: control_context, service
        )
        means = Means(store, control, relays, swarm, metrics, upstreams.client, signer, accounts)
        library = Library(means, parts, upstreams.access)
        service.attach(control, library, self._renewal)
        names = [str(address) for address in config.shim.listen]
        default = str(config.shim.default_upstream) if config.shim.default_upstream else None
        shims: dict[str, str | None] = dict.fromkeys(names, default)
        elsewhere = PassThrough(upstreams, node)
        stop_evictions = store.on_evicted(service.evicted)
        try:
            with relay:
                self._reporter = Reporter(
                    node, name, shims, self._front.clients, control, library, relays, relay, swarm, store, metrics
                )
                self._explainer = Explainer(node, name, accounts, relays, store)
                self._checker = CheckupReporter(config, store, relays, self._identity)
                self._images = ImagePuller(library, parts)
                shim = Shim(
                    library, elsewhere, metrics, default, login=config.shim.login, ours=lambda: (node, control.tracker)
                )
                parts.start_soon(control.run)
                parts.start_soon(self._front.settle, shim, control)
                parts.start_soon(self._reporter.sample)
                parts.start_soon(service.watch_swarm)
                parts.start_soon(service.watch_store)
                parts.start_soon(service.verify_store)
                if self._renewal is not None:
                    parts.start_soon(self._renewal.run, control)
                log.info("agent_ready", node=node, shims=names, blobs=store.opening.blobs)
                await trio.sleep_forever()
        finally:
            stop_evictions()
            elsewhere.close()
            upstreams.close()

    async def _get_identity(self) -> tuple[Ed25519PrivateKey, ssl.SSLContext | None, TlsContexts | None]:
        """Our key, and the TLS contexts of control and relay; none where plain connections are fine."""
        config = self._config
        directory = config.state_dir / "identity"
        enrolled = (directory / "agent.pem").exists()
        access = config.tracker
        if not enrolled and plain_is_fine(access, is_loopback(access.address)):
            key = await trio.to_thread.run_sync(open_key, directory)
            return key, None, None
        identity = await identity_of(directory, access, str(config.node_name))
        if access.ca_hash is not None and str(access.ca_hash) != identity.ca_hash:
            raise InvalidInput(
                f"this host is enrolled with the CA {identity.ca_hash}, but tracker.ca_hash is {access.ca_hash}:"
                f" remove {directory} and enrol anew if the fleet has changed"
            )
        credentials = identity.credentials
        control = contexts.agent_control_client(credentials)
        tls = TlsContexts(contexts.relay_server(credentials), contexts.relay_client(credentials))
        self._renewal = Renewal(directory, identity, [control, tls.server, tls.client])
        return identity.key, control, tls

    async def drain(self) -> None:
        """Let go of the clients: see `Front.drain`. Everything else goes on meanwhile."""
        await self._front.drain(float(self._config.shim.drain))

    async def _status(self, request: Request, response: Response) -> None:
        if self._reporter is None:
            raise Unavailable(self._why_not_ready()[0])
        await self._reporter.handle(request, response)

    async def _checkup(self, request: Request, response: Response) -> None:
        if self._checker is None:
            raise Unavailable(self._why_not_ready()[0])
        await self._checker.handle(request, response)

    async def _explain(self, request: Request, response: Response) -> None:
        if self._explainer is None:
            raise Unavailable(self._why_not_ready()[0])
        await self._explainer.handle(request, response)

    async def _pull(self, request: Request, response: Response) -> None:
        if self._images is None:
            raise Unavailable(self._why_not_ready()[0])
        await self._images.handle(request, response)

    def _identity(self) -> Identity | None:
        return self._renewal.identity if self._renewal is not None else None

    def _why_not_ready(self) -> list[str]:
        draining = self._front.why_not_ready()
        if self._reporter is not None:
            return draining + self._reporter.why_not_ready()
        if self._renewal is None:
            return [*draining, f"not enrolled yet: waiting for the tracker {self._config.tracker.address}"]
        return [*draining, "the agent is starting"]

    def _refresh(self) -> None:
        if self._reporter is not None:
            self._reporter.refresh_metrics()
        if self._events is not None:
            self._metrics.events_dropped.inc(self._events.newly_dropped())
        if self._renewal is not None:
            self._metrics.certificate_expiry.set(self._renewal.identity.validity.not_after.timestamp())


def _upstream(configured: UpstreamConfig) -> Upstream:
    source = credential_source(configured.credentials_file, configured.credential_helper or "")
    return Upstream(str(configured.name), str(configured.origin_url), configured.ca_file, source, int(configured.rate))


def _endpoints(address: Address) -> list[Endpoint]:
    """The IP addresses that a listening address of the swarm means; raises `CannotListen`."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise CannotListen(f"cannot listen on {address}: {error.strerror}") from error
    return list(dict.fromkeys(Endpoint(str(where[0]), int(where[1])) for *_, where in found))
