"""The tracker as a process: its parts, put together, and its admin address."""

import secrets
from contextlib import ExitStack, suppress
from pathlib import Path

import trio
from prometheus_client import CollectorRegistry

from p2pdist.config import TrackerConfig, is_loopback
from p2pdist.core.errors import InvalidInput
from p2pdist.daemon import listen_tcp, run_daemon
from p2pdist.http.admin import admin_handler
from p2pdist.http.listeners import open_listeners
from p2pdist.http.server import serve as serve_http
from p2pdist.pki import certificates, contexts, files
from p2pdist.pki.authority import Authority
from p2pdist.pki.contexts import Credentials
from p2pdist.pki.peers import id_of
from p2pdist.pki.vouch import Signer, Verifier
from p2pdist.relay.node import RelayNode
from p2pdist.relay.notices import Notice
from p2pdist.relay.session import TlsContexts
from p2pdist.relay.switchboard import NodeAddress
from p2pdist.store import BlobStore
from p2pdist.telemetry import logging
from p2pdist.telemetry.metrics import OnScrape, TrackerMetrics
from p2pdist.tracker.control import Control, Pki, Self
from p2pdist.tracker.distribution import Distribution
from p2pdist.tracker.fleet import Fleet
from p2pdist.tracker.manifests import Manifests
from p2pdist.tracker.origins import Origins

RENEWAL_CHECK_SECONDS = 6 * 3600.0
_SECRET_BYTES = 32
log = logging.get_logger("tracker")


def run(config: TrackerConfig) -> int:
    """Run the tracker until it is told to stop; returns the exit code, raises a `P2PDistError` when it can't go on."""
    logging.setup(config.log.level, config.log.format)
    with ExitStack() as stack:
        tracker = Tracker(config, stack)
        return run_daemon("tracker", tracker.serve)


