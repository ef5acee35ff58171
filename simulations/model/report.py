"""A run's figures as text."""

from collections.abc import Iterator

from p2pdist.core.units import format_size
from simulations.model.figures import Figures, GroupFigures


def lines(figures: Figures) -> Iterator[str]:
    """The report, line by line."""
    pieces = ", ".join(format_size(size) for size in figures.piece_bytes)
    yield f"{figures.scenario}: {figures.hosts} hosts, pieces of {pieces}, fan {figures.fan}, seed {figures.seed}"
    yield f"  {'':<12}{'hosts':>6}{'bound s':>9}{'p50 s':>9}{'p99 s':>9}{'slowest':>9}   p50 / p99 / slowest x bound"
    yield _row("all", figures.everybody)
    if len(figures.groups) > 1:
        yield from (_row(name, group) for name, group in figures.groups.items() if group.hosts)
    yield (
        f"  first byte p50 {figures.first_byte_p50_seconds * 1000:.0f} ms,"
        f" p99 {figures.first_byte_p99_seconds * 1000:.0f} ms"
    )
    yield (
        f"  dealt {figures.dealt_copies:.3f} copies, origin {figures.origin_copies:.3f},"
        f" duplicates {format_size(figures.duplicate_bytes)}, takeovers {figures.takeovers}, fills {figures.fills},"
        f" asked for overdue {figures.lacking}, rescues {figures.rescues}, by swarm {figures.swarmed} (estimated),"
        f" unfinished {figures.unfinished}"
    )
    control = figures.control
    by_type = ", ".join(f"{name} {count}" for name, count in control.sent_by_type.items())
    yield (
        f"  tracker sent {control.messages_sent} messages ({by_type}), {format_size(control.bytes_sent)};"
        f" at most {control.most_messages_in_a_second} and {format_size(control.most_bytes_in_a_second)} in a second;"
        f" heard {control.messages_received}, {format_size(control.bytes_received)}; {control.rings} rings;"
        f" {figures.tracker_cpu_seconds:.2f} CPU seconds of the tracker's code, without sockets"
    )
    yield (
        f"  longest wait of a relay's control frame {figures.longest_control_seconds * 1000:.0f} ms,"
        f" verdicts of frozen {figures.frozen_verdicts}, called slow {figures.called_slow}"
    )
    if figures.zone_copies:
        yield f"  over the thin link, in the direction that carried more: {figures.zone_copies:.3f} copies"
    yield (
        f"  model: {figures.events} events in {figures.wall_seconds:.1f} s,"
        f" {figures.events_per_second:,.0f} events/s for {figures.model_seconds:.1f} s of the fleet"
    )


def _row(name: str, group: GroupFigures) -> str:
    return (
        f"  {name:<12}{group.hosts:>6}{group.bound_seconds:>9.2f}{group.p50_seconds:>9.2f}{group.p99_seconds:>9.2f}"
        f"{group.slowest_seconds:>9.2f}   {group.p50_x:.3f} / {group.p99_x:.3f} / {group.slowest_x:.3f}"
    )
