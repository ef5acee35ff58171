"""What relay nodes put into their event logs, against what really went over their sockets."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from p2pdist.relay.notices import DealsDone
from p2pdist.relay.spans import Ring
from p2pdist.telemetry.events import EventLog

from .test_node import GENERATION, WAIT_SECONDS, Fleet, relay


class NotingFleet(Fleet):
    """Every node keeps a log of its own."""

    def __init__(self, stack: ExitStack, directory: Path, agents: int, size_bytes: int) -> None:
        self.directory = directory
        self.logs: dict[str, EventLog] = {}
        super().__init__(stack, agents, size_bytes, 32768)

    def log_of(self, name: str) -> EventLog:
        self.logs[name] = self.stack.enter_context(EventLog.open(self.directory / name))
        self.logs[name].introduce(name, name, "agent")
        return self.logs[name]

    def noted(self) -> list[dict[str, Any]]:
        """The lines of all logs, which are closed."""
        found = []
        for name, log in self.logs.items():
            log.close()
            found += [json.loads(line) for line in (self.directory / name).read_text().splitlines()]
        return found


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def wait_whole(fleet: Fleet, *names: str) -> None:
    for name in names:
        assert fleet.files[name].whole.wait(WAIT_SECONDS)


def wait_for_last_line(path: Path, what: str, count: int) -> None:
    """A piece can be here before its sender comes to note that it has left."""
    tick = threading.Event()
    for _ in range(WAIT_SECONDS * 100):
        if path.read_text().count(what) >= count:
            return
        tick.wait(0.01)
    raise AssertionError(f"{path} has fewer than {count} lines with {what}")


def test_every_piece_is_noted_where_it_left_and_where_it_came(stack: ExitStack, tmp_path: Path) -> None:
    fleet = NotingFleet(stack, tmp_path, 4, 1 << 20)
    relay(fleet)
    wait_whole(fleet, *fleet.names)
    fleet.await_notice("tracker", lambda notice: isinstance(notice, DealsDone))
    lines = fleet.noted()
    sent = [line for line in lines if line["event"] in ("dealt", "pushed")]
    received = [line for line in lines if line["event"] == "received"]
    assert Counter((line["node"], line["peer"], line["piece"]) for line in sent) == Counter(
        (line["peer"], line["node"], line["piece"]) for line in received
    )
    assert {line["node"] for line in sent if line["event"] == "dealt"} == {"tracker"}
    for line in received:
        assert line["by"] == ("deal" if line["peer"] == "tracker" else "relay")
        assert (line["generation"], line["epoch"], line["digest"]) == (GENERATION, 1, fleet.digest.hex[:16])
    for name in fleet.names:
        sources = Counter[str]()
        for line in received:
            if line["node"] == name:
                sources[line["peer"]] += line["bytes"]
        assert sources == fleet.counts[name].received_from
        assert sources.total() == 1 << 20


def test_a_fill_is_told_apart(stack: ExitStack, tmp_path: Path) -> None:
    fleet = NotingFleet(stack, tmp_path, 2, 1 << 18)
    relay(fleet)
    wait_whole(fleet, *fleet.names)
    fleet.start("late")
    fleet.announce()
    fleet.open("late")
    fill = Ring(2, ["late"], "n1")
    for name in ("late", "n1"):
        fleet.nodes[name].add_ring(GENERATION, fill)
    fleet.nodes["n1"].start_fill(GENERATION, fill, range(fleet.layout.count))
    wait_whole(fleet, "late")
    wait_for_last_line(tmp_path / "n1", '"filled"', 8)
    lines = fleet.noted()
    filled = [(line["node"], line["peer"], line["piece"]) for line in lines if line["event"] == "filled"]
    assert sorted(filled) == [("n1", "late", piece) for piece in range(8)]
    assert {line["by"] for line in lines if line["event"] == "received" and line["node"] == "late"} == {"deal"}


def test_a_lost_members_spans_are_taken_over(stack: ExitStack, tmp_path: Path) -> None:
    fleet = NotingFleet(stack, tmp_path, 6, 2 << 20)
    relay(fleet)
    fleet.nodes["n3"].__exit__()
    others = sorted(set(fleet.names) - {"n3"})
    wait_whole(fleet, *others)
    fleet.await_notice("tracker", lambda notice: isinstance(notice, DealsDone))
    lines = fleet.noted()
    taken = Counter(line["node"] for line in lines if line["event"] == "taken_over" and line["peer"] == "n3")
    assert taken
    for name in ("tracker", *others):
        assert taken[name] == fleet.counts[name].taken_over
