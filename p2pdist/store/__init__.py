"""Content-addressed blobs on disk: partial, verified, committed; quota and eviction; manifests.

Synchronous and thread-safe; `blobs` explains how the parts keep their promises, README.md what lies on the disk.
"""

from p2pdist.store.blobs import BlobStore
from p2pdist.store.errors import (
    BlobBusy,
    BlobDiscarded,
    BlobUnverified,
    PiecesMissing,
    StoreDamaged,
    StoreFull,
    StoreLocked,
)
from p2pdist.store.partial import PartialBlob
from p2pdist.store.records import BlobRecord, CommittedBlob, Opening, Quarantined, StoredManifest

__all__ = [
    "BlobBusy",
    "BlobDiscarded",
    "BlobRecord",
    "BlobStore",
    "BlobUnverified",
    "CommittedBlob",
    "Opening",
    "PartialBlob",
    "PiecesMissing",
    "Quarantined",
    "StoreDamaged",
    "StoreFull",
    "StoreLocked",
    "StoredManifest",
]
