"""How figures are shown: one table a scenario with a column a system, or JSON. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from simulations.emulation.figures import SATURATED_SHARE, Summary, as_mapping, figures, summarize
from simulations.emulation.outcome import Outcome
from simulations.emulation.scenario import Scenario

Outcomes = Mapping[str, Sequence[Outcome]]
"""The runs of each system, by its name."""


def table(scenario: Scenario, outcomes: Outcomes) -> str:
    """The figures of one scenario, and what must be known about them."""
    systems = {name: summarize([figures(run) for run in runs]) for name, runs in outcomes.items()}
    several = max(len(runs) for runs in outcomes.values()) > 1
    rows = [["", *(head for name in systems for head in _heads(name, several))]]
    for name, unit in _names(systems):
        row = [f"{name} ({unit})" if unit else name]
        for summaries in systems.values():
            row += _cells(next((each for each in summaries if each.name == name), None), several)
        rows.append(row)
    lines = [f"{scenario.name}: {scenario.description}", *_aligned(rows)]
    for name, runs in outcomes.items():
        lines += [f"{name}: {note}" for note in _notes(runs)]
    return "\n".join(lines) + "\n"


def document(scenario: Scenario, outcomes: Outcomes, *, samples: bool) -> dict[str, Any]:
    """The same for programs, with every host of every run."""
    return {
        "scenario": scenario.name,
        "description": scenario.description,
        "image_bytes": scenario.image_bytes,
        "systems": {
            name: {
                "summary": {
                    each.name: {"median": each.median, "worst": each.worst, "unit": each.unit}
                    for each in summarize([figures(run) for run in runs])
                },
                "runs": [_run(run, samples) for run in runs],
                "notes": _notes(runs),
            }
            for name, runs in outcomes.items()
        },
    }


def _run(run: Outcome, samples: bool) -> dict[str, Any]:
    raw = asdict(run)
    if not samples:
        del raw["samples"]
    return {"figures": as_mapping(figures(run)), **raw}


def _heads(name: str, several: bool) -> list[str]:
    return [f"{name}, median", "worst"] if several else [name]


def _names(systems: Mapping[str, Sequence[Summary]]) -> list[tuple[str, str]]:
    """Every figure that some system has, in the order of the one that has most."""
    longest = sorted(systems.values(), key=len, reverse=True)
    return list(dict.fromkeys((each.name, each.unit) for summaries in longest for each in summaries))


def _cells(summary: Summary | None, several: bool) -> list[str]:
    if summary is None:
        return ["", ""] if several else [""]
    return [_number(summary.median), _number(summary.worst)] if several else [_number(summary.median)]


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]


def _notes(runs: Sequence[Outcome]) -> list[str]:
    """What puts the figures into question, or must be known to repeat them."""
    first = runs[0]
    notes = [f"origin {first.origin_kind}, congestion control {first.congestion_control}, runs {len(runs)}"]
    saturated = sum(run.busy_share >= SATURATED_SHARE for run in runs)
    if saturated:
        notes.append(f"the cores were saturated in {saturated} of {len(runs)} runs: times say more about this machine")
    for run in runs:
        notes += [f"event without effect: {event}" for event in run.ignored_events]
        notes += [
            f"{host.host}, which an event befell, finished after {host.seconds:.2f} s"
            if host.seconds is not None
            else f"{host.host}, which an event befell, didn't finish"
            for host in run.hosts
            if host.disturbed
        ]
    return list(dict.fromkeys(notes))
