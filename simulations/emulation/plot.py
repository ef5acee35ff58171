"""One picture of a scenario: for every system bytes over time, a line a host, and the bound beside them.

matplotlib is an extra (`pip install 'p2pdist[simulations]'`), and is imported only when something is to be drawn.
"""

import importlib.util
from pathlib import Path
from typing import Any

from p2pdist.core.errors import Unavailable
from simulations.emulation.outcome import Outcome
from simulations.emulation.report import Outcomes
from simulations.emulation.scenario import Scenario

_WIDTH_INCHES = 4.2
_HEIGHT_INCHES = 3.6
_DOTS_PER_INCH = 140
_MIB = 1 << 20


def require() -> None:
    """Raise `Unavailable` when nothing can be drawn here."""
    if importlib.util.find_spec("matplotlib") is None:
        raise Unavailable("--plot needs matplotlib: pip install 'p2pdist[simulations]'")


def draw(scenario: Scenario, outcomes: Outcomes, path: Path) -> None:
    """Write the picture of each system's first run to `path`, whose suffix tells the format."""
    from matplotlib.figure import Figure

    count = len(outcomes)
    figure = Figure(figsize=(_WIDTH_INCHES * count, _HEIGHT_INCHES), dpi=_DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    for axis, (system, runs) in zip(axes, outcomes.items(), strict=True):
        _draw_run(axis, runs[0])
        axis.set_title(system)
        axis.set_xlabel("seconds")
    axes[0].set_ylabel("MiB received by each host")
    figure.suptitle(f"{scenario.name}: {scenario.description}", fontsize=9)
    figure.savefig(path)


def _draw_run(axis: Any, run: Outcome) -> None:
    for host in run.hosts:
        times, sizes = _line(run, host.host)
        axis.plot(times, sizes, linewidth=0.8, color="tab:red" if host.disturbed else "tab:blue", alpha=0.6)
    size = run.image_bytes / _MIB
    bounds = dict.fromkeys((host.at_seconds, host.bound_seconds) for host in run.hosts if host.bound_seconds > 0)
    for number, (at, bound) in enumerate(bounds):
        label = "bound" if number == 0 else None
        axis.plot([at, at + bound], [0, size], linestyle="--", linewidth=1.2, color="black", label=label)
    if bounds:
        axis.legend(loc="lower right")
    axis.set_xlim(left=0)
    axis.set_ylim(bottom=0, top=size * 1.03)


def _line(run: Outcome, host: str) -> tuple[list[float], list[float]]:
    """What a host had at which time, from its request to its last byte."""
    outcome = next(each for each in run.hosts if each.host == host)
    end = None if outcome.seconds is None else outcome.at_seconds + outcome.seconds
    times, sizes = [outcome.at_seconds], [0.0]
    for sample in run.samples:
        if sample.seconds > outcome.at_seconds and (end is None or sample.seconds < end):
            times.append(sample.seconds)
            sizes.append(sample.received_bytes[host] / _MIB)
    if end is not None:
        times.append(end)
        sizes.append(outcome.received_bytes / _MIB)
    return times, sizes
