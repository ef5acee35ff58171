"""Single flight: whoever asks for what is being fetched already waits for that fetch.

The fetch belongs to a nursery of the daemon, so that no asker's end stops it. One fetch is one of the three places that
catch everything: what nobody expected becomes an error for those who asked, and a traceback in the log.
"""

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import trio

from p2pdist.core.errors import P2PDistError
from p2pdist.telemetry.logging import get_logger

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
log = get_logger("tracker.flights")


@dataclass(slots=True)
class _Flight(Generic[V]):
    """A fetch under way, and what came of it."""

    done: trio.Event = field(default_factory=trio.Event)
    value: list[V] = field(default_factory=list)
    error: P2PDistError | None = None


class Flights(Generic[K, V]):
    """Fetches under way by key."""

    def __init__(self, nursery: trio.Nursery, what: str) -> None:
        self._nursery = nursery
        self._what = what
        self._flights: dict[K, _Flight[V]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._flights

    async def get(self, key: K, fetch: Callable[[], Awaitable[V]]) -> V:
        """What `fetch` gives, or what the one under way for `key` gives; raises the `P2PDistError` that it raised."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            self._nursery.start_soon(self._fly, key, flight, fetch)
        await flight.done.wait()
        if flight.error is not None:
            raise flight.error
        return flight.value[0]

    async def _fly(self, key: K, flight: _Flight[V], fetch: Callable[[], Awaitable[V]]) -> None:
        try:
            flight.value.append(await fetch())
        except P2PDistError as error:
            flight.error = error
        except Exception as error:
            log.exception("fetch_failed", error, what=self._what, key=str(key))
            flight.error = unexpected(error)
        finally:
            del self._flights[key]
            flight.done.set()


def unexpected(error: Exception) -> P2PDistError:
    """What agents are told of an error that nobody expected."""
    return P2PDistError(f"the tracker failed on this: {type(error).__name__}; its log has the traceback")
