"""What happens when: an event heap and its clock, which trio can run on. Knows nothing of what the events mean.

The tracker's code is tasks on trio: it sleeps, and reads trio's clock. So trio gets this clock (`HeapClock`), and
`drive` runs the heap's events up to the next deadline of a task, lets tasks run until all of them wait again, and goes
on. An event that has woken tasks, or may have, says so by `pause`. What the tasks cost is in `tasks_cpu_seconds`.
"""

import heapq
import math
import time
from collections.abc import Callable
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

_Event = tuple[float, int, Callable[..., None], tuple[Any, ...]]


class Events:
    """Calls at times; those at the same time run in the order in which they were asked for. Times are seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.count = 0
        self.tasks_cpu_seconds = 0.0
        self._heap: list[_Event] = []
        self._serial = 0
        self._paused = False

    def at(self, when: float, call: Callable[..., None], *args: Any) -> None:
        """Run `call(*args)` at `when`, which isn't in the past."""
        self._serial += 1
        heapq.heappush(self._heap, (when, self._serial, call, args))

    def after(self, seconds: float, call: Callable[..., None], *args: Any) -> None:
        """Run `call(*args)` in `seconds`."""
        self._serial += 1
        heapq.heappush(self._heap, (self.now + seconds, self._serial, call, args))

    def pause(self) -> None:
        """Have `run` return after the event under way: somebody else has something to do first."""
        self._paused = True

    def run(self, until: float) -> bool:
        """Run events up to and at `until`; False when one of them asked for a pause before the end."""
        heap, pop = self._heap, heapq.heappop
        self._paused = False
        count = 0
        while heap and heap[0][0] <= until:
            self.now, _, call, args = pop(heap)
            count += 1
            call(*args)
            if self._paused:
                self.count += count
                return False
        self.count += count
        if until < math.inf:
            self.now = max(self.now, until)
        return True


class HeapClock(trio.abc.Clock):
    """The heap's time as trio's."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def start_clock(self) -> None:
        """See `trio.abc.Clock`."""

    def current_time(self) -> float:
        """See `trio.abc.Clock`."""
        return self._events.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Never slept: `drive` is awake before any deadline."""
        return deadline - self._events.now


async def drive(events: Events, until: float, done: Callable[[], bool]) -> None:
    """Run events and the tasks of this trio loop, up to `until` or until `done` after a pause."""
    while not done() and events.now < until:
        began = time.thread_time()
        await wait_all_tasks_blocked()
        events.tasks_cpu_seconds += time.thread_time() - began
        deadline = events.now + trio.lowlevel.current_statistics().seconds_to_next_deadline
        events.run(min(until, deadline))
