"""Whether a caller of this host gets a blob of which there are bytes here, as far as is known or the tracker says.

The rule is that of `oci.rights`: the same that the tracker keeps to, which asks the upstreams. What isn't here needs no
gate: who is to give it decides, and gets the caller's token for it, if that may travel. It does so only over mutual
TLS, only where the tracker would use it, and only when the place isn't known to be everybody's.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

import trio

from p2pdist.agent.arrival import Means
from p2pdist.core.digest import Digest
from p2pdist.core.errors import Denied, P2PDistError, ProtocolError, Unavailable
from p2pdist.oci.bearer import BearerToken
from p2pdist.oci.errors import Unauthorized
from p2pdist.oci.rights import STALE_SECONDS, Access, Asker, Closed, Place, Rights
from p2pdist.telemetry.logging import get_logger
from p2pdist.wire.messages import ManifestIs, SizeIs, SizeWanted, Token

ASK_SECONDS = 20.0
ALONE_SECONDS = 60.0
"""For how long counts what an upstream itself said to this host, whose tracker couldn't be asked."""
_REMEMBERED_HOMES = 100_000
_REMEMBERED_WORDS = 65_536
log = get_logger("agent.gate")


class Gate:
    """Judges by `rights`, which it keeps; lives on the trio thread."""

    def __init__(
        self, rights: Rights, means: Means, nursery: trio.Nursery, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rights = rights
        self._means = means
        self._nursery = nursery
        self._clock = clock
        self._homes: OrderedDict[Digest, Place] = OrderedDict()
        self._said: OrderedDict[tuple[Place, bytes, Digest], float] = OrderedDict()
        self._asking: dict[tuple[Place, bytes, Digest], trio.Event] = {}

    # Where the bytes that are here came from.

    def came(self, digest: Digest, home: Place) -> None:
        """A blob is here, from `home`."""
        self._homes[digest] = home
        self._homes.move_to_end(digest)
        if len(self._homes) > _REMEMBERED_HOMES:
            self._homes.popitem(last=False)

    async def home(self, digest: Digest) -> Place | None:
        """Where a blob of the store came from; None when it isn't there any more."""
        known = self._homes.get(digest)
        if known is not None:
            return known
        record = await trio.to_thread.run_sync(self._means.store.record, digest)
        if record is None:
            return None
        self.came(digest, Place(record.upstream, record.repository))
        return self._homes[digest]

    # Tokens.

    def bearer(self, asker: Asker) -> BearerToken | None:
        """The token with which the tracker, or the upstream, is to be asked for `asker`."""
        useful = self.rights.access(asker.place.upstream) is Access.CLIENT and not self.rights.is_open(asker.place)
        return asker.token if useful and self._means.control.secure else None

    def token(self, asker: Asker) -> Token | None:
        """The same, to be sent to the tracker."""
        bearer = self.bearer(asker)
        return Token(bearer.value) if bearer is not None else None

    # What the tracker says.

    def learn(self, asker: Asker, answer: ManifestIs | SizeIs) -> None:
        """The tracker gave `asker` what he asked for."""
        if not answer.private:
            self.rights.opened(asker.place, answer.good_seconds)
        elif asker.token is not None:
            self.rights.granted(asker.place, asker.token, answer.good_seconds)

    def refused(self, asker: Asker, error: P2PDistError) -> None:
        """The tracker said no: what it said before doesn't count any more."""
        if not isinstance(error, Denied):
            return
        if asker.token is not None:
            self.rights.revoked(asker.place, asker.token)
        if self.rights.is_open(asker.place, stale=True):
            challenge = error.challenge if isinstance(error, Unauthorized) else None
            self.rights.shut(asker.place, Closed(challenge), 0.0)
            for word in [word for word in self._said if word[0] == asker.place]:
                del self._said[word]
            self._nursery.start_soon(self._make_private, asker.place)

    # The gate.

    def admits(self, asker: Asker, digest: Digest, home: Place) -> bool:
        """Whether `asker` gets a blob that came from `home`, as far as is known."""
        said = self._said.get((asker.place, self.rights.key(asker.token), digest))
        return (said is not None and self._clock() < said) or self.rights.may_have(asker, digest, home)

    async def check(self, asker: Asker, digest: Digest, home: Place) -> None:
        """Return if `asker` gets the blob that came from `home`; raises what the tracker says, or the upstream.

        When neither can be asked, what everybody could have lately is still everybody's; else raises `Unavailable`.
        """
        key = (asker.place, self.rights.key(asker.token), digest)
        while not self.admits(asker, digest, home):
            under_way = self._asking.get(key)
            if under_way is not None:
                # One question for all who ask the same; whoever was first may have hung up, so each looks again.
                await under_way.wait()
                continue
            self._asking[key] = trio.Event()
            try:
                await self.size(asker, digest, home)
                return
            except Unavailable:
                if self._was_admitted(asker, digest, home):
                    log.warning("tracker_not_asked", place=asker.place, digest=digest)
                    return
                await self._ask_upstream(asker, digest, home)
                return
            finally:
                self._asking.pop(key).set()

    def _was_admitted(self, asker: Asker, digest: Digest, home: Place) -> bool:
        said = self._said.get((asker.place, b"", digest))
        lately = said is not None and self._clock() < said + STALE_SECONDS
        return lately or self.rights.may_have(asker, digest, home, stale=True)

    async def _ask_upstream(self, asker: Asker, digest: Digest, home: Place) -> None:
        """Ask the upstream itself, since the tracker can't be; only for what came from that upstream."""
        client = self._means.origin_for(Asker(asker.place, self.bearer(asker)))
        if client is None or home.upstream != asker.place.upstream:
            raise Unavailable(f"the tracker can't be asked who may have {digest}")
        await client.blob_size(asker.place.repository, digest)
        self._remember(asker, digest, ALONE_SECONDS)

    async def size(self, asker: Asker, digest: Digest, home: Place | None = None, *, there: bool = False) -> int:
        """Ask the tracker for the size of a blob, which it tells only to who gets the blob; `home`: it is here.

        `there`: only if the upstream has it in this very place.
        """
        place, token = asker.place, self.token(asker)
        proof = home is not None and home.upstream != place.upstream
        try:
            answer = await self._means.control.ask(
                lambda id_: SizeWanted(id_, place.upstream, place.repository, str(digest), token, proof, there),
                ASK_SECONDS,
            )
        except P2PDistError as error:
            self.refused(asker, error)
            raise
        if not isinstance(answer, SizeIs):
            raise ProtocolError(f"the tracker answers for a size with {type(answer).__name__}")
        self.learn(asker, answer)
        if home is not None:
            self._remember(asker, digest, answer.good_seconds)
        return answer.size_bytes

    def _remember(self, asker: Asker, digest: Digest, seconds: float) -> None:
        self._said[asker.place, self.rights.key(asker.token), digest] = self._clock() + seconds
        if len(self._said) > _REMEMBERED_WORDS:
            self._said.popitem(last=False)

    async def _make_private(self, place: Place) -> None:
        """What everybody could have from `place`, and can't any more, isn't given openly from now on."""
        try:
            changed = await trio.to_thread.run_sync(self._means.store.make_private, place.upstream, place.repository)
            for digest in changed:
                await self._means.swarm.unload(digest)
        except P2PDistError as error:
            log.error("blobs_not_made_private", place=place, reason=str(error))
        else:
            log.info("blobs_made_private", place=place, blobs=len(changed))
