"""What a run of the model says, in numbers: the figures that are printed, written as JSON and compared."""

from collections.abc import Sequence

import msgspec

from simulations.emulation.figures import percentile
from simulations.model.fleet import Outcome


class GroupFigures(msgspec.Struct, frozen=True):
    """One group of hosts: times are seconds from a host's own request; `x` ones are multiples of a host's own bound."""

    hosts: int
    bound_seconds: float
    p50_seconds: float
    p99_seconds: float
    slowest_seconds: float
    p50_x: float
    p99_x: float
    slowest_x: float


class ControlFigures(msgspec.Struct, frozen=True):
    """What the tracker and the agents said to each other."""

    messages_sent: int
    bytes_sent: int
    most_messages_in_a_second: int
    most_bytes_in_a_second: int
    messages_received: int
    bytes_received: int
    sent_by_type: dict[str, int]
    received_by_type: dict[str, int]
    rings: int


class Figures(msgspec.Struct, frozen=True):
    """All of it. `dealt_copies`: payload that arrived from the tracker / bytes of the image; `groups` by name."""

    scenario: str
    hosts: int
    fan: int
    piece_bytes: tuple[int, ...]
    seed: int
    everybody: GroupFigures
    groups: dict[str, GroupFigures]
    first_byte_p50_seconds: float
    first_byte_p99_seconds: float
    dealt_copies: float
    origin_copies: float
    tracker_bytes: int
    duplicate_bytes: int
    takeovers: int
    fills: int
    lacking: int
    rescues: int
    frozen_verdicts: int
    called_slow: int
    zone_copies: float
    swarmed: int
    unfinished: int
    longest_control_seconds: float
    control: ControlFigures
    tracker_cpu_seconds: float
    model_seconds: float
    events: int
    events_per_second: float
    wall_seconds: float


def figures(outcome: Outcome) -> Figures:
    """The figures of a run."""
    scenario = outcome.scenario
    measured = [name for name in scenario.pullers if name not in scenario.disturbed]
    relayed = [pull for client in outcome.clients.values() for pull in client.pulls if not pull.by_swarm]
    first = [pull.first_at - pull.asked_at for pull in relayed if pull.first_at is not None]
    pulls = [pull for client in outcome.clients.values() for pull in client.pulls]
    names = {group.name: set(group.hosts) for group in scenario.hosts if not group.holds}
    return Figures(
        scenario=scenario.name,
        hosts=len(scenario.pullers),
        fan=outcome.options.fan,
        piece_bytes=tuple(sorted({pull.blob.layout.piece_bytes for pull in pulls})),
        seed=outcome.options.seed,
        everybody=_group(outcome, measured),
        groups={group: _group(outcome, [name for name in measured if name in hosts]) for group, hosts in names.items()},
        first_byte_p50_seconds=percentile(first, 0.5) or 0.0,
        first_byte_p99_seconds=percentile(first, 0.99) or 0.0,
        dealt_copies=outcome.dealt_bytes / scenario.image_bytes,
        origin_copies=outcome.origin_bytes / scenario.image_bytes,
        tracker_bytes=outcome.tracker_bytes,
        duplicate_bytes=outcome.totals.duplicate_bytes,
        takeovers=outcome.takeovers,
        fills=outcome.totals.fills,
        lacking=sum(pull.lacking_tries for pull in pulls),
        rescues=sum(pull.rescued for pull in pulls),
        frozen_verdicts=outcome.totals.frozen_verdicts,
        called_slow=outcome.called_slow,
        zone_copies=outcome.zone_bytes / scenario.image_bytes,
        swarmed=sum(pull.by_swarm for pull in pulls),
        unfinished=sum(1 for name in measured if (c := outcome.clients.get(name)) is None or c.done_at is None),
        longest_control_seconds=outcome.longest_control_seconds,
        control=_control(outcome),
        tracker_cpu_seconds=outcome.tracker_cpu_seconds,
        model_seconds=outcome.seconds,
        events=outcome.events,
        events_per_second=outcome.events / max(outcome.wall_seconds, 1e-9),
        wall_seconds=outcome.wall_seconds,
    )


def _group(outcome: Outcome, names: Sequence[str]) -> GroupFigures:
    seconds, times = [], []
    for name in names:
        client = outcome.clients.get(name)
        if client is not None and client.done_at is not None and client.asked_at is not None:
            seconds.append(client.done_at - client.asked_at)
            times.append(seconds[-1] / outcome.bounds[name])
    bounds = [outcome.bounds[name] for name in names if name in outcome.bounds]
    return GroupFigures(
        len(names),
        max(bounds, default=0.0),
        percentile(seconds, 0.5) or 0.0,
        percentile(seconds, 0.99) or 0.0,
        max(seconds, default=0.0),
        percentile(times, 0.5) or 0.0,
        percentile(times, 0.99) or 0.0,
        max(times, default=0.0),
    )


def _control(outcome: Outcome) -> ControlFigures:
    lines = outcome.lines
    return ControlFigures(
        lines.sent.total(),
        lines.sent_bytes,
        max(lines.sent_in_second.values(), default=0),
        max(lines.bytes_in_second.values(), default=0),
        lines.received.total(),
        lines.received_bytes,
        dict(sorted(lines.sent.items())),
        dict(sorted(lines.received.items())),
        outcome.rings,
    )
