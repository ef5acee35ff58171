"""One picture of an event log: who fed whom, and each host's time line of bytes by source, with its waits."""

from pathlib import Path
from typing import Any

from p2pdist.core.errors import InvalidInput
from simulations.events.flows import ORIGIN, SOURCES, UNKNOWN, Flows

_COLOURS = {"deal": "tab:blue", "relay": "tab:green", "swarm": "tab:purple", "origin": "tab:orange"}
_WAIT_COLOUR = "tab:red"
_BINS = 240
_MOST_HOSTS = 64
_DOTS_PER_INCH = 130
_MIB = 1 << 20


def draw(flows: Flows, title: str, path: Path) -> None:
    """Write the picture to `path`, whose suffix tells the format; raises `InvalidInput` when there is nothing in it."""
    from matplotlib.figure import Figure

    hosts = flows.receivers
    if not hosts:
        raise InvalidInput("nothing was received in this log: there is nothing to draw")
    shown = hosts[:_MOST_HOSTS]
    height = 2.2 + 0.27 * len(shown)
    figure = Figure(figsize=(5.5 + 0.27 * len(shown) + 7, max(4.0, height)), dpi=_DOTS_PER_INCH, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2.2 + 0.27 * len(shown), 7])
    _draw_matrix(figure, left, flows, shown)
    _draw_times(figure, right, flows, shown)
    more = f" (the first {len(shown)} of {len(hosts)} hosts)" if len(shown) < len(hosts) else ""
    figure.suptitle(f"{title}{more}", fontsize=9)
    figure.savefig(path)


def _draw_matrix(figure: Any, axis: Any, flows: Flows, hosts: list[str]) -> None:
    found = flows.matrix()
    others = sorted({sender for sender, receiver in found if receiver in hosts and sender not in hosts})
    ends = [name for name in (ORIGIN, UNKNOWN) if name in others]
    senders = [*ends, *(name for name in others if name not in ends), *hosts]
    cells = [[found.get((sender, receiver), 0) / _MIB or float("nan") for receiver in hosts] for sender in senders]
    image = axis.imshow(cells, aspect="auto", cmap="viridis_r")
    axis.set_xticks(range(len(hosts)), hosts, rotation=90, fontsize=6)
    axis.set_yticks(range(len(senders)), senders, fontsize=6)
    axis.set_xlabel("to")
    axis.set_ylabel("from")
    axis.set_title("who fed whom (MiB)", fontsize=9)
    figure.colorbar(image, ax=axis, shrink=0.8)


def _draw_times(figure: Any, axis: Any, flows: Flows, hosts: list[str]) -> None:
    width = flows.seconds / _BINS
    times = [(number + 0.5) * width for number in range(_BINS)]
    rates = {host: flows.binned(host, _BINS) for host in hosts}
    # One scale for all rows, so that they can be compared; a burst of one bin isn't what it is made for.
    tops = sorted(max(map(sum, zip(*rates[host].values(), strict=True))) for host in hosts)
    scale = 0.85 / max(tops[len(tops) // 2], 1e-9)
    for row, host in enumerate(reversed(hosts)):
        base = [float(row)] * _BINS
        for source in SOURCES:
            top = [low + scale * rate for low, rate in zip(base, rates[host][source], strict=True)]
            top = [min(value, row + 0.97) for value in top]
            axis.fill_between(times, base, top, step="mid", color=_COLOURS[source], linewidth=0)
            base = top
        waits = [(span.start, span.end - span.start) for span in flows.waits if span.host == host]
        axis.broken_barh(waits, (row - 0.02, 0.3), color=_WAIT_COLOUR, alpha=0.7)
        ends = [span.end for span in flows.pulls if span.host == host]
        axis.plot(ends, [row + 0.1] * len(ends), "k|", markersize=5)
    _label_times(figure, axis, flows, hosts)


def _label_times(figure: Any, axis: Any, flows: Flows, hosts: list[str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    got = {flow.by for arrived in flows.arrived.values() for flow in arrived}
    handles: list[Any] = [Patch(color=_COLOURS[source], label=f"by {source}") for source in SOURCES if source in got]
    handles.append(Patch(color=_WAIT_COLOUR, alpha=0.7, label="nothing came"))
    handles.append(Line2D([], [], color="black", marker="|", linestyle="", label="blob held"))
    figure.legend(handles=handles, fontsize=7, ncols=len(handles), loc="outside lower right")
    axis.set_yticks([row + 0.4 for row in range(len(hosts))], hosts[::-1], fontsize=6)
    axis.set_ylim(-0.1, len(hosts))
    axis.set_xlim(0, 1.01 * flows.seconds)
    axis.set_xlabel("seconds")
    axis.set_title("where the time went (bytes per second by source, a row a host)", fontsize=9)