class Tracker:
    """All parts of one tracker; what must be closed is left to `stack`."""

    def __init__(self, config: TrackerConfig, stack: ExitStack) -> None:
        self._config = config
        self._stack = stack
        self._store = stack.enter_context(BlobStore.open(config.state_dir, config.store.quota_bytes))
        directory = config.state_dir / "pki"
        self._authority = Authority.load(directory) if Authority.present(directory) else None
        self._check_secrecy()
        self._signer = Signer.open(directory)
        self._secret = _relay_secret(directory)
        self._pki: Pki | None = None
        self._relay_tls: TlsContexts | None = None
        self._node = id_of(self._signer.public_key)
        if self._authority is not None:
            credentials = self._authority.server_credentials()
            self._node = _node_of(credentials)
            context = contexts.tracker_control_server(credentials)
            self._pki = Pki(self._authority, config.state_dir / "tracker.sqlite", context)
            self._relay_tls = TlsContexts(contexts.relay_server(credentials), contexts.relay_client(credentials))
        self._origins = stack.enter_context(Origins(config.upstream))
        self._registry = CollectorRegistry()
        self._registry.register(OnScrape(self._refresh_metrics))
        self._metrics = TrackerMetrics(self._registry)
        self._fleet = Fleet(float(config.lease))
        self._reasons: list[str] = ["the tracker is starting"]

    def _check_secrecy(self) -> None:
        control = self._config.control
        if self._authority is not None:
            return
        if all(is_loopback(address) for address in control.listen):
            log.info("control_is_plain", reason="there is no CA, and all control addresses are on the loopback")
        elif control.insecure:
            log.warning(
                "control_is_plain", reason="control.insecure is set: anybody who connects is taken for an agent"
            )
        else:
            raise InvalidInput(
                f"there is no CA in {self._config.state_dir / 'pki'}, and control.listen is not only on the loopback:"
                f" run p2pdist pki init --state-dir {self._config.state_dir}, or set control.insecure = true"
            )

    async def serve(self, nursery: trio.Nursery) -> None:
        """Start everything in `nursery`."""
        config = self._config
        token = trio.lowlevel.current_trio_token()
        listeners = listen_tcp(map(str, config.relay.listen))
        port = listeners[0].getsockname()[1]
        verifier = Verifier({self._signer.key_id: self._signer.public_key})

        def notify(notice: Notice) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(self._distribution.notice, notice)

        relay = RelayNode(self._node, listeners, verifier, notify, self._relay_tls)
        relay.set_secrets([self._secret])
        self._relay = relay
        advertised = config.relay.advertise
        me = Self(
            self._node,
            advertised.host if advertised else "",
            advertised.port if advertised else port,
            (self._secret,),
            (self._signer.public_key.public_bytes_raw(),),
        )
        control = Control(me, self._fleet, self._origins, self._metrics, self._pki)
        self._distribution = Distribution(
            self._node,
            self._fleet,
            self._store,
            self._origins,
            relay,
            self._signer,
            self._metrics,
            nursery,
            control.say,
            control.flush_table,
            encrypted=self._relay_tls is not None,
        )
        manifests = Manifests(self._origins, self._store, nursery, self._metrics)
        control.attach(self._distribution, manifests, self._spread_nodes)
        self._stack.enter_context(relay)
        admin = admin_handler(self._registry, self._why_not_ready)
        nursery.start_soon(serve_http, admin, await open_listeners(str(config.admin.listen)))
        for address in config.control.listen:
            nursery.start_soon(trio.serve_listeners, control.serve, await open_listeners(str(address)))
        nursery.start_soon(control.watch_leases)
        nursery.start_soon(control.spread_table)
        nursery.start_soon(self._verify_store)
        nursery.start_soon(self._renew_certificate)
        self._reasons = []
        log.info("tracker_ready", node=self._node, control=list(config.control.listen), blobs=self._store.opening.blobs)

    def _spread_nodes(self) -> None:
        self._relay.set_nodes(
            {
                agent.node: NodeAddress(agent.member.relay.host, agent.member.relay.port)
                for agent in self._fleet.agents()
            }
        )

    def _why_not_ready(self) -> list[str]:
        dead = [] if self._reasons or self._relay.alive else ["the relay's thread has ended: restart the tracker"]
        return self._reasons + dead

    def _refresh_metrics(self) -> None:
        metrics = self._metrics
        self._distribution.refresh_metrics()
        metrics.relay_peers.set(self._relay.peers)
        metrics.blobs_held.set(sum(1 for _ in self._store.digests()))
        metrics.store_bytes.set(self._store.used_bytes)
        metrics.store_quota_bytes.set(self._store.quota_bytes or 0)
        if self._authority is not None:
            metrics.authority_expiry.set(self._authority.validity.not_after.timestamp())

    async def _verify_store(self) -> None:
        """After an unclean boot, read every blob before it is served."""
        for digest in self._store.unverified():
            good = await trio.to_thread.run_sync(self._store.verify, digest)
            log.info("blob_verified", digest=digest, good=good)

    async def _renew_certificate(self) -> None:
        """Show a fresh certificate before the old one ends; agents' connections stand."""
        while self._authority is not None and self._pki is not None and self._relay_tls is not None:
            credentials = await trio.to_thread.run_sync(self._authority.server_credentials)
            expiry = certificates.parse_certificate(files.read(credentials.certificate), "server.pem")
            self._metrics.certificate_expiry.set(expiry.not_valid_after_utc.timestamp())
            for context in (self._pki.context, self._relay_tls.server, self._relay_tls.client):
                contexts.reload(context, credentials)
            await trio.sleep(RENEWAL_CHECK_SECONDS)


def _relay_secret(directory: Path) -> bytes:
    """The secret that leased nodes prove themselves with to each other; it outlives a restart, as connections do."""
    path = directory / "relay.secret"
    files.make_private_directory(directory)
    if not path.exists():
        files.write_new(path, secrets.token_bytes(_SECRET_BYTES), files.PRIVATE)
    return files.read(path, private=True)


def _node_of(credentials: Credentials) -> str:
    certificate = certificates.parse_certificate(files.read(credentials.certificate), str(credentials.certificate))
    return certificates.peer_of(certificate).id
