"""The tracker as a process: its parts, put together, and its admin address."""

import math
import secrets
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from ssl import SSLContext

import trio
from prometheus_client import CollectorRegistry

from p2pdist.config import TrackerConfig, is_loopback
from p2pdist.core.errors import InvalidInput, P2PDistError
from p2pdist.daemon import advertised, allow_descriptors, listen_tcp, run_daemon
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
from p2pdist.telemetry.events import EventLog
from p2pdist.telemetry.metrics import OnScrape, TrackerMetrics
from p2pdist.tracker.admission import Admission, Pki
from p2pdist.tracker.control import Control, Introduction
from p2pdist.tracker.distribution import Distribution
from p2pdist.tracker.fleet import Fleet
from p2pdist.tracker.leases import Leases
from p2pdist.tracker.lines import Lines
from p2pdist.tracker.manifests import Manifests
from p2pdist.tracker.origins import Origins
from p2pdist.tracker.table import TableSpread
from p2pdist.tracker.zones import zone_of

RENEWAL_CHECK_SECONDS = 6 * 3600.0
RELAY_CHECK_SECONDS = 0.5
_SECRET_BYTES = 32
log = logging.get_logger("tracker")


class RelayEnded(P2PDistError):
    """The relay's thread died."""


def run(config: TrackerConfig) -> int:
    """Run the tracker until it is told to stop; returns the exit code, raises a `P2PDistError` when it can't go on."""
    logging.setup(config.log.level, config.log.format)
    allow_descriptors()
    with ExitStack() as stack:
        tracker = Tracker(config, stack)
        return run_daemon("tracker", tracker.serve)


class Tracker:
    """All parts of one tracker; what must be closed is left to `stack`."""

    def __init__(self, config: TrackerConfig, stack: ExitStack) -> None:
        self._config = config
        self._stack = stack
        directory = config.state_dir / "pki"
        self._authority = Authority.load(directory) if Authority.present(directory) else None
        _check_secrecy(config, self._authority is not None)
        file = config.log.events
        self._events = stack.enter_context(EventLog.open(file)) if file is not None else None
        self._store = stack.enter_context(BlobStore.open(config.state_dir, config.store.quota_bytes))
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
        self._registry = CollectorRegistry()
        self._registry.register(OnScrape(self._refresh_metrics))
        self._metrics = TrackerMetrics(self._registry)
        takes_tokens = self._authority is not None
        self._origins = stack.enter_context(
            Origins(config.upstream, self._metrics, takes_tokens=takes_tokens, via=self._node)
        )
        self._fleet = Fleet(float(config.lease))
        self._reasons: list[str] = ["the tracker is starting"]
        self._takeovers = 0
        self.listening: dict[str, list[str]] = {}

    async def serve(self, nursery: trio.Nursery) -> None:
        """Start everything in `nursery`; then `listening` says where, and so does the log."""
        config = self._config
        if self._events is not None:
            self._events.introduce(self._node, "tracker", "tracker")
        notices, hear = trio.open_memory_channel[Notice](math.inf)
        relay, relay_port = self._open_relay(notices)
        lines = Lines(self._metrics)
        table = TableSpread(self._fleet, lines, self._metrics, self._spread_nodes)
        self._distribution = Distribution(
            self._node,
            self._fleet,
            self._store,
            self._origins,
            relay,
            self._signer,
            self._metrics,
            nursery,
            lines.say,
            table.flush,
            encrypted=self._relay_tls is not None,
            zone_of=partial(zone_of, config.relay.copy_per),
            home=zone_of(config.relay.copy_per, config.relay.zone or ""),
            events=self._events,
        )
        leases = Leases(self._fleet, lines, table, self._metrics, self._distribution.disconnected)
        control = Control(
            self._introduction(relay_port),
            Admission(self._node, self._metrics, self._pki),
            self._fleet,
            lines,
            leases,
            self._distribution,
            Manifests(self._origins, self._store, nursery, self._metrics),
            self._origins.rights,
            self._metrics,
        )
        self._stack.enter_context(relay)
        admin = await open_listeners(str(config.admin.listen))
        nursery.start_soon(serve_http, admin_handler(self._registry, self._why_not_ready), admin)
        control_listeners = [one for address in config.control.listen for one in await open_listeners(str(address))]
        nursery.start_soon(trio.serve_listeners, control.serve, control_listeners)
        for loop in (leases.watch, table.run, control.reassure, self._distribution.relaying.watch_stalls):
            nursery.start_soon(loop)
        if self._pki is not None:
            nursery.start_soon(leases.watch_revocations, self._pki.database)
        nursery.start_soon(self._hear, hear)
        nursery.start_soon(self._watch_relay)
        nursery.start_soon(self._verify_store)
        nursery.start_soon(self._renew_certificate)
        self._reasons = []
        self.listening = {"control": _addresses(control_listeners), "admin": _addresses(admin)}
        log.info(
            "tracker_ready",
            node=self._node,
            relay_port=relay_port,
            blobs=self._store.opening.blobs,
            **self.listening,
        )

    def _open_relay(self, notices: trio.MemorySendChannel[Notice]) -> tuple[RelayNode, int]:
        """The relay, not started yet, and its port. Its thread can't wait, so what it tells is queued without limit."""
        token = trio.lowlevel.current_trio_token()
        listeners = listen_tcp(map(str, self._config.relay.listen))
        verifier = Verifier({self._signer.key_id: self._signer.public_key})

        def notify(notice: Notice) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(notices.send_nowait, notice)

        port = int(listeners[0].getsockname()[1])
        relay = self._relay = RelayNode(self._node, listeners, verifier, notify, self._relay_tls, self._events)
        relay.set_secrets([self._secret])
        return relay, port

    def _introduction(self, relay_port: int) -> Introduction:
        host, port = advertised(self._config.relay.advertise, relay_port)
        return Introduction(
            host,
            port,
            (self._secret,),
            (self._signer.public_key.public_bytes_raw(),),
            self._origins.infos(),
        )

    def _spread_nodes(self) -> None:
        self._relay.set_nodes(
            {
                agent.node: NodeAddress(agent.member.relay.host, agent.member.relay.port)
                for agent in self._fleet.agents()
            }
        )

    # Background.

    async def _hear(self, notices: trio.MemoryReceiveChannel[Notice]) -> None:
        """Act on what the relay's thread tells; one notice that fails isn't the end of all."""
        async for notice in notices:
            try:
                self._distribution.notice(notice)
            except Exception as error:
                log.exception("notice_failed", error, notice=notice)

    async def _watch_relay(self) -> None:
        """Without its relay the tracker is of no use, and only a new process has one: end, so that it is restarted."""
        while self._relay.alive:  # noqa: ASYNC110 - a thread that dies sets no event
            await trio.sleep(RELAY_CHECK_SECONDS)
        raise RelayEnded("the relay's thread has ended by an error, which is logged above: start the tracker again")

    async def _verify_store(self) -> None:
        """After an unclean boot, read every blob before it is served."""
        for digest in self._store.unverified():
            await self._distribution.verify(digest)

    async def _renew_certificate(self) -> None:
        """Show a fresh certificate before the old one ends; connections that stand are not touched."""
        while self._authority is not None and self._pki is not None and self._relay_tls is not None:
            shown = (self._pki.context, self._relay_tls.server, self._relay_tls.client)
            try:
                expires_at = await trio.to_thread.run_sync(_renewed, self._authority, shown)
                self._metrics.certificate_expiry.set(expires_at)
            except P2PDistError as error:
                log.error("certificate_not_renewed", reason=str(error))
            await trio.sleep(RENEWAL_CHECK_SECONDS)

    # Admin.

    def _why_not_ready(self) -> list[str]:
        dead = [] if self._reasons or self._relay.alive else ["the relay's thread has ended"]
        return self._reasons + dead

    def _refresh_metrics(self) -> None:
        metrics = self._metrics
        if not self._reasons:
            self._distribution.relaying.refresh_metrics()
            metrics.relay_peers.set(self._relay.peers)
            new, self._takeovers = self._relay.takeovers - self._takeovers, self._relay.takeovers
            metrics.takeovers.inc(new)
        metrics.blobs_held.set(sum(1 for _ in self._store.digests()))
        metrics.store_bytes.set(self._store.used_bytes)
        metrics.store_quota_bytes.set(self._store.quota_bytes or 0)
        if self._events is not None:
            metrics.events_dropped.inc(self._events.newly_dropped())
        if self._authority is not None:
            metrics.authority_expiry.set(self._authority.validity.not_after.timestamp())


def _check_secrecy(config: TrackerConfig, has_authority: bool) -> None:
    """Plain control connections only on the loopback, or where the operator insists; raises `InvalidInput`."""
    control = config.control
    if has_authority:
        return
    if all(is_loopback(address) for address in control.listen):
        log.info("control_is_plain", reason="there is no CA, and all control addresses are on the loopback")
    elif control.insecure:
        log.warning("control_is_plain", reason="control.insecure is set: anybody who connects is taken for an agent")
    else:
        raise InvalidInput(
            f"there is no CA in {config.state_dir / 'pki'}, and control.listen is not only on the loopback:"
            f" run p2pdist pki init --state-dir {config.state_dir}, or set control.insecure = true"
        )


def _renewed(authority: Authority, shown: Iterable[SSLContext]) -> float:
    """In a worker thread: make the contexts show a certificate that isn't about to end; when it ends, in Unix time."""
    credentials = authority.server_credentials()
    for context in shown:
        contexts.reload(context, credentials)
    certificate = certificates.parse_certificate(files.read(credentials.certificate), str(credentials.certificate))
    return certificate.not_valid_after_utc.timestamp()


def _addresses(listeners: Iterable[trio.SocketListener]) -> list[str]:
    names = [listener.socket.getsockname()[:2] for listener in listeners]
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in names]


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
