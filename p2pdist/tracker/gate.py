"""Whether somebody gets a blob of which there are bytes here: by what is known, else by asking upstreams.

`admits` never waits; `check` asks, once for all who want to know the same. The rule is that of `oci.rights`. What isn't
here needs no gate: the upstream that is to give it decides.
"""

from contextlib import suppress
from dataclasses import dataclass

import trio

from p2pdist.core.digest import Digest
from p2pdist.core.errors import BlobUnknown, Denied, NotFound, Unavailable
from p2pdist.oci.rights import Asker, Place
from p2pdist.telemetry.logging import get_logger
from p2pdist.tracker.flights import Flights
from p2pdist.tracker.origins import Origins

log = get_logger("tracker.gate")


@dataclass(frozen=True, slots=True)
class Held:
    """A blob of which there are bytes in the fleet: where they came from, and whether not everybody could have them."""

    home: Place
    private: bool
    size_bytes: int


class Gate:
    """Judges by `origins.rights`; questions belong to `nursery`, so no asker's end stops one."""

    def __init__(self, origins: Origins, nursery: trio.Nursery) -> None:
        self._origins = origins
        self._rights = origins.rights
        self._reads: Flights[tuple[Place, bytes], int] = Flights(nursery, "right")
        self._looks: Flights[tuple[Place, bytes, Digest], int] = Flights(nursery, "blob size")
        self._proofs: Flights[tuple[Place, bytes, Digest], int] = Flights(nursery, "proof")

    def admits(self, asker: Asker, digest: Digest, held: Held) -> bool:
        """Whether `asker` gets the blob, as far as is known."""
        return self._rights.may_have(asker, digest, held.home)

    async def check(self, asker: Asker, digest: Digest, held: Held | None, *, proof: bool = False) -> int:
        """Returns the size of the blob if `asker` gets it; raises what the upstream says, `Denied` and `BlobUnknown`.

        `proof`: where nothing is held here, the upstream must give the bytes; that it says it has them isn't enough.
        """
        if held is None:
            return await (self._prove(asker, digest) if proof else self._look(asker, digest))
        if self.admits(asker, digest, held):
            return held.size_bytes
        try:
            await self._ask(asker, digest, held)
        except Unavailable:
            if not self._rights.may_have(asker, digest, held.home, stale=True):
                raise
            log.warning("upstream_not_asked", place=held.home, digest=digest)
        return held.size_bytes

    async def _ask(self, asker: Asker, digest: Digest, held: Held) -> None:
        if not held.private and await self._is_open(held.home, digest):
            return
        if held.home == asker.place:
            with suppress(NotFound):
                await self._reads.get(self._key(asker), lambda: self._origins.blob_size(asker, digest))
                return
            await self._look(asker, digest)
        elif held.home.upstream != asker.place.upstream:
            await self._prove(asker, digest)
        else:
            await self._look(asker, digest)

    async def _is_open(self, home: Place, digest: Digest) -> bool:
        """Whether everybody may still have what everybody could have."""
        anybody = Asker(home)
        try:
            await self._reads.get(self._key(anybody), lambda: self._origins.blob_size(anybody, digest))
        except (Denied, NotFound):
            return False
        return self._rights.is_open(home)

    async def _look(self, asker: Asker, digest: Digest) -> int:
        """Ask the upstream whether it has the blob in this place for `asker`."""
        size_bytes = self._rights.size_in(asker.place, digest)
        if size_bytes is not None and self._rights.may_read(asker):
            return size_bytes
        return await self._looks.get((*self._key(asker), digest), lambda: self._origins.blob_size(asker, digest))

    async def _prove(self, asker: Asker, digest: Digest) -> int:
        """Have the upstream give the bytes: whoever hasn't got them can't. Costs a copy, once for a place."""
        return await self._proofs.get((*self._key(asker), digest), lambda: self._read(asker, digest))

    async def _read(self, asker: Asker, digest: Digest) -> int:
        hasher = digest.hasher()
        log.info("proof_wanted", place=asker.place, digest=digest)
        fetched = await self._origins.blob(asker, digest, hasher.update)
        if not digest.matches(hasher):
            raise BlobUnknown(f"{asker.place} gives other bytes than those of {digest}")
        self._rights.found(asker.place, digest, fetched.size, proven=True)
        return fetched.size

    def _key(self, asker: Asker) -> tuple[Place, bytes]:
        return asker.place, self._rights.key(asker.token)
