"""Every metric of the agent and of the tracker, declared in one place (Prometheus; base units; small label sets).

The questions they answer at three in the morning: do hosts get their images, and how fast; where do the bytes come
from; is the origin being hit; who has lost its tracker; what is broken (bad pieces, takeovers, rescues); what will
break next (store full, certificates about to end).

A process makes one `CollectorRegistry` and one of the two classes. Series with labels exist from the start, at zero, so
that a rate over the first event isn't lost; only the `status`, `upstream` and `frame` labels grow with use, and they
are bounded by what we send, by the configuration and by the protocol. Nobody labels with a digest, host or repository.
"""

from collections.abc import Callable, Iterable
from enum import StrEnum
from itertools import product

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.registry import Collector

from p2pdist import __version__

_FIRST_BYTE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_EVENTS_DROPPED = "Lines that the event log lacks, because they came too fast or the disk refused them."
_PULL_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600, 1800)


class PullOutcome(StrEnum):
    """How a pull of one blob ended."""

    DONE = "done"
    FAILED = "failed"
    ABANDONED = "abandoned"


class PullSource(StrEnum):
    """What gave most of a pull's bytes."""

    STORE = "store"
    RELAY = "relay"
    SWARM = "swarm"
    ORIGIN = "origin"
    NONE = "none"


class ByteSource(StrEnum):
    """Where an agent's received bytes came from; what the tracker deals isn't what another member passes on."""

    RELAY_MEMBER = "relay_member"
    DEALT = "dealt"
    SWARM = "swarm"
    ORIGIN = "origin"


class ByteSink(StrEnum):
    """Where an agent's sent bytes went: to other members of a relay, into the swarm, to the local daemon."""

    RELAY = "relay"
    SWARM = "swarm"
    SHIM = "shim"


class BadPiece(StrEnum):
    """Why a piece was refused."""

    HASH = "hash"
    SIGNATURE = "signature"
    GENERATION = "generation"
    SPAN = "span"


class ShimRequest(StrEnum):
    """What the local daemon asked for."""

    VERSION = "version"
    MANIFEST = "manifest"
    BLOB = "blob"
    LIST = "list"
    PUSH = "push"
    OTHER = "other"


class JoinAnswer(StrEnum):
    """How the tracker told an agent to get a blob."""

    RELAY = "relay"
    SWARM = "swarm"
    REFUSED = "refused"


class EnrolmentOutcome(StrEnum):
    """How a request for a certificate ended."""

    ENROLLED = "enrolled"
    RENEWED = "renewed"
    BAD_TOKEN = "bad_token"
    BAD_REQUEST = "bad_request"
    REVOKED = "revoked"


class ManifestOutcome(StrEnum):
    """How a request for a manifest or tag ended."""

    CACHED = "cached"
    FETCHED = "fetched"
    SHARED = "shared"
    STALE = "stale"
    UNKNOWN = "unknown"
    DENIED = "denied"
    UNAVAILABLE = "unavailable"


class OriginOutcome(StrEnum):
    """How a question to an origin ended."""

    OK = "ok"
    NOT_FOUND = "not_found"
    DENIED = "denied"
    FAILED = "failed"


class Direction(StrEnum):
    """Which way a control frame went."""

    IN = "in"
    OUT = "out"


class _Declarer:
    """Declares metrics with one prefix on one registry."""

    def __init__(self, registry: CollectorRegistry, prefix: str) -> None:
        # A `_created` series beside every counter would double what is stored, and answers none of the questions.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry, self._prefix = registry, prefix
        ProcessCollector(registry=registry)
        build = Gauge("p2pdist_build_info", "1; the label tells the version.", ["version"], registry=registry)
        build.labels(__version__).set(1)

    def counter(self, name: str, says: str, **labels: Iterable[str] | None) -> Counter:
        """A counter; a label with values gets all its series now, one without (None) as they come up."""
        counter = Counter(f"{self._prefix}_{name}", says, list(labels), registry=self._registry)
        known = [tuple(values) for values in labels.values() if values is not None]
        if known and len(known) == len(labels):
            for combination in product(*known):
                counter.labels(*combination)
        return counter

    def gauge(self, name: str, says: str) -> Gauge:
        return Gauge(f"{self._prefix}_{name}", says, registry=self._registry)

    def histogram(self, name: str, says: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"{self._prefix}_{name}", says, buckets=buckets, registry=self._registry)


