"""One operation on an origin and what it has used up; belongs to the worker thread that carries it out."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from p2pdist.core.digest import Digest
from p2pdist.core.errors import P2PDistError, Unavailable
from p2pdist.http.interrupt import Interrupt, Interrupted
from p2pdist.oci.reference import Repository, Tag

_MAX_WAITS = 6
_SHORTEST_WAIT_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is fetched; `str()` names it in messages."""

    repository: Repository
    target: Tag | Digest
    kind: str = "manifest"

    @property
    def path(self) -> str:
        """The path of the API request (OCI distribution spec, "Endpoints")."""
        return f"/v2/{self.repository.path}/{self.kind}s/{self.target}"

    def explain(self, error: P2PDistError) -> P2PDistError:
        """`error` with what was wanted in front of its message; a call that was called off stays as it is."""
        if isinstance(error, Interrupted):
            return error
        explained = type(error)(f"{self}: {error}")
        vars(explained).update(vars(error))
        return explained

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Have errors that come from inside explained."""
        try:
            yield
        except P2PDistError as error:
            raise self.explain(error) from error

    def __str__(self) -> str:
        return f"{self.kind} {self.target} of {self.repository}"


@dataclass(slots=True)
class Call:
    """How many requests an operation made, how long it waited on the origin's behalf, and what ends it early.

    `set_limit` has the operation called off when it doesn't change the limit again within so many seconds.
    """

    wanted: Wanted
    max_wait_seconds: float
    set_limit: Callable[[float], None]
    interrupt: Interrupt = field(default_factory=Interrupt)
    requests: int = 0
    waits: int = 0
    waited_seconds: float = 0.0

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Have what happens inside end within `seconds`."""
        self.set_limit(seconds)
        try:
            yield
        finally:
            self.set_limit(math.inf)

    def wait(self, asked_seconds: float | None) -> None:
        """Wait as long as the origin asked (None: it didn't say); raises `Unavailable` when that is too long."""
        seconds = 2.0**self.waits if asked_seconds is None else max(asked_seconds, _SHORTEST_WAIT_SECONDS)
        if self.waits >= _MAX_WAITS or self.waited_seconds + seconds > self.max_wait_seconds:
            raise Unavailable(
                f"the registry has no time for us and wants {seconds:.0f} s more, after {self.waited_seconds:.0f} s "
                f"of at most {self.max_wait_seconds:.0f}; try later, or with credentials if it limits anonymous pulls"
            )
        self.waits += 1
        self.waited_seconds += seconds
        self.interrupt.wait(seconds)
