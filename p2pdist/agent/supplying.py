"""Blobs that this agent deals because it holds them: opened for a generation, proven, closed at its end.

The tracker sends signatures only; the hashes are those of the blob's torrent, which every holder has. A blob that is
being dealt isn't evicted.
"""

import trio

from p2pdist.agent.library import opened
from p2pdist.agent.relays import Relays
from p2pdist.core.digest import Digest
from p2pdist.core.errors import BlobUnknown, Denied, P2PDistError, ProtocolError
from p2pdist.core.metainfo import Metainfo
from p2pdist.relay.whole import WholeFile, proofs
from p2pdist.store import BlobStore
from p2pdist.telemetry.logging import get_logger
from p2pdist.wire.messages import Supply

log = get_logger("agent.supplying")


class Suppliers:
    """Deals what the tracker asks for, each generation in a task of `nursery`."""

    def __init__(self, store: BlobStore, relays: Relays, nursery: trio.Nursery) -> None:
        self._store = store
        self._relays = relays
        self._nursery = nursery

    def begin(self, supply: Supply) -> None:
        """The tracker wants a blob dealt; raises `P2PDistError` for an order that means nothing."""
        digest = Digest.parse(supply.digest)
        self._relays.plan_supply(supply)
        self._nursery.start_soon(self._supply, supply, digest)

    async def _supply(self, supply: Supply, digest: Digest) -> None:
        """Until the generation ends; whatever goes wrong is said to the tracker, which finds somebody else."""
        try:
            async with opened(self._store, digest) as blob:
                if blob.private and not supply.private:
                    raise Denied(f"{digest} is private here; the tracker would have it dealt openly")
                metainfo = await trio.to_thread.run_sync(self._metainfo, digest)
                layout = metainfo.layout
                if (layout.size_bytes, layout.piece_bytes) != (supply.size_bytes, supply.piece_bytes):
                    raise ProtocolError(
                        f"the tracker wants {digest} dealt as {supply.size_bytes} bytes in pieces of"
                        f" {supply.piece_bytes}; here it has {layout.size_bytes} in pieces of {layout.piece_bytes}"
                    )
                found = await trio.to_thread.run_sync(proofs, supply.key_id, metainfo.hashes, supply.signatures)
                ended = trio.Event()
                membership = self._relays.supply(supply, WholeFile(layout, blob.fd), found, ended.set)
                while membership.ended is None:
                    await ended.wait()
                    ended = trio.Event()
                    membership.wake = ended.set
        except P2PDistError as error:
            log.warning("supply_failed", digest=digest, reason=str(error))
            self._relays.decline(supply.generation, str(error))

    def _metainfo(self, digest: Digest) -> Metainfo:
        record = self._store.record(digest)
        if record is None or record.metainfo is None:
            raise BlobUnknown(f"{digest} isn't here with its torrent")
        return record.metainfo
