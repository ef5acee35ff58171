"""The figures of agent and nginx side by side, and how they compare. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simulations.emulation.figures import GIB, MIB
from simulations.shim.transfers import Transfer


@dataclass(frozen=True, slots=True)
class Round:
    """Both servers in turn: a large blob, and many requests for a small one."""

    large: Mapping[str, Transfer]
    small: Mapping[str, Transfer]


@dataclass(frozen=True, slots=True)
class Row:
    """A figure of the agent, of nginx, and the first divided by the second; of several rounds median and worst."""

    name: str
    agent: tuple[float, float]
    nginx: tuple[float, float]
    ratio: tuple[float, float]


def rows(rounds: Sequence[Round]) -> list[Row]:
    """What is said about the rounds; the worst ratio is that of one round, not of the worst of either."""
    return [
        _row("MiB/s", [{name: _speed(each) for name, each in one.large.items()} for one in rounds], more=True),
        _row("CPU s/GiB of the server", [{name: _cost(each) for name, each in one.large.items()} for one in rounds]),
        _row(
            "small requests/s",
            [{name: each.requests / each.seconds for name, each in one.small.items()} for one in rounds],
            more=True,
        ),
        _row(
            "CPU us a small request",
            [{name: each.cpu_seconds * 1e6 / each.requests for name, each in one.small.items()} for one in rounds],
        ),
    ]


def table(found: Sequence[Row]) -> str:
    """The rows for people."""
    heads = ["", "agent", "worst", "nginx", "worst", "agent/nginx", "worst"]
    lines = [heads] + [
        [row.name, *(_number(value) for pair in (row.agent, row.nginx, row.ratio) for value in pair)] for row in found
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)


def document(found: Sequence[Row]) -> dict[str, dict[str, dict[str, float]]]:
    """The rows for programs."""
    return {
        row.name: {
            who: {"median": pair[0], "worst": pair[1]}
            for who, pair in (("agent", row.agent), ("nginx", row.nginx), ("ratio", row.ratio))
        }
        for row in found
    }


def _row(name: str, values: Sequence[Mapping[str, float]], *, more: bool = False) -> Row:
    def summary(found: list[float]) -> tuple[float, float]:
        return statistics.median(found), min(found) if more else max(found)

    agents, others = [each["agent"] for each in values], [each["nginx"] for each in values]
    return Row(
        name,
        summary(agents),
        summary(others),
        summary([ours / theirs for ours, theirs in zip(agents, others, strict=True)]),
    )


def _speed(transfer: Transfer) -> float:
    return transfer.received_bytes / MIB / transfer.seconds


def _cost(transfer: Transfer) -> float:
    return transfer.cpu_seconds * GIB / transfer.received_bytes


def _number(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.0f}"
