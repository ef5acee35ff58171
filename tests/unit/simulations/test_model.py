"""The model against what must hold of any run, and against what experiments measured (facts.md, "The relay")."""

from collections import Counter

import msgspec
import pytest

from p2pdist.core.errors import InvalidInput
from simulations.emulation.scenario import Arrival, Event, Group, Layers, Moment, Rate, Scenario, Server
from simulations.model.figures import Figures, figures, percentile
from simulations.model.fleet import Run, scaled
from simulations.model.options import Batching, Options

MBIT = 10**6
MIB = 1 << 20


def scenario(
    hosts: int, size_bytes: int, mbit: int, *, origin: int | None = None, layers: int = 1, start: str = "cold"
) -> Scenario:
    link = Rate(mbit * MBIT)
    return msgspec.structs.replace(
        Scenario(description="", layers=(Layers(layers, size_bytes),), hosts=(Group(count=hosts, link=link),)),
        tracker=Server(link=link),
        origin=Server(link=Rate((origin or mbit) * MBIT)),
        start=start,
        name="test",
    )


def happening(base: Scenario, *events: tuple[float, str, str]) -> Scenario:
    listed = tuple(Event(at=Moment(seconds=at), target=target, action=action) for at, target, action in events)  # type: ignore[arg-type]
    return msgspec.structs.replace(base, event=listed)


def model(case: Scenario, **options: object) -> Figures:
    return figures(Run(case, Options(**options)).go())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hosts", "layers", "start"), [(1, 1, "cold"), (13, 1, "cold"), (16, 3, "cold"), (16, 1, "warm")]
)
def test_without_failures_every_member_gets_every_piece_exactly_once(hosts: int, layers: int, start: str) -> None:
    case = scenario(hosts, 4 * MIB + 1, 40, layers=layers, start=start)
    run = Run(case, Options())
    outcome = run.go()
    got = figures(outcome)
    assert got.unfinished == got.duplicate_bytes == got.takeovers == got.fills == 0
    assert got.dealt_copies == 1.0
    assert got.origin_copies == (1.0 if start == "cold" else 0.0)
    assert outcome.totals.received_bytes == hosts * case.image_bytes
    assert got.everybody.slowest_x >= 1.0 - 0.06


@pytest.mark.parametrize(
    ("case", "options", "measured"),
    [
        (scenario(16, 64 * MIB, 40), {}, 1.008),
        (scenario(16, 64 * MIB, 40, start="warm"), {}, 1.012),
        (scenario(48, 32 * MIB, 20), {}, 1.033),
        (scenario(48, 32 * MIB, 20), {"fan": 8}, 1.046),
        (scenario(8, 256 * MIB, 80, origin=40), {"piece_bytes": 256 * 1024}, 1.004),
    ],
)
def test_the_slowest_host_is_where_experiments_found_it(
    case: Scenario, options: dict[str, object], measured: float
) -> None:
    assert model(case, **options).everybody.slowest_x == pytest.approx(measured, abs=0.02)


def test_first_bytes_come_when_experiments_saw_them() -> None:
    assert model(scenario(16, 64 * MIB, 40)).first_byte_p50_seconds == pytest.approx(0.010, abs=0.005)


def test_a_seed_determines_a_run_and_another_one_changes_it() -> None:
    case = happening(scenario(16, 4 * MIB, 40), (0.3, "host-5", "kill"))
    one, again, other = (model(case, seed=seed) for seed in (1, 1, 2))
    timing = {"events_per_second": 0.0, "wall_seconds": 0.0}
    assert msgspec.structs.replace(one, **timing) == msgspec.structs.replace(again, **timing)
    assert one.everybody != other.everybody


def test_a_killed_member_costs_the_others_next_to_nothing() -> None:
    calm = model(scenario(16, 16 * MIB, 40))
    shaken = model(happening(scenario(16, 16 * MIB, 40), (1.0, "host-5", "kill")))
    assert shaken.unfinished == 0
    assert shaken.everybody.hosts == 15
    assert shaken.takeovers > 0
    assert shaken.everybody.slowest_seconds < calm.everybody.slowest_seconds + 1.0


def test_a_frozen_member_is_found_out_by_every_parent_and_the_others_finish() -> None:
    got = model(happening(scenario(16, 16 * MIB, 40), (1.0, "host-5", "stop")))
    assert got.unfinished == 0
    assert got.frozen_verdicts > 1
    assert got.everybody.slowest_seconds < 10


def test_one_that_thaws_soon_goes_on_with_what_its_kernel_kept() -> None:
    case = happening(scenario(16, 16 * MIB, 40), (1.0, "host-5", "stop"), (1.4, "host-5", "continue"))
    got = model(case)
    assert got.unfinished == got.duplicate_bytes == 0


def test_one_that_thaws_late_gets_what_it_missed() -> None:
    case = happening(scenario(16, 16 * MIB, 40), (1.0, "host-5", "stop"), (3.0, "host-5", "continue"))
    run = Run(case, Options())
    run.events.run(0.0, lambda: False)
    outcome = run.go()
    assert outcome.clients["host-5"].done_at is not None


def test_a_latecomer_gets_what_was_dealt_before_by_fills() -> None:
    base = scenario(16, 8 * MIB, 40)
    late = Group(count=1, name="late", link=Rate(40 * MBIT), at=Moment(seconds=0.5))
    got = model(msgspec.structs.replace(base, hosts=(*base.hosts, late)))
    assert got.unfinished == 0
    assert got.fills > 0
    assert got.dealt_copies == 1.0
    assert got.groups["late"].hosts == 1


def test_a_wider_window_makes_fewer_epochs_and_messages() -> None:
    arrivals = Arrival(pattern="poisson", per_second=100.0)
    case = msgspec.structs.replace(scenario(60, 4 * MIB, 40), arrival=arrivals)
    narrow, wide = model(case), model(case, joins=Batching(0.005, 0.005))
    assert wide.control.epochs < narrow.control.epochs / 2
    assert wide.control.messages_sent < narrow.control.messages_sent


def test_scaling_keeps_the_shares_of_groups() -> None:
    base = scenario(14, MIB, 40)
    slow = Group(count=2, name="slow", link=Rate(8 * MBIT))
    grown = scaled(msgspec.structs.replace(base, hosts=(*base.hosts, slow)), 800)
    assert Counter({group.name: group.count for group in grown.hosts}) == {"host": 700, "slow": 100}


def test_what_cannot_be_modelled_is_refused() -> None:
    with pytest.raises(InvalidInput, match="kill tracker"):
        Run(happening(scenario(2, MIB, 40), (1.0, "tracker", "kill")), Options())
    with pytest.raises(InvalidInput, match="--hosts"):
        Run(scenario(2, MIB, 40), Options(hosts=0))


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, 0.0), ([3.0], 0.99, 3.0), ([1, 2, 3, 4], 0.5, 2), ([1, 2, 3, 4], 0.75, 3), ([1, 2, 3, 4], 0.76, 4)],
)
def test_percentiles(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected
