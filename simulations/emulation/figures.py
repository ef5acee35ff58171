"""The figures of a run, and the median and the worst of several. Pure.

A figure that can't be had (no limit on links, a system that doesn't count) is None and isn't shown.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from simulations.emulation.outcome import HostOutcome, Outcome

GIB = 1 << 30
MIB = 1 << 20
FULL_SHARE = 0.95
"""From this share of busy time on a sample counts as one with full cores."""
SATURATED_SHARE = 0.9
"""From this average on the figures say more about this machine than about the system."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: how it is called, its unit, and whether more of it is better."""

    name: str
    value: float | None
    unit: str = ""
    more_is_better: bool = False


@dataclass(frozen=True, slots=True)
class Summary:
    """A figure over several runs."""

    name: str
    unit: str
    median: float
    worst: float


def percentile(values: Iterable[float], share: float) -> float | None:
    """The smallest of the values that so great a share of them don't exceed (nearest rank); None when there is none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def figures(outcome: Outcome) -> list[Figure]:
    """Everything that is said about a run, in the order in which it is shown."""
    image, delivered = outcome.image_bytes, outcome.delivered_bytes
    origin_bytes = sum(wave.origin.blob_bytes for wave in outcome.waves)
    requests = sum(wave.origin.requests for wave in outcome.waves)
    seeder = _sum(wave.seeder_bytes for wave in outcome.waves)
    return [
        *_times(outcome.measured, ""),
        *_parts(outcome),
        *_first_bytes(outcome.measured),
        Figure("origin copies", origin_bytes / image),
        Figure("origin requests", requests),
        Figure("seeder copies", _ratio(seeder, image)),
        Figure("all bytes sent on the tracker's link / image", outcome.server_link_bytes / image),
        Figure("all bytes on the thin link / image", _ratio(outcome.zone_link_bytes, image)),
        Figure("redundant bytes / delivered", _ratio(outcome.redundant_bytes, delivered)),
        Figure("CPU of the daemons", _ratio(outcome.cpu_seconds * GIB, delivered), "s/GiB"),
        Figure("CPU of the whole machine", _ratio(outcome.machine_cpu_seconds * GIB, delivered), "s/GiB"),
        Figure("machine busy", outcome.busy_share),
        Figure("time with full cores", _full_share(outcome)),
        Figure("memory of an agent, most", _ratio(max(outcome.host_rss_bytes, default=None), MIB), "MiB"),
        Figure("memory of the tracker, most", _ratio(outcome.server_rss_bytes, MIB), "MiB"),
        Figure("delivered together", _ratio(delivered / MIB, outcome.elapsed_seconds), "MiB/s", more_is_better=True),
        Figure("answers that broke off", sum(host.resumed for host in outcome.measured)),
        Figure("payload of a link's rate", outcome.usable_share, more_is_better=True),
    ]


def _times(hosts: Sequence[HostOutcome], suffix: str) -> list[Figure]:
    """p50, p99 and slowest, in seconds and against each host's own bound."""
    seconds = [host.seconds for host in hosts if host.seconds is not None]
    bound = max((host.bound_seconds for host in hosts), default=0.0)
    ratios = [
        host.seconds / host.bound_seconds for host in hosts if host.seconds is not None and host.bound_seconds > 0
    ]
    found = []
    for name, share in (("p50", 0.5), ("p99", 0.99), ("slowest", 1.0)):
        found.append(Figure(f"{name}{suffix}", percentile(seconds, share), "s"))
    found.append(Figure(f"bound{suffix}", bound or None, "s"))
    for name, share in (("p50", 0.5), ("p99", 0.99), ("slowest", 1.0)):
        found.append(Figure(f"{name}{suffix} x bound", percentile(ratios, share)))
    return found


def _parts(outcome: Outcome) -> list[Figure]:
    """The same times by group and by batch, where there are several, and what batches cost origin and tracker."""
    found: list[Figure] = []
    groups = list(dict.fromkeys(host.group for host in outcome.measured))
    if len(groups) > 1:
        for group in groups:
            found += _times([host for host in outcome.measured if host.group == group], f", {group}")
    if len(outcome.waves) > 1:
        later = [host for host in outcome.measured if host.wave > 0]
        found += _times([host for host in outcome.measured if host.wave == 0], ", first batch")
        found += _times(later, ", later batches")
        rest = outcome.waves[1:]
        origin = sum(wave.origin.blob_bytes for wave in rest)
        found.append(Figure("origin bytes of later batches / image", origin / outcome.image_bytes))
        seeder = _sum(wave.seeder_bytes for wave in rest)
        found.append(Figure("seeder bytes of later batches / image", _ratio(seeder, outcome.image_bytes)))
    return found


def _first_bytes(hosts: Sequence[HostOutcome]) -> list[Figure]:
    """How long blobs let wait for their first byte and, where there are several, for their last."""
    blobs = [blob for host in hosts for blob in host.blobs]
    firsts, lasts = [blob.first_byte_seconds * 1000 for blob in blobs], [blob.seconds * 1000 for blob in blobs]
    found = [
        Figure("first byte of a blob, p50", percentile(firsts, 0.5), "ms"),
        Figure("first byte of a blob, p99", percentile(firsts, 0.99), "ms"),
    ]
    if any(len(host.blobs) > 1 for host in hosts):
        found.append(Figure("whole blob, p50", percentile(lasts, 0.5), "ms"))
        found.append(Figure("whole blob, p99", percentile(lasts, 0.99), "ms"))
    return found


def _full_share(outcome: Outcome) -> float | None:
    """The share of the samples in which the cores had nothing left."""
    samples = outcome.samples[1:]
    return sum(sample.busy_share >= FULL_SHARE for sample in samples) / len(samples) if samples else None


def _sum(values: Iterable[int | None]) -> int | None:
    found = list(values)
    return None if None in found else sum(value for value in found if value is not None)


def _ratio(value: float | None, whole: float) -> float | None:
    return None if value is None or not whole else value / whole


def summarize(runs: Sequence[Sequence[Figure]]) -> list[Summary]:
    """Median and worst of each figure that every run has."""
    found = []
    for same in zip(*runs, strict=True):
        values = [figure.value for figure in same if figure.value is not None]
        if len(values) == len(runs):
            worst = min(values) if same[0].more_is_better else max(values)
            found.append(Summary(same[0].name, same[0].unit, statistics.median(values), worst))
    return found


def as_mapping(found: Sequence[Figure]) -> Mapping[str, float | None]:
    """The figures by name, for programs."""
    return {figure.name: figure.value for figure in found}
