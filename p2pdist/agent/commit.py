"""The last step of a pull: the digest, the torrent's hashes, the record. For a worker thread."""

import os

from p2pdist.agent.arrival import Arrival
from p2pdist.core.metainfo import Metainfo
from p2pdist.core.pieces import piece_hash
from p2pdist.oci.rights import Place
from p2pdist.store import PartialBlob


def commit(arrival: Arrival, partial: PartialBlob) -> None:
    """Make the blob whole, the metainfo first, so that a committed blob has one; raises what the store raises."""
    store, wanted, home = arrival.means.store, arrival.wanted, arrival.home
    record = store.record(wanted.digest)
    if record is not None:
        private = arrival.private or record.private
        if (private, home) != (record.private, Place(record.upstream, record.repository)):
            store.annotate(wanted.digest, private=private, upstream=home.upstream, repository=home.repository)
    if record is None or record.metainfo is None:
        store.save_metainfo(wanted.digest, Metainfo(wanted.digest, partial.layout, tuple(_hashes(arrival, partial))))
    partial.commit()


def _hashes(arrival: Arrival, partial: PartialBlob) -> list[bytes]:
    """The hash of every piece: known from a relay, or computed for pieces that came from the origin."""
    layout = partial.layout
    known: list[bytes | None] = [None] * layout.count
    for membership in arrival.memberships:
        known = [ours or theirs for ours, theirs in zip(known, membership.ticket.hashes, strict=True)]
    found: list[bytes] = []
    with partial.held() as fd:
        for index, hash_ in enumerate(known):
            if hash_ is None:
                hash_ = piece_hash(layout, _read(fd, layout.offset(index), layout.length(index)))
            found.append(hash_)
    return found


def _read(fd: int, offset: int, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = os.pread(fd, length - len(data), offset + len(data))
        if not part:
            raise OSError(f"the file ended at byte {offset + len(data)}, before {offset + length}")
        data += part
    return bytes(data)