class AgentMetrics:
    """What an agent counts; label values are the enums of this module, in the order of the labels."""

    def __init__(self, registry: CollectorRegistry) -> None:
        on = _Declarer(registry, "p2pdist_agent")
        self.pulls = on.counter("pulls", "Pulls of one blob that ended.", outcome=PullOutcome, source=PullSource)
        self.pulls_running = on.gauge("pulls_running", "Pulls of one blob under way.")
        self.pull_seconds = on.histogram("pull_seconds", "Seconds from wanting a blob to holding it.", _PULL_BUCKETS)
        self.first_byte_seconds = on.histogram(
            "first_byte_seconds", "Seconds from a blob request at the shim to its first body byte.", _FIRST_BYTE_BUCKETS
        )
        self.received_bytes = on.counter(
            "received_bytes",
            "Bytes of blobs that were new, by where they came from; verified, but for those that were passed through.",
            source=ByteSource,
        )
        self.passed_bytes = on.counter(
            "passed_bytes", "Of those from origins, the bytes of ranges of blobs that nobody pulled whole."
        )
        self.redundant_bytes = on.counter("redundant_bytes", "Bytes of pieces that were there already.")
        self.ahead_bytes = on.counter("ahead_bytes", "Bytes of layers that were got before anybody asked for them.")
        self.ahead_asked_bytes = on.counter(
            "ahead_asked_bytes", "Of the bytes that were got ahead, those that somebody asked for then."
        )
        self.sent_bytes = on.counter("sent_bytes", "Bytes of blobs sent, by where to.", sink=ByteSink)
        self.bad_pieces = on.counter("bad_pieces", "Pieces that were refused.", reason=BadPiece)
        self.takeovers = on.counter("takeovers", "Spans that were handed to an heir because a member broke or stalled.")
        self.rescues = on.counter("rescues", "Blobs that needed bytes from the origin.")
        self.relay_peers = on.gauge("relay_peers", "Relay connections that stand.")
        self.relays_live = on.gauge("relays_live", "Relays that this agent is a member of at the moment.")
        self.swarm_peers = on.gauge("swarm_peers", "Connections of the swarm that stand.")
        self.torrents_loaded = on.gauge("torrents_loaded", "Torrents that are loaded.")
        self.blobs_held = on.gauge("blobs_held", "Whole blobs in the store.")
        self.store_bytes = on.gauge("store_bytes", "Bytes that the store uses.")
        self.store_quota_bytes = on.gauge("store_quota_bytes", "Bytes that the store may use; 0 when unlimited.")
        self.evictions = on.counter("evictions", "Blobs removed to make room.")
        self.quarantined = on.counter("quarantined", "Blobs set aside because their digest didn't hold.")
        self.tracker_connected = on.gauge("tracker_connected", "1 while the tracker's lease holds, else 0.")
        self.tracker_connects = on.counter("tracker_connects", "Control connections that were opened.")
        self.shim_requests = on.counter(
            "shim_requests",
            "Requests of the local daemon, by what they were for and the HTTP status of the answer.",
            kind=ShimRequest,
            status=None,
        )
        self.events_dropped = on.counter("events_dropped", _EVENTS_DROPPED)
        self.shim_cut_short = on.counter("shim_cut_short", "Answers that ended before their announced length.")
        self.certificate_expiry = on.gauge(
            "certificate_expiry_timestamp_seconds", "When this agent's certificate ends, in Unix time."
        )


class TrackerMetrics:
    """What a tracker counts; label values are the enums of this module, in the order of the labels."""

    def __init__(self, registry: CollectorRegistry) -> None:
        on = _Declarer(registry, "p2pdist_tracker")
        self.agents_leased = on.gauge("agents_leased", "Agents whose lease holds.")
        self.leases_lost = on.counter("leases_lost", "Leases that ended without a farewell.")
        self.registrations = on.counter("registrations", "Registrations that were granted.")
        self.generations_live = on.gauge("generations_live", "Fetches of blobs under way or still being dealt.")
        self.dealt_bytes = on.counter("dealt_bytes", "Bytes of pieces that were dealt.")
        self.distrusted = on.counter("distrusted", "Complaints of agents that a blob's bytes have another digest.")
        self.takeovers = on.counter("takeovers", "Spans that were handed to an heir because a root broke or stalled.")
        self.relay_peers = on.gauge("relay_peers", "Relay connections that stand.")
        self.joins = on.counter(
            "joins", "Blobs that agents asked for, by how they were told to get them.", answer=JoinAnswer
        )
        self.origin_bytes = on.counter("origin_bytes", "Bytes of blobs received from origins.", upstream=None)
        self.origin_requests = on.counter(
            "origin_requests",
            "Manifests, sizes and blobs asked of origins, and how that ended.",
            upstream=None,
            outcome=OriginOutcome,
        )
        self.manifests = on.counter(
            "manifests", "Manifests and tags that agents asked for, and how that ended.", outcome=ManifestOutcome
        )
        self.blobs_held = on.gauge("blobs_held", "Whole blobs in the store.")
        self.store_bytes = on.gauge("store_bytes", "Bytes that the store uses.")
        self.store_quota_bytes = on.gauge("store_quota_bytes", "Bytes that the store may use; 0 when unlimited.")
        self.quarantined = on.counter("quarantined", "Blobs set aside because their digest didn't hold.")
        self.control_connections = on.gauge("control_connections", "Control connections that stand.")
        self.control_frames = on.counter("control_frames", "Control frames, by type.", direction=Direction, frame=None)
        self.protocol_errors = on.counter("protocol_errors", "Connections ended because the peer broke the protocol.")
        self.enrolments = on.counter(
            "enrolments", "Requests for certificates and how they ended.", outcome=EnrolmentOutcome
        )
        self.certificate_expiry = on.gauge(
            "certificate_expiry_timestamp_seconds", "When this tracker's certificate ends, in Unix time."
        )
        self.events_dropped = on.counter("events_dropped", _EVENTS_DROPPED)
        self.authority_expiry = on.gauge(
            "authority_expiry_timestamp_seconds", "When the CA's certificate ends, in Unix time."
        )


class OnScrape(Collector):
    """Brings metrics up to date when they are asked for; register it before them. Has no metrics of its own."""

    def __init__(self, refresh: Callable[[], None]) -> None:
        self._refresh = refresh

    def collect(self) -> Iterable[Metric]:
        """Call `refresh`; there is nothing to give."""
        self._refresh()
        return ()

    def describe(self) -> Iterable[Metric]:
        """Nothing is declared; the registry asks when there is nothing to refresh yet."""
        return ()
