"""What the demo reads from the admin addresses: who is ready, and how many bytes went which way.

Knows the paths and names there (`/readyz`, `/v1/status`, `/metrics`, `/stats` of the embedded registry), and nothing of
what the figures are for.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

import trio
from prometheus_client.parser import text_string_to_metric_families

from p2pdist.core.errors import ProtocolError, Unavailable
from p2pdist.demo.requests import fetch
from p2pdist.http.client import HttpClient
from p2pdist.http.url import Url

_LIMIT_BYTES = 8 << 20
_ASK_AGAIN_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class SourceBytes:
    """The bytes of blobs that an agent received, by where they came from."""

    relay: int = 0
    """Pushed on by other members."""
    dealt: int = 0
    """Dealt by the tracker."""
    swarm: int = 0
    origin: int = 0
    """Rescued."""

    def __sub__(self, earlier: "SourceBytes") -> "SourceBytes":
        return SourceBytes(
            self.relay - earlier.relay,
            self.dealt - earlier.dealt,
            self.swarm - earlier.swarm,
            self.origin - earlier.origin,
        )


async def wait_until_ok(client: HttpClient, url: str, timeout_seconds: float, explain: Callable[[], str]) -> None:
    """Ask for `url` until the answer is 200; else raises `Unavailable` with `explain()` and the last answer."""
    target = Url.parse(url)
    answer = "none"
    with trio.move_on_after(timeout_seconds):
        while True:
            try:
                await fetch(client, "GET", target, _LIMIT_BYTES)
                return
            except Unavailable as error:
                answer = str(error)
            await trio.sleep(_ASK_AGAIN_SECONDS)
    raise Unavailable(f"{explain()}\nThe last answer within {timeout_seconds:g} s: {answer}")


async def received_bytes(client: HttpClient, admin: str) -> SourceBytes:
    """What an agent received so far."""
    url = Url.parse(f"{admin}/v1/status")
    _, body = await fetch(client, "GET", url, _LIMIT_BYTES)
    try:
        counts = json.loads(body)["bytes"]
        return SourceBytes(*(int(counts[name]) for name in ("relay", "dealt", "swarm", "origin")))
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError(f"{url.shown} doesn't tell the bytes by source: {error!r}") from error


async def registry_bytes(client: HttpClient, registry: str) -> int:
    """Bytes of blobs that the embedded registry sent so far."""
    url = Url.parse(f"{registry}/stats")
    _, body = await fetch(client, "GET", url, _LIMIT_BYTES)
    try:
        return int(json.loads(body)["body_bytes"])
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError(f"{url.shown} doesn't tell what was sent: {error!r}") from error


@dataclass(frozen=True, slots=True)
class TrackerBytes:
    """The bytes of blobs that the tracker fetched from origins and dealt to agents."""

    origin: int
    dealt: int


async def tracker_bytes(client: HttpClient, admin: str) -> TrackerBytes:
    """What the tracker's metrics count so far."""
    url = Url.parse(f"{admin}/metrics")
    _, body = await fetch(client, "GET", url, _LIMIT_BYTES)
    return TrackerBytes(
        counter_total(body.decode(errors="replace"), "p2pdist_tracker_origin_bytes", url),
        counter_total(body.decode(errors="replace"), "p2pdist_tracker_dealt_bytes", url),
    )


def counter_total(metrics: str, name: str, url: Url) -> int:
    """The sum of a counter over all labels, in Prometheus' text format; one without a series yet counts as 0."""
    try:
        families = {family.name: family for family in text_string_to_metric_families(metrics)}
        samples = families[name].samples
    except (ValueError, KeyError) as error:
        raise ProtocolError(f"{url.shown} has no usable counter {name}_total") from error
    return int(sum(sample.value for sample in samples if sample.name == f"{name}_total"))
