"""The fluid bound: how soon the links alone could let each host have the image, without any term for pieces or hops.

For hosts that ask at once it is facts.md's max(F/d_min, F/c, N F/(c + sum of uplinks)); here each host has its own,
which counts only those that must be served as soon as it (Mundinger et al. 2008; Kumar and Ross 2006, with staggered
arrivals). Pure; rates are usable payload, in bits per second, `math.inf` where nothing limits.

- F/d: a host can't receive faster than its own link.
- F/c: no host can have the last byte before the source has sent one whole copy, counted from the first request on.
- Supply: when the k hosts that can be fastest are done, k copies have come from the source and from the uplinks of all
  who had asked by then; a host uploads only from the moment on that it asked (one that holds the image: always).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simulations.emulation.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Asking:
    """A host that asks at `at` seconds after the first one."""

    name: str
    at: float
    up_bps: float
    down_bps: float


@dataclass(frozen=True, slots=True)
class Source:
    """Where the bytes come from at first: what it can send, and the uplinks of those that hold the image besides."""

    rate_bps: float
    holders_bps: float = 0.0


def own_bounds(image_bytes: int, source: Source, hosts: Sequence[Asking]) -> dict[str, float]:
    """Seconds from each host's own request to its last byte, at the least."""
    bits = image_bytes * 8
    first = min(host.at for host in hosts)
    bounds = {}
    for host in hosts:
        whole = (first + bits / (source.rate_bps + source.holders_bps)) - host.at
        together = _supplied(bits, source, hosts, [other for other in hosts if _as_soon(other, host)]) - host.at
        bounds[host.name] = max(bits / host.down_bps, whole, together)
    return bounds


def _as_soon(other: Asking, host: Asking) -> bool:
    """Whether `other` can have the image at least as early as `host`, and so is among those served by then."""
    return other.at <= host.at and other.down_bps >= host.down_bps


def _supplied(bits: float, source: Source, everybody: Sequence[Asking], served: Sequence[Asking]) -> float:
    """The time until source and uplinks can have sent a copy to each of `served`."""
    first = min(host.at for host in everybody)
    wanted = len(served) * bits
    time, sent, rate = first, 0.0, source.rate_bps + source.holders_bps
    for host in sorted(everybody, key=lambda each: each.at):
        if math.isinf(rate):
            return time
        until = sent + rate * (host.at - time)
        if until >= wanted:
            break
        time, sent, rate = host.at, until, rate + host.up_bps
    return time if math.isinf(rate) else time + (wanted - sent) / rate


def usable(rate_bps: int | None, share: float) -> float:
    """What of a link's rate is payload; infinite for a link without limit."""
    return math.inf if rate_bps is None else rate_bps * share


def source_of(scenario: Scenario, share: float, *, held_by: Sequence[str]) -> Source:
    """Who sends first: the hosts that hold the image, else the tracker that does (warm), else the origin (cold)."""
    if held_by:
        uplinks = (usable(scenario.group_of(host).shape.up_bps, share) for host in held_by)
        return Source(0.0, sum(uplinks))
    server = scenario.tracker if scenario.start == "warm" else scenario.origin
    return Source(usable(server.shape.up_bps, share))


def bounds_of(
    scenario: Scenario, share: float, starts: Mapping[str, float], *, held_by: Sequence[str] = ()
) -> dict[str, float]:
    """The bound of each host that asks at its time in `starts`, the thin link of a zone included."""
    asking = [
        Asking(host, at, usable(group.shape.up_bps, share), usable(group.shape.down_bps, share))
        for host, at in starts.items()
        for group in [scenario.group_of(host)]
    ]
    bounds = own_bounds(scenario.image_bytes, source_of(scenario, share, held_by=held_by), asking)
    if scenario.zone_link is None:
        return bounds
    crossing = scenario.image_bytes * 8 / usable(scenario.zone_link, share)
    inside = _zones_with_image(scenario, held_by)
    first = min(starts.values())
    return {
        host: bound
        if scenario.zone_of(scenario.group_of(host)) in inside
        else max(bound, first + crossing - starts[host])
        for host, bound in bounds.items()
    }


def _zones_with_image(scenario: Scenario, held_by: Sequence[str]) -> set[str]:
    if held_by:
        return {scenario.zone_of(scenario.group_of(host)) for host in held_by}
    return {scenario.zone_of(scenario.tracker if scenario.start == "warm" else scenario.origin)}
