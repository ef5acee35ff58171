"""The model against what must hold of any run, and against what experiments measured (facts.md, "The relay")."""

import json
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from p2pdist.core.errors import InvalidInput
from simulations.__main__ import main
from simulations.emulation.scenario import Scenario, parse
from simulations.model.comparison import lines, read
from simulations.model.figures import Figures, figures
from simulations.model.fleet import run, scaled
from simulations.model.options import Options
from simulations.model.variants import Variant

MIB = 1 << 20
TWO_SLOW = '[[hosts]]\ncount = 2\nname = "slow"\nlink = "8 Mbit/s"\n'
ONE_LATE = '[[hosts]]\ncount = 1\nname = "late"\nlink = "40 Mbit/s"\nat = "0.5s"\n'


def scenario(
    hosts: int, layers: str, mbit: int, *, origin: int | None = None, start: str = "cold", more: str = ""
) -> Scenario:
    return parse(
        f"""
        description = "a test"
        layers = ["{layers}"]
        start = "{start}"
        tracker.link = "{mbit} Mbit/s"
        origin.link = "{origin or mbit} Mbit/s"
        [[hosts]]
        count = {hosts}
        link = "{mbit} Mbit/s"
        {more}
        """,
        "test",
    )


def happens(at: float, target: str, action: str) -> str:
    return f'[[event]]\nat = "{at}s"\ntarget = "{target}"\naction = "{action}"\n'


