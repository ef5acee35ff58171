"""What the embedded registry serves: repositories, their tags, manifests and blobs, from memory or an image layout.

Decides what exists; knows nothing of HTTP, credentials and counting.
"""

from dataclasses import dataclass, field
from pathlib import Path

from p2pdist.core.digest import Digest
from p2pdist.core.errors import BlobUnknown, InvalidInput, ManifestUnknown, NotFound
from p2pdist.demo.layout import Layout
from p2pdist.oci.descriptor import Descriptor
from p2pdist.oci.manifest import MANIFEST_MEDIA_TYPES, parse_manifest
from p2pdist.oci.reference import Tag


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or index as it is stored."""

    media_type: str
    digest: Digest
    body: bytes


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob's bytes: in memory, or the file that holds them."""

    digest: Digest
    size_bytes: int
    source: bytes | Path


@dataclass(slots=True)
class _Repository:
    tags: dict[str, Digest] = field(default_factory=dict)
    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    blobs: dict[Digest, Blob] = field(default_factory=dict)


class Catalog:
    """The content of one registry."""

    def __init__(self) -> None:
        self._repositories: dict[str, _Repository] = {}

    @classmethod
    def from_layout(cls, layout: Layout) -> "Catalog":
        """Everything that the tags of `layout` lead to and that is there; raises `InvalidInput` for a damaged one."""
        catalog = cls()
        for name, entry in layout.tags().items():
            repository, _, tag = name.rpartition(":")
            if not repository or not tag:
                raise InvalidInput(f"{layout.directory} names {name!r}; a name there is repository:tag")
            catalog._add_tree(layout, repository, entry)
            catalog._repository(repository).tags[tag] = entry.digest
        return catalog

    def add_blob(self, repository: str, body: bytes) -> Digest:
        """Put a blob into a repository."""
        digest = Digest.of(body)
        self._repository(repository).blobs[digest] = Blob(digest, len(body), body)
        return digest

    def add_manifest(self, repository: str, media_type: str, body: bytes, tag: str | None = None) -> Digest:
        """Put a manifest or index into a repository, and let `tag` stand for it."""
        digest = Digest.of(body)
        kept = self._repository(repository)
        kept.manifests[digest] = Manifest(media_type, digest, body)
        if tag is not None:
            kept.tags[tag] = digest
        return digest

    def tags(self, repository: str) -> list[str]:
        """The tags of a repository, sorted; raises `NotFound` when there is no such repository."""
        return sorted(self._known(repository).tags)

    def manifest(self, repository: str, target: Tag | Digest) -> Manifest:
        """The manifest that a tag or digest names; raises `NotFound` or `ManifestUnknown`."""
        kept = self._known(repository)
        digest = target if isinstance(target, Digest) else kept.tags.get(target.name)
        if digest is None or digest not in kept.manifests:
            raise ManifestUnknown(f"repository {repository} has no manifest {target}")
        return kept.manifests[digest]

    def blob(self, repository: str, digest: Digest) -> Blob:
        """A blob of a repository; raises `NotFound` or `BlobUnknown`."""
        try:
            return self._known(repository).blobs[digest]
        except KeyError:
            raise BlobUnknown(f"repository {repository} has no blob {digest}") from None

    def _repository(self, name: str) -> _Repository:
        return self._repositories.setdefault(name, _Repository())

    def _known(self, name: str) -> _Repository:
        try:
            return self._repositories[name]
        except KeyError:
            raise NotFound(f"there is no repository {name[:255]!r} here") from None

    def _add_tree(self, layout: Layout, repository: str, found: Descriptor) -> None:
        """Add a manifest or blob and all that it lists; an index may list manifests that aren't there."""
        path = layout.path(found.digest)
        if found.media_type in MANIFEST_MEDIA_TYPES:
            body = path.read_bytes()
            self.add_manifest(repository, found.media_type, body)
            document = parse_manifest(body, found.media_type, found.digest)
            for child in (*document.manifests, *document.blobs):
                if layout.path(child.digest).exists():
                    self._add_tree(layout, repository, child)
        else:
            self._repository(repository).blobs[found.digest] = Blob(found.digest, path.stat().st_size, path)
