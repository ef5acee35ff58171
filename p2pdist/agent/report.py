"""What an agent's admin address tells the commands of its host, as types; JSON on the wire.

`GET /v1/status` answers 200 with one `Status`.

`POST /v1/pull?image=REF` answers 200 and a stream of JSON lines (application/x-ndjson), each a `PullEvent` named by its
field `event`. First comes `manifest` for the index, if REF names one, and for the manifest of this host's platform;
then `blob` for every blob of it, again whenever one's state changes, and while nothing changes at least every 5
seconds for one that is under way, so that silence means that the agent is gone; last `done` or `error`. An image that
can't even be looked up may be answered with its HTTP status and an OCI error body instead. Whoever hangs up doesn't
end the pull.
"""

from typing import Literal

from msgspec import Struct


class TrackerLink(Struct, frozen=True, kw_only=True):
    """The control connection; `since_seconds`: for how long it has been up, or down."""

    address: str
    connected: bool
    since_seconds: float
    last_error: str | None = None


class RunningPull(Struct, frozen=True, kw_only=True):
    """A blob that is arriving; `size_bytes` is None until it is known, `seconds` the time since it was wanted."""

    digest: str
    size_bytes: int | None
    received_bytes: int
    source: str
    seconds: float


class HeldBlobs(Struct, frozen=True, kw_only=True):
    """What the store holds, committed blobs only."""

    count: int
    bytes: int


class Rates(Struct, frozen=True, kw_only=True):
    """Payload in bits per second, over the last few seconds."""

    received_bps: float
    sent_bps: float


class Traffic(Struct, frozen=True, kw_only=True):
    """Payload bytes since the agent started: received from other members of relays, dealt by trackers, …; sent."""

    relay: int
    dealt: int
    swarm: int
    origin: int
    sent_relay: int
    sent_swarm: int


class Served(Struct, frozen=True, kw_only=True):
    """Something that the shim answered to its end, named as the client asked for it."""

    name: str
    seconds_ago: float


class Client(Struct, frozen=True, kw_only=True):
    """A client of the shim and what it got last; `runtime` as `p2pdist mirror` calls it, empty for others."""

    user_agent: str
    runtime: str
    manifest: Served | None = None
    blob: Served | None = None


class Status(Struct, frozen=True, kw_only=True):
    """The agent's view of itself; `upstreams` are names, `shims` the addresses (HOST:PORT) it listens on.

    `default_upstreams`: whom requests to a shim mean that name no registry, by the shim's address.
    """

    version: str
    node_id: str
    name: str
    uptime_seconds: float
    tracker: TrackerLink
    upstreams: list[str]
    shims: list[str]
    pulls: list[RunningPull]
    blobs: HeldBlobs
    rates: Rates
    bytes: Traffic
    default_upstreams: dict[str, str] = {}
    clients: list[Client] = []


class Certificate(Struct, frozen=True, kw_only=True):
    """The agent's certificate; times are seconds since the epoch."""

    name: str
    not_before: float
    renew_after: float
    not_after: float


class StoreSpace(Struct, frozen=True, kw_only=True):
    """The store's place; `quota_bytes` is 0 without a quota."""

    path: str
    used_bytes: int
    quota_bytes: int
    free_bytes: int


class Checkup(Struct, frozen=True, kw_only=True):
    """The answer of `GET /v1/checkup`; `peers` are relay addresses (HOST:PORT) of some other agents."""

    certificate: Certificate | None
    store: StoreSpace
    peers: list[str]


class ManifestEvent(Struct, frozen=True, kw_only=True, tag_field="event", tag="manifest"):
    """A manifest, or an index, is there."""

    digest: str
    media_type: str


class BlobEvent(Struct, frozen=True, kw_only=True, tag_field="event", tag="blob"):
    """How far a blob is; `source` gives its bytes at the moment, "store" when it was held already."""

    digest: str
    size_bytes: int
    received_bytes: int
    state: Literal["waiting", "receiving", "verifying", "held"]
    source: Literal["relay", "swarm", "origin", "store"]


class PulledBytes(Struct, frozen=True, kw_only=True):
    """Where the bytes of an image came from: other members, the tracker's deal, the swarm, the origin, the store."""

    relay: int
    dealt: int
    swarm: int
    origin: int
    store: int


class DoneEvent(Struct, frozen=True, kw_only=True, tag_field="event", tag="done"):
    """The image is held whole; `digest` is what its reference stands for."""

    digest: str
    seconds: float
    bytes: PulledBytes


class ErrorEvent(Struct, frozen=True, kw_only=True, tag_field="event", tag="error"):
    """The image can't be had: an OCI error code and a sentence."""

    code: str
    message: str


PullEvent = ManifestEvent | BlobEvent | DoneEvent | ErrorEvent
