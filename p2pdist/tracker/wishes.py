"""A join that waits for its answer, and how errors are said to agents."""

from collections.abc import Callable
from dataclasses import dataclass

from p2pdist.core.digest import Digest
from p2pdist.core.errors import P2PDistError
from p2pdist.oci.bearer import BearerToken
from p2pdist.oci.errors import Unauthorized
from p2pdist.oci.rights import Asker, Place
from p2pdist.wire.messages import Ended, Failed, Join, ManifestWanted, Message, SizeWanted

_MAX_SENTENCE = 2000
Say = Callable[[str, Message], None]
"""Queues a message for the agent with this id."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What an agent asked for; `admitted`: an upstream said that whoever asks through it gets this blob."""

    node: str
    join: Join
    admitted: bool = False

    @property
    def asker(self) -> Asker:
        """On whose behalf, and from where."""
        return asker_of(self.join)

    @property
    def source(self) -> tuple[Asker, int]:
        """Where it is to come from and with whose rights, and the size that a manifest gave it (0: unknown)."""
        return self.asker, self.join.size_bytes


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


def asker_of(message: Join | ManifestWanted | SizeWanted) -> Asker:
    """On whose behalf an agent asks, and from where; a token that can't be one is none."""
    token = BearerToken.from_header(f"Bearer {message.token.value}") if message.token is not None else None
    return Asker(Place(message.upstream, message.repository), token)


def failed(id_: int, error: P2PDistError) -> Failed:
    """The answer to a question that can't be answered."""
    challenge = str(error.challenge) if isinstance(error, Unauthorized) else ""
    return Failed(id_, error.oci_code, error.http_status, str(error)[:_MAX_SENTENCE], challenge)


def ended(generation: int, error: P2PDistError) -> Ended:
    """The end of a generation that went wrong."""
    return Ended(generation, error.oci_code, error.http_status, str(error)[:_MAX_SENTENCE])
