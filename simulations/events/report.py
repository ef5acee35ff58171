"""What event logs tell, as a table: a line a host."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from simulations.events.flows import SOURCES, Flows
from simulations.events.reading import Log

_MIB = 1 << 20
_FEEDERS = 3


def table(log: Log, flows: Flows) -> str:
    """Bytes by how they came, the greatest feeders, and waits of more than half a second, for every host."""
    return "\n".join(_lines(log, flows))


def _lines(log: Log, flows: Flows) -> Iterator[str]:
    total = sum(flow.bytes for arrived in flows.arrived.values() for flow in arrived)
    yield f"{len(flows.blobs)} blobs, {flows.seconds:.2f} s, {total / _MIB:.1f} MiB received"
    if log.dropped or log.unreadable:
        yield f"incomplete: {log.dropped} lines were dropped by their nodes, {log.unreadable} can't be read"
    width = max([len(host) for host in flows.receivers] + [4])
    heads = " ".join(f"{head:>9}" for head in ("deal", "relay", "swarm", "origin", "twice"))
    yield f"{'host':<{width}} {heads}  MiB; who gave most; what was waited for"
    fed: dict[str, Counter[str]] = {}
    for (sender, receiver), size_bytes in flows.matrix().items():
        fed.setdefault(receiver, Counter())[sender] += size_bytes
    for host in flows.receivers:
        got = flows.by_source(host)
        sizes = [*(got[source] for source in SOURCES), flows.redundant[host]]
        amounts = " ".join(f"{size_bytes / _MIB:9.2f}" for size_bytes in sizes)
        feeders = fed.get(host, Counter())
        most = ", ".join(f"{name} {size_bytes / _MIB:.1f}" for name, size_bytes in feeders.most_common(_FEEDERS))
        more = f" and {len(feeders) - _FEEDERS} others" if len(feeders) > _FEEDERS else ""
        yield f"{host:<{width}} {amounts}  {most or 'nobody'}{more}{_waits(flows, host)}"
    for host, spans in sorted(flows.taken_over.items()):
        yield f"{host}: {spans} of its spans went to heirs"
    for span in flows.failed:
        yield f"{span.host} failed to get {span.what} after {span.end - span.start:.2f} s"
    for span in flows.unfinished:
        yield f"{span.host} hadn't got {span.what} when its log ended, {span.end - span.start:.2f} s after it wanted it"


def _waits(flows: Flows, host: str) -> str:
    seconds: defaultdict[str, float] = defaultdict(float)
    for span in flows.waits:
        if span.host == host:
            seconds[span.what] += span.end - span.start
    return "".join(f"; {what} {value:.1f} s" for what, value in seconds.items())