def model(case: Scenario, **options: object) -> Figures:
    return figures(run(case, Options(**options)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hosts", "layers", "start"), [(1, 1, "cold"), (13, 1, "cold"), (16, 3, "cold"), (16, 1, "warm")]
)
def test_without_failures_every_member_gets_every_piece_exactly_once(hosts: int, layers: int, start: str) -> None:
    case = scenario(hosts, f"{layers} x {4 * MIB + 1}", 40, start=start)
    outcome = run(case, Options())
    got = figures(outcome)
    assert got.unfinished == got.duplicate_bytes == got.takeovers == got.fills == 0
    assert got.dealt_copies == 1.0
    assert got.origin_copies == (1.0 if start == "cold" else 0.0)
    assert outcome.totals.received_bytes == hosts * case.image_bytes


@pytest.mark.parametrize("hosts", [1, 5, 16])
def test_without_bursts_nobody_is_faster_than_the_bound(hosts: int) -> None:
    got = model(scenario(hosts, "4MiB", 40), burst_bytes=0)
    assert 1.0 <= got.everybody.p50_x <= got.everybody.slowest_x < 1.25


@pytest.mark.parametrize(
    ("case", "options", "measured"),
    [
        (scenario(16, "64MiB", 40), {}, 1.008),
        (scenario(16, "64MiB", 40, start="warm"), {}, 1.012),
        (scenario(48, "32MiB", 20), {}, 1.033),
        (scenario(48, "32MiB", 20), {"fan": 8}, 1.046),
        (scenario(8, "256MiB", 80, origin=40), {"piece_bytes": 256 * 1024}, 1.004),
    ],
)
def test_the_slowest_host_is_where_experiments_found_it(
    case: Scenario, options: dict[str, object], measured: float
) -> None:
    got = model(case, **options)
    assert got.everybody.slowest_x == pytest.approx(measured, abs=0.02)
    assert got.dealt_copies == 1.0


def test_first_bytes_come_when_experiments_saw_them() -> None:
    assert model(scenario(16, "8MiB", 40)).first_byte_p50_seconds == pytest.approx(0.010, abs=0.005)


def test_a_seed_determines_a_run_and_another_one_changes_it() -> None:
    case = scenario(16, "4MiB", 40, more=happens(0.3, "host-5", "kill"))
    one, again, other = (model(case, seed=seed) for seed in (1, 1, 2))
    timing = {"events_per_second": 0.0, "wall_seconds": 0.0, "tracker_cpu_seconds": 0.0}
    assert msgspec.structs.replace(one, **timing) == msgspec.structs.replace(again, **timing)
    assert one.everybody != other.everybody


def test_a_killed_member_costs_the_others_next_to_nothing() -> None:
    calm = model(scenario(16, "16MiB", 40))
    shaken = model(scenario(16, "16MiB", 40, more=happens(1.0, "host-5", "kill")))
    assert shaken.unfinished == 0
    assert shaken.everybody.hosts == 15
    assert shaken.takeovers > 0
    assert shaken.everybody.slowest_seconds < calm.everybody.slowest_seconds + 1.0


def test_one_that_thaws_soon_goes_on_with_what_its_kernel_kept() -> None:
    events = happens(1.0, "host-5", "stop") + happens(1.4, "host-5", "continue")
    got = model(scenario(16, "16MiB", 40, more=events))
    assert got.unfinished == got.duplicate_bytes == 0


def test_one_that_thaws_late_gets_what_it_missed() -> None:
    events = happens(1.0, "host-5", "stop") + happens(3.0, "host-5", "continue")
    outcome = run(scenario(16, "16MiB", 40, more=events), Options())
    assert outcome.clients["host-5"].done_at is not None
    assert figures(outcome).frozen_verdicts > 1


def test_a_latecomer_gets_what_was_dealt_before_by_fills() -> None:
    got = model(scenario(16, "8MiB", 40, more=ONE_LATE))
    assert got.unfinished == 0
    assert got.fills > 0
    assert got.dealt_copies == 1.0
    assert got.groups["late"].hosts == 1
    assert got.groups["late"].slowest_x < 1.1
    assert got.groups["host"].slowest_x < 1.1


def test_hosts_that_register_when_they_ask_are_told_to_everybody() -> None:
    got = model(scenario(20, "1MiB", 40), registers=True)
    assert got.unfinished == 0
    assert got.control.sent_by_type["Table"] >= 20


def test_slow_members_are_found_and_delay_nobody() -> None:
    got = model(scenario(14, "32MiB", 40, more=TWO_SLOW))
    assert got.called_slow == 2
    assert got.unfinished == 0
    assert got.groups["host"].p50_x < 1.2


def test_scaling_keeps_the_shares_of_groups() -> None:
    grown = scaled(scenario(14, "1MiB", 40, more=TWO_SLOW), 800)
    assert Counter({group.name: group.count for group in grown.hosts}) == {"host": 700, "slow": 100}


def test_what_cannot_be_modelled_is_refused() -> None:
    with pytest.raises(InvalidInput, match="kill tracker"):
        run(scenario(2, "1MiB", 40, more=happens(1.0, "tracker", "kill")), Options())
    with pytest.raises(InvalidInput, match="no host-9 among 5 hosts"):
        run(scenario(10, "1MiB", 40, more=happens(1.0, "host-9", "kill")), Options(hosts=5))
    with pytest.raises(InvalidInput, match="--hosts"):
        run(scenario(2, "1MiB", 40), Options(hosts=0))


def test_holders_deal_and_the_tracker_sends_no_byte() -> None:
    holders = '[[hosts]]\ncount = 4\nname = "holder"\nlink = "40 Mbit/s"\nholds = true\n'
    got = model(scenario(4, "8MiB", 40, more=holders))
    assert got.unfinished == got.duplicate_bytes == got.swarmed == 0
    assert got.dealt_copies == got.origin_copies == 0.0
    assert got.control.sent_by_type["Supply"] == 4
    assert got.groups["host"].slowest_x < 1.15


def test_later_batches_are_guests_of_earlier_ones() -> None:
    got = model(scenario(10, "4MiB", 40, more='[arrival]\npattern = "batches"\n'))
    assert got.unfinished == got.duplicate_bytes == 0
    assert got.dealt_copies == got.origin_copies == 1.0
    assert got.everybody.slowest_x < 1.1


def test_one_copy_crosses_the_link_between_two_zones() -> None:
    case = parse(
        """
        description = "a test"
        layers = ["8MiB"]
        zone_link = "20 Mbit/s"
        tracker = { link = "40 Mbit/s", zone = "near" }
        origin = { link = "40 Mbit/s", zone = "near" }
        hosts = [
            { name = "near", count = 4, link = "40 Mbit/s", zone = "near" },
            { name = "far", count = 4, link = "40 Mbit/s", zone = "far" },
        ]
        """,
        "test",
    )
    got = model(case)
    assert got.unfinished == 0
    assert got.zone_copies == pytest.approx(1.0, abs=0.02)
    assert got.groups["near"].slowest_x < 1.1
    assert got.groups["far"].slowest_x < 1.1


def test_a_member_that_is_killed_while_it_deals_is_replaced() -> None:
    holders = '[[hosts]]\ncount = 2\nname = "holder"\nlink = "40 Mbit/s"\nholds = true\n'
    got = model(scenario(4, "8MiB", 40, more=holders + happens(0.5, "holder-1", "kill")))
    assert got.unfinished == 0
    assert got.everybody.slowest_x < 1.5


def test_the_tracker_hears_of_a_frozen_member_and_goes_on_without_it() -> None:
    case = scenario(16, "16MiB", 40, more=happens(1.0, "host-5", "stop"))
    got = model(case)
    assert got.control.sent_by_type["Probe"] >= 1
    assert got.everybody.slowest_seconds < model(scenario(16, "16MiB", 40)).everybody.slowest_seconds + 1.0


def test_deals_that_are_paced_arrive_sooner_from_a_warm_tracker() -> None:
    case = scenario(60, "4MB", 100, start="warm")
    plain, paced = model(case), model(case, variants=frozenset({Variant.PACED_DEALS}))
    assert paced.unfinished == 0
    assert paced.everybody.slowest_x < plain.everybody.slowest_x


def test_a_comparison_shows_what_both_have(tmp_path: Path) -> None:
    summary = {
        "p50": {"median": 2.0, "worst": 3.0, "unit": "s"},
        "payload of a link's rate": {"median": 0.9, "worst": 0.9, "unit": ""},
        "CPU of the daemons": {"median": 4.0, "worst": 4.0, "unit": "s/GiB"},
    }
    document = {"scenario": "test", "systems": {"p2pdist": {"summary": summary}}}
    path = tmp_path / "result.json"
    path.write_text(json.dumps(document | {"scenario": "another"}) + "\n" + json.dumps(document) + "\n")
    emulated = read(path, "test")
    assert emulated.share == 0.9
    got = model(scenario(2, "1MiB", 40))
    rows = list(lines(got, emulated))
    assert len(rows) == 2
    assert rows[1].split()[:3] == ["p50", "2.000", f"{got.everybody.p50_seconds:.3f}"]
    with pytest.raises(InvalidInput, match="emulate that scenario first"):
        read(path, "a third")


def test_the_command_prints_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "small.toml"
    path.write_text('description = "small"\nlayers = ["1MiB"]\n[[hosts]]\ncount = 3\nlink = "40 Mbit/s"\n')
    assert main(["model", str(path), "--hosts", "5", "--fan", "2", "--piece", "64KiB"]) == 0
    assert "small: 5 hosts, pieces of 64.00 KiB, fan 2" in capsys.readouterr().out
    assert main(["model", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["hosts"] == 3
