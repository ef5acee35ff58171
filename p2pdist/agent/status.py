"""What the agent says of itself: `GET /v1/status`, metrics that are taken when asked for, why it isn't ready."""

from collections import deque

import msgspec
import trio

from p2pdist import __version__
from p2pdist.agent.clients import Clients
from p2pdist.agent.control import ControlLink
from p2pdist.agent.library import Library
from p2pdist.agent.relays import Relays
from p2pdist.agent.report import HeldBlobs, Rates, RunningPull, Status, TrackerLink, Traffic
from p2pdist.http.server import Request, Response
from p2pdist.relay.node import RelayNode
from p2pdist.store import BlobStore
from p2pdist.swarm import Swarm, SwarmStats
from p2pdist.telemetry.metrics import AgentMetrics, ByteSink, ByteSource

SAMPLE_SECONDS = 1.0
_RATE_SAMPLES = 5
NOTHING_SWARMED = SwarmStats(0, 0, 0, 0, 0)


class Reporter:
    """Collects figures from all parts; `sample` runs in the background for rates."""

    def __init__(
        self,
        node: str,
        name: str,
        shims: dict[str, str | None],
        clients: Clients,
        control: ControlLink,
        library: Library,
        relays: Relays,
        relay: RelayNode,
        swarm: Swarm,
        store: BlobStore,
        metrics: AgentMetrics,
    ) -> None:
        self._node, self._name, self._shims, self._clients = node, name, shims, clients
        self._control = control
        self._library = library
        self._relays = relays
        self._relay = relay
        self._swarm = swarm
        self._store = store
        self._metrics = metrics
        self._started = trio.current_time()
        self._swarmed = NOTHING_SWARMED
        self._samples: deque[tuple[float, int, int]] = deque(maxlen=_RATE_SAMPLES)
        self._counted = Traffic(relay=0, dealt=0, swarm=0, origin=0, sent_relay=0, sent_swarm=0)
        self._counted_redundant = 0
        self._counted_takeovers = 0
        self._counted_connects = 0

    async def sample(self) -> None:
        """Keep the last few seconds' traffic, while there is any."""
        while True:
            self._swarmed = await self._swarm.stats()
            traffic = self._traffic()
            received = traffic.relay + traffic.dealt + traffic.swarm + traffic.origin
            self._samples.append((trio.current_time(), received, traffic.sent_relay + traffic.sent_swarm))
            await trio.sleep(SAMPLE_SECONDS)

    async def handle(self, _request: Request, response: Response) -> None:
        """The handler of GET /v1/status."""
        self._swarmed = await self._swarm.stats()
        body = msgspec.json.encode(self.status()) + b"\n"
        await response.send(200, {"Content-Type": "application/json"}, body)

    def status(self) -> Status:
        """Everything at once."""
        now = trio.current_time()
        held = list(self._store.digests())
        control = self._control
        return Status(
            version=__version__,
            node_id=self._node,
            name=self._name,
            uptime_seconds=now - self._started,
            tracker=TrackerLink(
                address=control.address,
                connected=control.connected,
                since_seconds=now - control.since,
                last_error=control.last_error or None,
            ),
            upstreams=list(self._library.upstreams()),
            shims=list(self._shims),
            pulls=[
                RunningPull(
                    digest=str(pull.wanted.digest),
                    size_bytes=pull.partial.layout.size_bytes if pull.partial else pull.wanted.size_bytes or None,
                    received_bytes=pull.received_bytes,
                    source=pull.source,
                    seconds=now - pull.started_at,
                )
                for pull in self._library.pulls
            ],
            blobs=HeldBlobs(count=len(held), bytes=sum(size for _, size in held)),
            rates=self._rates(),
            bytes=self._traffic(),
            default_upstreams={address: default for address, default in self._shims.items() if default},
            clients=self._clients.report(),
        )

    def why_not_ready(self) -> list[str]:
        """What stands between this agent and its work."""
        reasons = []
        if not self._control.connected:
            error = self._control.last_error
            reasons.append(f"the tracker {self._control.address} isn't connected: {error}")
        if not self._relay.alive:
            reasons.append("the relay's thread has ended: restart the agent")
        return reasons

    def refresh_metrics(self) -> None:
        """Bring the metrics up to date before a scrape."""
        metrics, traffic = self._metrics, self._traffic()
        received, sent, counted = metrics.received_bytes, metrics.sent_bytes, self._counted
        received.labels(ByteSource.RELAY_MEMBER).inc(traffic.relay - counted.relay)
        received.labels(ByteSource.DEALT).inc(traffic.dealt - counted.dealt)
        received.labels(ByteSource.SWARM).inc(traffic.swarm - counted.swarm)
        sent.labels(ByteSink.RELAY).inc(traffic.sent_relay - counted.sent_relay)
        sent.labels(ByteSink.SWARM).inc(traffic.sent_swarm - counted.sent_swarm)
        self._counted = traffic
        redundant = self._relays.totals().duplicate_bytes + self._swarmed.redundant_bytes
        metrics.redundant_bytes.inc(redundant - self._counted_redundant)
        self._counted_redundant = redundant
        metrics.takeovers.inc(self._relay.takeovers - self._counted_takeovers)
        self._counted_takeovers = self._relay.takeovers
        metrics.tracker_connects.inc(self._control.connects - self._counted_connects)
        self._counted_connects = self._control.connects
        metrics.relay_peers.set(self._relay.peers)
        metrics.relays_live.set(self._relays.live)
        metrics.swarm_peers.set(self._swarmed.connections)
        metrics.torrents_loaded.set(len(self._swarm.loaded))
        metrics.blobs_held.set(sum(1 for _ in self._store.digests()))
        metrics.store_bytes.set(self._store.used_bytes)
        metrics.store_quota_bytes.set(self._store.quota_bytes or 0)
        metrics.tracker_connected.set(self._control.connected)

    def _traffic(self) -> Traffic:
        relayed = self._relays.totals()
        return Traffic(
            relay=relayed.relayed_bytes,
            dealt=relayed.dealt_bytes,
            swarm=self._library.swarm_bytes,
            origin=self._library.origin_bytes,
            sent_relay=relayed.sent_bytes,
            sent_swarm=self._swarmed.uploaded_bytes,
        )

    def _rates(self) -> Rates:
        if len(self._samples) < 2:
            return Rates(received_bps=0.0, sent_bps=0.0)
        (began, received, sent), (ended, received_now, sent_now) = self._samples[0], self._samples[-1]
        seconds = ended - began
        return Rates(received_bps=8 * (received_now - received) / seconds, sent_bps=8 * (sent_now - sent) / seconds)
