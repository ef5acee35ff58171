"""What one run of one system in one scenario gave: raw facts, from which `figures` are made. Pure."""

from dataclasses import dataclass, field

from simulations.emulation.tally import Sent


@dataclass(frozen=True, slots=True)
class BlobOutcome:
    """One blob on one host, in seconds from its request on."""

    size_bytes: int
    first_byte_seconds: float
    seconds: float


@dataclass(frozen=True, slots=True)
class HostOutcome:
    """One host's pull; `at_seconds` is after the first request of the run, `bound_seconds` is its own bound."""

    host: str
    group: str
    wave: int
    at_seconds: float
    seconds: float | None
    bound_seconds: float
    blobs: tuple[BlobOutcome, ...]
    received_bytes: int
    resumed: int
    disturbed: bool
    """An event befell it: it isn't measured."""


@dataclass(frozen=True, slots=True)
class WaveOutcome:
    """What a wave of hosts cost the origin and the middle."""

    hosts: int
    origin: Sent
    seeder_bytes: int | None


@dataclass(frozen=True, slots=True)
class Sample:
    """A moment: seconds after the first request, bytes that each host's client has, how busy the cores were."""

    seconds: float
    received_bytes: dict[str, int]
    busy_share: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that one run gave."""

    scenario: str
    system: str
    image_bytes: int
    hosts: tuple[HostOutcome, ...]
    waves: tuple[WaveOutcome, ...]
    usable_share: float | None
    redundant_bytes: int | None
    server_link_bytes: int
    """Everything that the tracker's link carried upwards, headers included."""
    zone_link_bytes: int | None
    """Everything that went into zones other than the first, or out of them: the busiest direction."""
    cpu_seconds: float
    machine_cpu_seconds: float
    elapsed_seconds: float
    busy_share: float
    host_rss_bytes: tuple[int, ...]
    server_rss_bytes: int | None
    origin_kind: str
    congestion_control: str
    ignored_events: tuple[str, ...] = ()
    samples: tuple[Sample, ...] = field(default=(), repr=False)

    @property
    def measured(self) -> list[HostOutcome]:
        """The hosts that nothing befell, which all have finished."""
        return [host for host in self.hosts if not host.disturbed]

    @property
    def delivered_bytes(self) -> int:
        """Bytes that clients received."""
        return sum(host.received_bytes for host in self.hosts)
