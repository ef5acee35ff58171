"""What can be configured: one Struct a table, one field a key, its default beside it.

What a key means, its unit and its reason stand in configs/tracker.toml and configs/agent.toml; a test holds the two
together. Text that a person wrote is already checked and typed here (`values`, `addresses`).
"""

import socket
from pathlib import Path
from typing import Literal, Self

import msgspec

from p2pdist.config.addresses import Address, OriginUrl, PeerAddress, RegistryHost
from p2pdist.config.values import ByteCount, CertificateHash, HelperName, NodeName, Seconds, Secret, Zone


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of a configuration file."""


class AgentUpstream(Section, frozen=True, kw_only=True):
    """A registry that may be spoken to; `origin` is filled in from `name` when it is omitted."""

    name: RegistryHost
    origin: OriginUrl | None = None
    ca_file: Path | None = None
    credentials_file: Path | None = None
    credential_helper: HelperName | None = None
    rate: ByteCount = ByteCount(0)

    @property
    def origin_url(self) -> OriginUrl:
        """The base URL that requests for this registry go to."""
        return self.origin or self.name.default_origin


class Upstream(AgentUpstream, frozen=True, kw_only=True):
    """A registry as the tracker knows it, which says for the whole fleet to whom its content is given."""

    access: Literal["anonymous", "client", "fleet"] = "client"
    recheck: Seconds = Seconds(300)
    stale_if_error: Seconds = Seconds(0)


class Log(Section, frozen=True, kw_only=True):
    """What is logged, and in which form; `events` is a file of its own."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    events: Path | None = None


class Store(Section, frozen=True, kw_only=True):
    """Blobs on disk."""

    quota: ByteCount = ByteCount(0)

    @property
    def quota_bytes(self) -> int | None:
        """The most that committed blobs may take; None: no limit."""
        return int(self.quota) or None


class Control(Section, frozen=True, kw_only=True):
    """Where the tracker takes the control connections of agents."""

    listen: tuple[Address, ...] = (Address("0.0.0.0:7400"),)
    insecure: bool = False


class TrackerRelay(Section, frozen=True, kw_only=True):
    """The tracker's side of the relay."""

    listen: tuple[Address, ...] = (Address("0.0.0.0:7401"),)
    advertise: PeerAddress | None = None
    zone: Zone | None = None
    copy_per: Literal["fleet", "region", "zone", "rack"] = "region"


class TrackerAdmin(Section, frozen=True, kw_only=True):
    """Where the tracker answers /healthz, /readyz and /metrics."""

    listen: Address = Address("127.0.0.1:7402")


class TrackerConfig(Section, frozen=True, kw_only=True):
    """The configuration of a tracker."""

    state_dir: Path = Path("/var/lib/p2pdist/tracker")
    lease: Seconds = Seconds(30)
    control: Control = Control()
    relay: TrackerRelay = TrackerRelay()
    admin: TrackerAdmin = TrackerAdmin()
    store: Store = Store()
    log: Log = Log()
    upstream: tuple[Upstream, ...] = (Upstream(name=RegistryHost("docker.io")),)

    @classmethod
    def default(cls) -> Self:
        """What an empty file means."""
        return cls()


class TrackerAccess(Section, frozen=True, kw_only=True):
    """Which tracker an agent belongs to, and how it proves that it may."""

    address: PeerAddress
    join_token: Secret | None = None
    ca_hash: CertificateHash | None = None
    insecure: bool = False


class Shim(Section, frozen=True, kw_only=True):
    """Where the local container daemon asks."""

    listen: tuple[Address, ...] = (Address("127.0.0.1:7500"),)
    drain: Seconds = Seconds(10)
    default_upstream: RegistryHost | None = None
    login: bool = False


class AgentRelay(Section, frozen=True, kw_only=True):
    """An agent's side of the relay."""

    listen: tuple[Address, ...] = (Address("0.0.0.0:7501"),)
    advertise: PeerAddress | None = None


class Swarm(Section, frozen=True, kw_only=True):
    """An agent's side of the swarms."""

    listen: tuple[Address, ...] = (Address("0.0.0.0:7502"),)
    advertise: PeerAddress | None = None


class AgentAdmin(Section, frozen=True, kw_only=True):
    """Where an agent answers /healthz, /readyz, /metrics, and the commands of this host under /v1/."""

    listen: Address = Address("127.0.0.1:7503")


class AgentConfig(Section, frozen=True, kw_only=True):
    """The configuration of an agent."""

    state_dir: Path = Path("/var/lib/p2pdist/agent")
    name: NodeName | None = None
    zone: Zone | None = None
    tracker: TrackerAccess
    shim: Shim = Shim()
    relay: AgentRelay = AgentRelay()
    swarm: Swarm = Swarm()
    admin: AgentAdmin = AgentAdmin()
    store: Store = Store()
    log: Log = Log()
    upstream: tuple[AgentUpstream, ...] = ()

    @classmethod
    def default(cls, tracker: str) -> Self:
        """What a file means that names nothing but the tracker's address, HOST:PORT."""
        return cls(tracker=TrackerAccess(address=PeerAddress(tracker)))

    @property
    def node_name(self) -> str:
        """What this agent is called: the configured name, else the host's."""
        return self.name or socket.gethostname()
