"""Scenario files: what they say, and what is said about wrong ones."""

from pathlib import Path

import pytest

import simulations
from p2pdist.core.errors import InvalidInput
from simulations.emulation.scenario import Moment, Scenario, load, parse
from simulations.network import Link

MIB = 1 << 20
MBIT = 1_000_000
SCENARIOS = sorted((Path(simulations.__file__).parent / "scenarios").glob("*.toml"))
TEXT = """
description = "three kinds of hosts"
layers = ["1MiB", "2 x 1MB"]
start = "warm"
zone_link = "5 Mbit/s"
tracker.link = "40 Mbit/s"
origin = { up = "10 Mbit/s", zone = "a" }

[[hosts]]
name = "fast"
count = 2
link = "40 Mbit/s"
up = "8 Mbit/s"

[[hosts]]
name = "holder"
count = 1
holds = true
zone = "b"

[[hosts]]
name = "late"
count = 1
down = "40 Mbit/s"
at = "30%"

[arrival]
pattern = "poisson"
per_second = 2

[[event]]
at = "1.5s"
target = "fast-2"
action = "kill"
"""


def minimal(**keys: str) -> str:
    """A scenario that says only what it must, and `keys`."""
    lines = {"description": '"x"', "layers": '["1MiB"]', "hosts": '[{count = 2, link = "40 Mbit/s"}]'} | keys
    return "".join(f"{key} = {value}\n" for key, value in lines.items() if value)


def test_everything_that_can_be_said() -> None:
    scenario = parse(TEXT, "kinds")
    assert scenario.name == "kinds"
    assert scenario.layer_sizes == [MIB, 1_000_000, 1_000_000]
    assert scenario.image_bytes == MIB + 2_000_000
    assert scenario.pullers == ["fast-1", "fast-2", "late-1"]
    assert scenario.holders == ["holder-1"]
    assert scenario.disturbed == {"fast-2"}
    assert [name for name, _ in scenario.places()] == ["origin", "tracker", "fast-1", "fast-2", "holder-1", "late-1"]
    assert scenario.group_of("fast-1").shape == Link(8 * MBIT, 40 * MBIT)
    assert scenario.group_of("late-1").shape == Link(None, 40 * MBIT)
    assert scenario.origin.shape == Link(10 * MBIT, None)
    assert scenario.zones == ["a", "b"]
    assert scenario.zone_of(scenario.tracker) == "a"
    assert scenario.zone_of(scenario.group_of("holder-1")) == "b"


def test_what_is_left_out() -> None:
    scenario = parse(minimal(round_trip='"20ms"'), "least")
    assert float(scenario.round_trip) == pytest.approx(0.02)
    assert (scenario.start, scenario.arrival.pattern, scenario.client.parallel) == ("cold", "at-once", 4)
    assert scenario.tracker.shape == Link()
    assert scenario.zones == [""]


@pytest.mark.parametrize(("text", "seconds"), [("3s", 3.0), ("500ms", 0.5), ("30%", 6.0), ("0%", 0.0), ("2.5%", 0.5)])
def test_moments(text: str, seconds: float) -> None:
    assert Moment.parse(text).after(20.0) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = ", "isn't TOML"),
        (minimal(layers=""), "missing required field `layers`"),
        (minimal(layers="[]"), "layers: "),
        (minimal(layers='["0 x 1MiB"]'), r"layers\[0\]: there must be at least one layer"),
        (minimal(layers='["1 pound"]'), r"layers\[0\]: '1 pound' isn't a size"),
        (minimal(layers="[7]"), r"layers\[0\]: 7 must be a text in quotes"),
        (minimal(name='"other"'), "name: there is no such key"),
        (minimal(links='"40 Mbit/s"'), "unknown field `links`"),
        (minimal(hosts="[]"), "hosts: "),
        (minimal(hosts="[{count = 0}]"), r"hosts\[0\]\.count: "),
        (minimal(hosts='[{count = 1, link = "40"}]'), r"hosts\[0\]\.link: '40' isn't a rate"),
        (minimal(hosts='[{count = 1, link = "0 Mbit/s"}]'), r"hosts\[0\]\.link: a link needs a rate above 0"),
        (minimal(hosts="[{count = 1}, {count = 1}]"), r"hosts\[1\]\.name: 'host' is taken"),
        (minimal(hosts='[{count = 1, name = "tracker"}]'), r"hosts\[0\]\.name: 'tracker' is taken"),
        (minimal(hosts='[{count = 1, name = "Big Host"}]'), r"hosts\[0\]\.name: "),
        (minimal(hosts="[{count = 1, holds = true}]"), "hosts: somebody must pull at once"),
        (minimal(hosts='[{count = 1, at = "3s"}]'), "hosts: somebody must pull at once"),
        (minimal(hosts='[{count = 1}, {name = "b", count = 1, holds = true, at = "3s"}]'), r"hosts\[1\]\.at: "),
        (minimal(hosts='[{count = 1}, {name = "b", count = 1, at = "3%"}]'), r"hosts\[1\]\.at: without limits"),
        (minimal(hosts="[{count = 999}]"), "hosts: more than 1000"),
        (minimal(zone_link='"1 Mbit/s"'), "zone_link: there is only one zone"),
        (minimal(round_trip='"5ms"', tracker='{zone = "b"}', origin='{zone = "a"}'), "round_trip: hosts of several"),
        (minimal(round_trip="5"), "round_trip: 5 must be a text in quotes"),
        (minimal(arrival='{pattern = "trickle"}'), r"arrival\.pattern: "),
        (minimal(arrival='{pattern = "batches", batch = 0.0}'), r"arrival\.batch: "),
        (
            minimal(event='[{at = "3s", target = "host-3", action = "kill"}]'),
            r"event\[0\]\.target: there is no 'host-3'",
        ),
        (minimal(event='[{at = "three", target = "host-1", action = "kill"}]'), r"event\[0\]\.at: "),
        (minimal(event='[{at = "3s", target = "host-1", action = "explode"}]'), r"event\[0\]\.action: "),
        (
            minimal(event='[{at="1s",target="host-1",action="kill"},{at="1s",target="host-2",action="kill"}]'),
            "event: something befalls every host",
        ),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse(text, "wrong")


def test_late_groups_and_batches_exclude_each_other() -> None:
    hosts = '[{count = 2, link = "1 Mbit/s"}, {name = "late", count = 1, link = "1 Mbit/s", at = "3s"}]'
    with pytest.raises(InvalidInput, match=r"hosts\[1\]\.at: batches"):
        parse(minimal(hosts=hosts, arrival='{pattern = "batches"}'), "wrong")


def test_a_file_is_named_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    with pytest.raises(InvalidInput, match=r"broken\.toml: can't be read"):
        load(path)
    path.write_text(minimal(layers='["1 pound"]'))
    with pytest.raises(InvalidInput, match=r"broken\.toml: layers\[0\]: "):
        load(path)
    path.write_bytes(b"\xff")
    with pytest.raises(InvalidInput, match=r"broken\.toml: isn't UTF-8"):
        load(path)
    path.write_bytes(bytes(1 + (1 << 20)))
    with pytest.raises(InvalidInput, match=r"broken\.toml: has more than"):
        load(path)


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_the_scenarios_of_this_repository(path: Path) -> None:
    scenario: Scenario = load(path)
    assert scenario.name == path.stem
    assert len(scenario.description) > 20
