"""What tags pointed at when their upstream last said so, for `stale_if_error` of an upstream (RFC 5861, 4).

Tags are resolved upstream, always. While the upstream is down there are two answers, and the operator chooses: none
(404, with which a daemon goes to the upstream itself and fails there), or what the tag was, if that isn't too long ago.
A tag that was moved meanwhile is then the old image; so none is the default. Nothing is remembered of upstreams whose
operator didn't choose it. The manifests themselves are in the store, and who may read them is decided as ever.
"""

from collections.abc import Callable
from functools import partial
from time import time

import trio

from p2pdist.core.errors import StoreError
from p2pdist.oci.reference import Tag
from p2pdist.oci.rights import Place
from p2pdist.store import BlobStore, StoredManifest
from p2pdist.telemetry.logging import get_logger

log = get_logger("tracker.tags")


class LastKnown:
    """The tags of the upstreams for which `seconds_of` says more than 0: how old an answer may be."""

    def __init__(self, store: BlobStore, seconds_of: Callable[[str], float], clock: Callable[[], float] = time) -> None:
        self._store = store
        self._seconds_of = seconds_of
        self._clock = clock

    async def note(self, place: Place, tag: Tag, found: StoredManifest) -> None:
        """The upstream says that `tag` is this manifest now."""
        await self._write(
            place, partial(self._store.put_tag, place.upstream, place.repository, tag.name, found.digest, self._clock())
        )

    async def forget(self, place: Place, tag: Tag | None) -> None:
        """The upstream says that there is no such tag, or (None) that the place isn't for everybody."""
        name = tag.name if tag is not None else None
        await self._write(place, partial(self._store.remove_tags, place.upstream, place.repository, name))

    async def _write(self, place: Place, write: Callable[[], None]) -> None:
        if self._seconds_of(place.upstream) > 0:
            try:
                await trio.to_thread.run_sync(write)
            except StoreError as error:
                log.error("tag_not_kept", place=place, reason=str(error))

    async def find(self, place: Place, tag: Tag) -> StoredManifest | None:
        """What `tag` was lately enough; None when that isn't known or isn't here any more."""
        seconds = self._seconds_of(place.upstream)
        if seconds <= 0:
            return None
        found = await trio.to_thread.run_sync(self._store.tag, place.upstream, place.repository, tag.name)
        if found is None or not 0 <= self._clock() - found.at_seconds <= seconds:
            return None
        manifest = await trio.to_thread.run_sync(self._store.manifest, found.digest)
        if manifest is not None:
            age = round(self._clock() - found.at_seconds)
            log.warning("tag_is_stale", place=place, tag=tag, digest=found.digest, age_seconds=age)
        return manifest
