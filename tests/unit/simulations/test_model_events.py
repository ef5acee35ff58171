"""The heap's clock, and trio on it."""

import math

import pytest
import trio

from simulations.model.events import Events, HeapClock, drive


def test_events_run_in_order_of_time_and_then_of_asking() -> None:
    events, ran = Events(), list[str]()
    events.at(2.0, ran.append, "late")
    events.at(1.0, ran.append, "first")
    events.after(1.0, ran.append, "second")
    assert events.run(1.5)
    assert (ran, events.now) == (["first", "second"], 1.5)
    assert events.run(math.inf)
    assert (ran, events.now, events.count) == (["first", "second", "late"], 2.0, 3)


def test_an_event_that_asks_for_a_pause_is_the_last_one_for_now() -> None:
    events, ran = Events(), list[int]()
    events.at(1.0, events.pause)
    events.at(1.0, ran.append, 1)
    assert not events.run(5.0)
    assert (ran, events.now) == ([], 1.0)
    assert events.run(5.0)
    assert ran == [1]


def test_tasks_sleep_on_the_heaps_time_and_events_see_what_they_did() -> None:
    events, seen = Events(), list[tuple[float, str]]()

    def note(what: str) -> None:
        seen.append((events.now, what))

    async def task(woken: trio.Event) -> None:
        await trio.sleep(1.5)
        note("slept")
        await woken.wait()
        note("woken")
        with trio.move_on_after(10):
            await trio.sleep_forever()
        note("moved on")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            woken = trio.Event()

            def wake() -> None:
                woken.set()
                events.pause()

            events.at(1.0, note, "before")
            events.at(2.0, note, "after")
            events.at(3.0, wake)
            events.at(3.0, note, "last")
            nursery.start_soon(task, woken)
            await drive(events, 100.0, lambda: len(seen) == 6)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=HeapClock(events))
    assert seen == [
        (1.0, "before"),
        (1.5, "slept"),
        (2.0, "after"),
        (3.0, "woken"),
        (3.0, "last"),
        (pytest.approx(13.0), "moved on"),
    ]


def test_a_run_without_an_end_ends_when_its_time_is_up() -> None:
    events = Events()
    trio.run(drive, events, 7.0, lambda: False, clock=HeapClock(events))
    assert events.now == 7.0
