"""Who may have what, as far as the upstreams have said so lately. Pure: the clocks are parameters, nothing is asked.

The rule. A registry gives rights to repositories, so a right is to a *place*, a repository of an upstream. A caller may
read a place if everybody may (it is *open*: the upstream gave something of it to an anonymous), or if his token may (it
has a *grant*: the upstream gave something of it for this token). Of what is here, he gets a blob

- if the blob's home, the place that its bytes came from, is open: then everybody could have had them there; or
- if he may read the place that he names, and the blob is there: it is the blob's home, or the same upstream said that
  it has the blob there (`found`), or another upstream gave the bytes from there (`proven`): what it merely says of
  others' blobs counts for nothing.

The second half matters. That a manifest of the place lists the digest proves nothing: anybody may push a manifest that
lists the digest of a blob which isn't his, and not every registry checks it. Nor does it help to name an open place.

What was learnt holds for a while only: for `recheck` of the upstream, and a grant no longer than its token says. So a
revoked token, or a repository that was made private, is served for that long at most; shorter would buy little, because
tokens are good for about five minutes wherever they come from, and registries don't look them up again either. When the
upstream can't be asked, what was open lately stays open for `STALE_SECONDS`, so that public images outlive a registry's
bad day; grants don't.

Agents and trackers both keep one. It forgets what was used longest ago beyond its bounds, which costs a question.
"""

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from p2pdist.core.digest import Digest
from p2pdist.oci.bearer import BearerToken
from p2pdist.oci.challenge import Challenge

STALE_SECONDS = 24 * 3600.0
MAX_PLACES = 16_384
MAX_GRANTS = 65_536
MAX_FOUND = 65_536

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Access(Enum):
    """To whom an upstream's content is given."""

    ANONYMOUS = "anonymous"
    """What the upstream gives to everybody."""
    CLIENT = "client"
    """That, and to each caller what his own token may read."""
    FLEET = "fleet"
    """To every caller what the operator's credentials may read."""


@dataclass(frozen=True, slots=True)
class Place:
    """A repository of an upstream."""

    upstream: str
    repository: str

    def __str__(self) -> str:
        return f"{self.upstream}/{self.repository}"


@dataclass(frozen=True, slots=True)
class Asker:
    """On whose behalf something is wanted, and from where; without a token he is anybody."""

    place: Place
    token: BearerToken | None = None


@dataclass(frozen=True, slots=True)
class Closed:
    """An upstream refuses a place to the anonymous, and how it wants to be convinced, if by a token."""

    challenge: Challenge | None


@dataclass(frozen=True, slots=True)
class Right:
    """A place may be read for so long; `private`: by somebody with his token, else by everybody."""

    private: bool
    good_seconds: float


@dataclass(frozen=True, slots=True)
class _Found:
    size_bytes: int
    proven: bool


class Rights:
    """What was learnt; `access_of` tells an upstream's mode. Times are seconds, `clock` monotonic, `wall` Unix time."""

    def __init__(
        self,
        access_of: Callable[[str], Access],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.access = access_of
        self._clock = clock
        self._wall = wall
        self._salt = secrets.token_bytes(32)
        self._open: OrderedDict[Place, float] = OrderedDict()
        self._closed: OrderedDict[Place, tuple[float, Closed]] = OrderedDict()
        self._grants: OrderedDict[tuple[Place, bytes], float] = OrderedDict()
        self._found: OrderedDict[tuple[Place, Digest], _Found] = OrderedDict()

    # What upstreams say.

    def opened(self, place: Place, seconds: float) -> None:
        """The upstream gave something of `place` to an anonymous; that counts for so long."""
        self._closed.pop(place, None)
        _keep(self._open, place, self._clock() + seconds, MAX_PLACES)

    def shut(self, place: Place, closed: Closed, seconds: float) -> None:
        """The upstream refused `place` to an anonymous; for so long it needn't be asked again."""
        self._open.pop(place, None)
        _keep(self._closed, place, (self._clock() + seconds, closed), MAX_PLACES)

    def granted(self, place: Place, token: BearerToken, seconds: float) -> None:
        """The upstream gave something of `place` for `token`; that counts for so long, or till the token's end."""
        if token.expires_at is not None:
            seconds = min(seconds, token.expires_at - self._wall())
        _keep(self._grants, (place, self.key(token)), self._clock() + seconds, MAX_GRANTS)

    def revoked(self, place: Place, token: BearerToken) -> None:
        """The upstream refused `place` for `token`."""
        self._grants.pop((place, self.key(token)), None)

    def found(self, place: Place, digest: Digest, size_bytes: int, *, proven: bool = False) -> None:
        """The upstream says that it has this blob in `place`; `proven`: it gave the bytes, and they had the digest."""
        if not proven and (place, digest) in self._found:
            proven = self._found[place, digest].proven
        _keep(self._found, (place, digest), _Found(size_bytes, proven), MAX_FOUND)

    # What follows.

    def is_open(self, place: Place, *, stale: bool = False) -> bool:
        """Whether everybody may read `place`; `stale`: the upstream can't be asked, so lately is enough."""
        if self.access(place.upstream) is Access.FLEET:
            return True
        until = self._open.get(place)
        return until is not None and self._clock() < until + (STALE_SECONDS if stale else 0.0)

    def closed(self, place: Place) -> Closed | None:
        """What the upstream said lately as it refused `place` to an anonymous."""
        until, closed = self._closed.get(place, (0.0, None))
        return closed if self._clock() < until else None

    def may_read(self, asker: Asker, *, stale: bool = False) -> bool:
        """Whether `asker` may read the place that he names."""
        return self.is_open(asker.place, stale=stale) or self._grant_seconds(asker) > 0

    def may_have(self, asker: Asker, digest: Digest, home: Place, *, stale: bool = False) -> bool:
        """Whether `asker` gets a blob of which we have the bytes from `home`."""
        if self.is_open(home, stale=stale):
            return True
        return self.may_read(asker, stale=stale) and self._is_in(asker.place, digest, home)

    def size_in(self, place: Place, digest: Digest) -> int | None:
        """The size in bytes of a blob that was found in `place`."""
        found = self._found.get((place, digest))
        return found.size_bytes if found is not None else None

    def good_seconds(self, asker: Asker) -> float:
        """For how long `asker` may read his place without another question."""
        until = self._open.get(asker.place, 0.0)
        return max(0.0, until - self._clock(), self._grant_seconds(asker))

    def told(self, asker: Asker) -> "Right":
        """What `asker` may read, to be told to another who keeps rights."""
        return Right(not self.is_open(asker.place), self.good_seconds(asker))

    def key(self, token: BearerToken | None) -> bytes:
        """What stands for a token: a hash that means nothing to another process."""
        return hashlib.blake2b(token.value.encode(), key=self._salt).digest() if token is not None else b""

    def _is_in(self, place: Place, digest: Digest, home: Place) -> bool:
        if place == home:
            return True
        found = self._found.get((place, digest))
        return found is not None and (found.proven or place.upstream == home.upstream)

    def _grant_seconds(self, asker: Asker) -> float:
        if asker.token is None or self.access(asker.place.upstream) is not Access.CLIENT:
            return 0.0
        return self._grants.get((asker.place, self.key(asker.token)), 0.0) - self._clock()


def _keep(remembered: OrderedDict[K, V], key: K, value: V, bound: int) -> None:
    remembered[key] = value
    remembered.move_to_end(key)
    if len(remembered) > bound:
        remembered.popitem(last=False)
