"""A join that waits for its answer, and how errors are said to agents."""

from collections.abc import Callable
from dataclasses import dataclass

from p2pdist.core.digest import Digest
from p2pdist.core.errors import P2PDistError
from p2pdist.wire.messages import Ended, Failed, Join, Message

_MAX_SENTENCE = 2000
Say = Callable[[str, Message], None]
"""Queues a message for the agent with this id."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What an agent asked for."""

    node: str
    join: Join

    @property
    def source(self) -> tuple[str, str, int]:
        """Where it is to come from: upstream, repository, and the size that a manifest gave it (0: unknown)."""
        return self.join.upstream, self.join.repository, self.join.size_bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to the wishes that wait for one blob: whoever begins its generation takes them."""

    waiting: dict[Digest, list[Wish]]
    digest: Digest

    def peek(self) -> list[Wish]:
        """Those who wait at the moment."""
        return self.waiting.get(self.digest, [])

    def take(self) -> list[Wish]:
        """Those who wait; from now on nobody does."""
        return self.waiting.pop(self.digest, [])


def failed(id_: int, error: P2PDistError) -> Failed:
    """The answer to a question that can't be answered."""
    return Failed(id_, error.oci_code, error.http_status, str(error)[:_MAX_SENTENCE])


def ended(generation: int, error: P2PDistError) -> Ended:
    """The end of a generation that went wrong."""
    return Ended(generation, error.oci_code, error.http_status, str(error)[:_MAX_SENTENCE])
