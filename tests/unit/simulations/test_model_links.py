"""The model's links: rates, fair shares, windows, bursts, order."""

from typing import Any

import pytest

from simulations.model.events import Events
from simulations.model.links import PIECE_HEADER_BYTES, Host, Pipe, Zone

PIECE = 100_000 - PIECE_HEADER_BYTES


class Sink(Host):
    def __init__(
        self,
        name: str,
        events: Events,
        up: float = 1e6,
        down: float = 1e6,
        burst: int = 0,
        window: int = 1 << 30,
        zone: Zone | None = None,
    ) -> None:
        super().__init__(name, events, up, down, burst, 0.0, window, 1 << 30, zone)
        self.arrived: list[tuple[float, str, Any]] = []

    def receive(self, sender: Host, item: Any) -> None:
        self.arrived.append((self.events.now, sender.name, item))

    def written(self, item: Any) -> None:
        pass


@pytest.fixture
def events() -> Events:
    return Events()


def run(events: Events) -> None:
    assert events.run(1e9)


def test_a_piece_streams_through_both_links_in_the_time_of_the_slower_one(events: Events) -> None:
    a, b = Sink("a", events, up=1e6), Sink("b", events, down=0.5e6)
    a.send_piece(b, 1, PIECE, "x")
    run(events)
    assert b.arrived == [(pytest.approx(0.2), "a", "x")]


def test_connections_share_an_uplink_evenly_and_those_left_over_get_the_rest(events: Events) -> None:
    a, b, c = Sink("a", events), Sink("b", events), Sink("c", events)
    a.send_piece(b, 1, PIECE, "short")
    a.send_piece(c, 1, PIECE + 200_000, "long")
    run(events)
    assert b.arrived == [(pytest.approx(0.2), "a", "short")]
    assert c.arrived == [(pytest.approx(0.4), "a", "long")]


def test_senders_queue_in_front_of_one_downlink(events: Events) -> None:
    target = Sink("target", events)
    for name in "abcd":
        Sink(name, events).send_piece(target, 1, PIECE, name)
    run(events)
    assert [at for at, _, _ in target.arrived] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_a_slow_receiver_holds_up_its_own_connection_only(events: Events) -> None:
    a = Sink("a", events, up=1e6, window=100_000)
    slow, fast = Sink("slow", events, down=1e4), Sink("fast", events, down=1e6)
    for number in range(10):
        a.send_piece(slow, 1, PIECE, number)
        a.send_piece(fast, 1, PIECE, number)
    run(events)
    assert fast.arrived[-1][0] < 1.3
    assert slow.arrived[-1][0] == pytest.approx(100, rel=0.01)
    assert [item for _, _, item in slow.arrived] == list(range(10))


def test_an_idle_link_lets_a_burst_pass_at_once(events: Events) -> None:
    a, b = Sink("a", events, burst=150_000), Sink("b", events, burst=150_000)
    for number in range(3):
        a.send_piece(b, 1, PIECE, number)
    run(events)
    assert [at for at, _, _ in b.arrived] == pytest.approx([0.0, 0.05, 0.15])


def test_a_control_frame_rides_behind_what_the_kernel_has_and_before_nothing_else(events: Events) -> None:
    a, b, c = Sink("a", events), Sink("b", events), Sink("c", events)
    a.send_piece(b, 1, PIECE, "piece")
    a.send_control(b, "behind it")
    a.send_control(c, "alone")
    run(events)
    assert [item for _, _, item in b.arrived] == ["piece", "behind it"]
    assert c.arrived[0][0] < 0.01


def test_generations_take_turns_on_a_connection(events: Events) -> None:
    a, b = Sink("a", events), Sink("b", events)
    a._kernel_bytes = 1
    for number in range(3):
        a.send_piece(b, 1, PIECE, ("old", number))
    a.send_piece(b, 2, PIECE, ("new", 0))
    run(events)
    order = [item for _, _, item in b.arrived]
    assert order.index(("new", 0)) < order.index(("old", 2))


def test_what_a_closed_connection_had_under_way_never_arrives(events: Events) -> None:
    a, b, c = Sink("a", events), Sink("b", events), Sink("c", events)
    a.send_piece(b, 1, PIECE, "lost")
    a.send_piece(c, 1, PIECE, "there")
    events.at(0.1, a.close_flow, "b")
    run(events)
    assert b.arrived == []
    assert c.arrived == [(pytest.approx(0.15), "a", "there")]


def test_zones_share_one_pipe_and_nobody_inside_waits_for_it(events: Events) -> None:
    here, there = Zone(), Zone(Pipe(1e5, 0), Pipe(1e5, 0))
    a, b = Sink("a", events, zone=here), Sink("b", events, zone=here)
    x, y = Sink("x", events, zone=there), Sink("y", events, zone=there)
    a.send_piece(x, 1, PIECE, "far")
    b.send_piece(x, 1, PIECE, "far, too")
    events.at(0.5, y.send_piece, x, 1, PIECE, "near")
    run(events)
    near, far, second = x.arrived
    assert near == (pytest.approx(0.6), "y", "near")
    assert [far[0], second[0]] == pytest.approx([1.0, 2.0], abs=0.02)
    assert there.into is not None
    assert there.out is not None
    assert there.into.passed_bytes == 200_000
    assert there.out.passed_bytes == 0
