"""What the shim needs of the rest of the agent: manifests and blobs by name, as values and protocols.

The shim renders HTTP from these and knows nothing of trackers, relays, swarms and stores; whoever implements `Content`
knows nothing of HTTP.
"""

from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from p2pdist.core.digest import Digest
from p2pdist.core.errors import DigestInvalid
from p2pdist.http.ranges import Ranges
from p2pdist.oci.bearer import BearerToken
from p2pdist.oci.reference import Tag


@dataclass(frozen=True, slots=True)
class ManifestContent:
    """A manifest as it is sent: exactly the bytes that `digest` names, which the constructor checks.

    dockerd and podman take whatever bytes a tag gives them, so nothing else may get as far as this type. Raises
    `DigestInvalid`.
    """

    digest: Digest
    media_type: str
    body: bytes

    def __post_init__(self) -> None:
        found = Digest.of(self.body, self.digest.algorithm)
        if found != self.digest:
            raise DigestInvalid(f"the manifest {self.digest} came with other bytes, whose digest is {found}")


class BlobView(Protocol):
    """A blob that can be read while it arrives: a file of which some runs of bytes are there."""

    @property
    def size_bytes(self) -> int:
        """The size of the whole blob."""

    @property
    def fd(self) -> int:
        """The file, open for reading as long as the view is; only what `available` named may be read."""

    @property
    def committed(self) -> bool:
        """Whether the whole blob is there and its digest held."""

    async def available(self, offset: int) -> int:
        """The end of the readable run that starts at `offset` (below the size); waits until it is beyond `offset`.

        The last bytes of a blob that is pulled whole become available only after its digest held. Raises a
        `P2PDistError` when the rest of the blob can't be had.
        """


class Content(Protocol):
    """Everything that the configured upstreams hold, as far as this agent can get it.

    Every method is called by many requests at once, and a cancelled call never ends what others wait for. Whatever
    can't be had is a `P2PDistError`; what only some may have, by a `token`, an `Unauthorized` for those who could bring
    one. Nobody gets a byte, or learns a size, that the upstream wouldn't give him.
    """

    def upstreams(self) -> Collection[str]:
        """The names of the registries that may be spoken to."""

    async def manifest(
        self, upstream: str, repository: str, reference: Tag | Digest, token: BearerToken | None = None
    ) -> ManifestContent:
        """A manifest by tag, resolved upstream now, or by digest; raises `ManifestUnknown`, `Denied`, `Unavailable`."""

    def blob(
        self,
        upstream: str,
        repository: str,
        digest: Digest,
        ranges: Ranges | None = None,
        token: BearerToken | None = None,
    ) -> AbstractAsyncContextManager[BlobView]:
        """A view of a blob, which is pulled if it isn't here; entering it waits until the size is known.

        With `ranges` only those parts are read. What is raised inside passes through unchanged. Entering raises
        `BlobUnknown`, `Denied`, `Unavailable`, `RangeNotSatisfiable`.
        """

    def asked(
        self, upstream: str, repository: str, digest: Digest, *, whole: bool, token: BearerToken | None = None
    ) -> None:
        """Note that a client takes a blob, or a part of one; what it will ask for next may be got meanwhile."""

    async def blob_size(self, upstream: str, repository: str, digest: Digest, token: BearerToken | None = None) -> int:
        """The size of a blob in bytes, without a pull; raises like `blob`."""
