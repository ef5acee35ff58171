"""One operation on an origin and what it has used up; belongs to the worker thread that carries it out."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from p2pdist.core.digest import Digest
from p2pdist.core.errors import P2PDistError, Unavailable
from p2pdist.http.client import ConnectionBroken
from p2pdist.http.interrupt import Interrupt, Interrupted
from p2pdist.oci.reference import Repository, Tag

_MAX_WAITS = 6
_SHORTEST_WAIT_SECONDS = 0.2
_PATIENCE_SECONDS = (3.0, 10.0, 30.0)
"""How long to wait for bytes: most that don't come in the first seconds are due on a connection that is dead."""
_AGAIN_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for: a repository, and what follows it in the path (`blobs/sha256:…`, `tags/list?n=5`).

    `str()` names it in messages.
    """

    repository: Repository
    rest: str

    @classmethod
    def manifest(cls, repository: Repository, target: Tag | Digest) -> Self:
        """A manifest by tag or digest."""
        return cls(repository, f"manifests/{target}")

    @classmethod
    def blob(cls, repository: Repository, digest: Digest) -> Self:
        """A blob."""
        return cls(repository, f"blobs/{digest}")

    @property
    def path(self) -> str:
        """The path of the API request (OCI distribution spec, "Endpoints"), with its query."""
        return f"/v2/{self.repository.path}/{self.rest}"

    @property
    def is_blob(self) -> bool:
        """Whether it is a blob, or an upload of one."""
        return self.rest.startswith("blobs/")

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
        what = self.rest.partition("?")[0]
        for kind in ("manifest", "blob"):
            which = what.removeprefix(f"{kind}s/")
            if which != what and "/" not in which:
                return f"{kind} {which} of {self.repository}"
        return f"{what} of {self.repository}"


@dataclass(slots=True)
class Call:
    """How many requests an operation made, what failed, how long it waited for the origin, and what ends it early.

    `set_limit` has the operation called off when it doesn't change the limit again within so many seconds.
    """

    wanted: Wanted
    max_wait_seconds: float
    set_limit: Callable[[float], None]
    interrupt: Interrupt = field(default_factory=Interrupt)
    requests: int = 0
    failures: int = 0
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

    @property
    def patience_seconds(self) -> float:
        """How long nothing may come over a connection; longer after each failure."""
        return _PATIENCE_SECONDS[self.failures]

    def failed(self, error: P2PDistError) -> None:
        """A request came to nothing: returns when another is worth trying, and raises `error` when none is."""
        if self.failures == len(_PATIENCE_SECONDS) - 1:
            raise error
        self.failures += 1
        if not isinstance(error, ConnectionBroken):
            self.interrupt.wait(_AGAIN_SECONDS * self.failures)

    def stalled(self) -> None:
        """A connection brought something, and then nothing any more."""
        self.failures = min(self.failures + 1, len(_PATIENCE_SECONDS) - 1)

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
