"""Made-up outcomes, for what is computed from them and shown of them."""

from collections.abc import Sequence
from dataclasses import replace

from simulations.emulation.outcome import BlobOutcome, HostOutcome, Outcome, Sample, WaveOutcome
from simulations.emulation.tally import Sent

MIB = 1 << 20


def host(name: str, seconds: float | None, *, bound: float = 1.0, wave: int = 0, at: float = 0.0) -> HostOutcome:
    """A host that pulled one blob of 1 MiB, its first byte after 10 ms; one that never finished was disturbed."""
    blobs = () if seconds is None else (BlobOutcome(MIB, 0.01, seconds),)
    received = MIB if seconds is not None else MIB // 2
    group = name.rsplit("-", 1)[0]
    return HostOutcome(name, group, wave, at, seconds, bound, blobs, received, 0, seconds is None)


def outcome(hosts: Sequence[HostOutcome], *waves: WaveOutcome, system: str = "p2pdist", busy: float = 0.5) -> Outcome:
    """A run in which these hosts did that."""
    first = dict.fromkeys([each.host for each in hosts], 0)
    return Outcome(
        scenario="made-up",
        system=system,
        image_bytes=MIB,
        hosts=tuple(hosts),
        waves=waves or (WaveOutcome(len(hosts), Sent(MIB, 1, 1), MIB),),
        usable_share=0.95,
        redundant_bytes=0,
        server_link_bytes=MIB + MIB // 50,
        zone_link_bytes=None,
        cpu_seconds=2.0,
        machine_cpu_seconds=3.0,
        elapsed_seconds=2.0,
        busy_share=busy,
        host_rss_bytes=tuple(60 * MIB for _ in hosts),
        server_rss_bytes=50 * MIB,
        origin_kind="embedded",
        congestion_control="reno",
        samples=(
            Sample(0.0, first, 1.0),
            Sample(0.5, dict.fromkeys(first, MIB // 4), 0.96),
            Sample(1.0, dict.fromkeys(first, MIB // 2), 0.2),
        ),
    )


def silent(run: Outcome) -> Outcome:
    """The same of a system that counts nothing, over links without limits."""
    return replace(
        run,
        system="direct",
        usable_share=None,
        redundant_bytes=None,
        server_rss_bytes=None,
        host_rss_bytes=(),
        waves=tuple(replace(wave, seeder_bytes=None) for wave in run.waves),
        hosts=tuple(replace(each, bound_seconds=0.0) for each in run.hosts),
    )
