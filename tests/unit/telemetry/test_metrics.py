import re

import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from p2pdist.telemetry.metrics import (
    AgentMetrics,
    ByteSource,
    Direction,
    OriginOutcome,
    PullOutcome,
    PullSource,
    ShimRequest,
    TrackerMetrics,
)

_MOST_SERIES = 150


def _families(kind: type[AgentMetrics] | type[TrackerMetrics]) -> tuple[AgentMetrics | TrackerMetrics, list[Metric]]:
    registry = CollectorRegistry()
    metrics = kind(registry)
    return metrics, list(text_string_to_metric_families(generate_latest(registry).decode()))


@pytest.mark.parametrize("kind", [AgentMetrics, TrackerMetrics])
def test_names_and_units(kind: type[AgentMetrics] | type[TrackerMetrics]) -> None:
    _, families = _families(kind)
    prefix = "p2pdist_agent_" if kind is AgentMetrics else "p2pdist_tracker_"
    ours = [family for family in families if family.name.startswith(prefix)]
    assert len(ours) >= 20
    for family in ours:
        assert re.fullmatch(r"p2pdist_[a-z_]+", family.name)
        assert family.documentation.endswith(".")
        assert not re.search(r"_(ms|millis|mib|kib|minutes|percent)(_|$)", family.name)
    others = {family.name for family in families if family not in ours}
    assert "p2pdist_build_info" in others
    assert "process_resident_memory_bytes" in others


@pytest.mark.parametrize("kind", [AgentMetrics, TrackerMetrics])
def test_few_series_and_all_at_zero(kind: type[AgentMetrics] | type[TrackerMetrics]) -> None:
    _, families = _families(kind)
    samples = [s for f in families if f.name.startswith(("p2pdist_agent", "p2pdist_tracker")) for s in f.samples]
    assert len(samples) < _MOST_SERIES
    assert all(sample.value == 0 for sample in samples)


@pytest.mark.parametrize("kind", [AgentMetrics, TrackerMetrics])
def test_every_metric_is_on_the_given_registry(kind: type[AgentMetrics] | type[TrackerMetrics]) -> None:
    metrics, families = _families(kind)
    declared = [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]
    assert len(declared) == len(vars(metrics))
    exposed = {family.name for family in families}
    # A counter whose labels come up with use has no series yet, but its family is there.
    assert {metric._name for metric in declared} <= exposed
    kind(CollectorRegistry())


def test_agent_counts_by_enum() -> None:
    registry = CollectorRegistry()
    metrics = AgentMetrics(registry)
    metrics.pulls.labels(PullOutcome.DONE, PullSource.RELAY).inc()
    metrics.received_bytes.labels(ByteSource.DEALT).inc(100)
    metrics.shim_requests.labels(ShimRequest.BLOB, 206).inc()
    metrics.first_byte_seconds.observe(0.02)
    labels = {"outcome": "done", "source": "relay"}
    assert registry.get_sample_value("p2pdist_agent_pulls_total", labels) == 1
    assert registry.get_sample_value("p2pdist_agent_received_bytes_total", {"source": "dealt"}) == 100
    assert registry.get_sample_value("p2pdist_agent_received_bytes_total", {"source": "swarm"}) == 0
    assert registry.get_sample_value("p2pdist_agent_shim_requests_total", {"kind": "blob", "status": "206"}) == 1
    assert registry.get_sample_value("p2pdist_agent_first_byte_seconds_bucket", {"le": "0.025"}) == 1
    assert registry.get_sample_value("p2pdist_agent_first_byte_seconds_bucket", {"le": "0.01"}) == 0


def test_tracker_counts_by_upstream() -> None:
    registry = CollectorRegistry()
    metrics = TrackerMetrics(registry)
    metrics.origin_requests.labels("docker.io", OriginOutcome.DENIED).inc()
    metrics.control_frames.labels(Direction.IN, "join").inc()
    labels = {"upstream": "docker.io", "outcome": "denied"}
    assert registry.get_sample_value("p2pdist_tracker_origin_requests_total", labels) == 1
    assert registry.get_sample_value("p2pdist_tracker_control_frames_total", {"direction": "in", "frame": "join"}) == 1
