"""The matrix for people and for programs. Pure."""

from collections.abc import Sequence
from typing import Any

from tests.system.faults.bench import Result
from tests.system.faults.cells import Client, Outcome
from tests.system.faults.expected import expected, slowest_seconds


def problems(result: Result) -> list[str]:
    """What isn't as it should be."""
    found = []
    wanted = expected(result.cell)
    if result.outcome is not wanted:
        found.append(f"{result.outcome}, expected {wanted}: {result.said[-600:]}")
    if wanted is Outcome.PULLED and result.recovery_seconds > slowest_seconds(result.cell):
        found.append(f"took {result.recovery_seconds:.1f} s longer than without the fault")
    if not result.next_pulled:
        found.append("the next pull failed too")
    if result.well_again:
        found.append(result.well_again)
    return found


def document(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One object a cell."""
    return [
        {
            "client": result.cell.client,
            "where": result.cell.where,
            "fault": result.cell.fault,
            "when": result.cell.when,
            "outcome": result.outcome,
            "expected": expected(result.cell),
            "seconds": round(result.seconds, 3),
            "recovery_seconds": round(result.recovery_seconds, 3),
            "slowest_seconds": slowest_seconds(result.cell),
            "next_pulled": result.next_pulled,
            "problems": problems(result),
        }
        for result in results
    ]


def table(results: Sequence[Result]) -> str:
    """A row for each fault, a column for each client: seconds beyond the fault-free time, or `failed`; `!`: not so."""
    clients = [client for client in Client if any(result.cell.client is client for result in results)]
    rows: dict[tuple[str, str, str], dict[Client, str]] = {}
    for result in results:
        cell = result.cell
        key = (cell.where.value, cell.fault.value, cell.when.value)
        shown = f"{result.recovery_seconds:.1f}" if result.outcome is Outcome.PULLED else "failed"
        rows.setdefault(key, {})[cell.client] = shown + ("!" if problems(result) else "")
    lines = [["where", "fault", "when", *clients]]
    lines += [[*key, *(row.get(client, "") for client in clients)] for key, row in rows.items()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    bad = [result for result in results if problems(result)]
    slowest = max((result.recovery_seconds for result in results if result.outcome is Outcome.PULLED), default=0.0)
    text += ["", f"{len(results)} cells, {len(bad)} not as expected, slowest recovery {slowest:.1f} s"]
    text += [f"! {result.cell}: {problem}" for result in bad for problem in problems(result)]
    return "\n".join(text)
