"""One value handed to everybody who waits for the next one."""

from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Broadcast(Generic[T]):
    """`send` wakes all who are in `next` and gives them the value; whoever comes later waits for the one after it."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._value: list[T] = []

    async def next(self) -> T:
        """Wait for the next value."""
        event, value = self._event, self._value
        await event.wait()
        return value[0]

    def send(self, value: T) -> None:
        """Hand `value` to those who wait now."""
        event, cell = self._event, self._value
        self._event, self._value = trio.Event(), []
        cell.append(value)
        event.set()
