"""An OCI image layout on disk: blobs under their digest, and an index that names what is there.

The format is the OCI image layout (OCI image spec, "Image Layout"), so that skopeo can read and write it too as
`oci:DIRECTORY:NAME`; a name in `index.json` is `repository:tag`. Knows nothing of HTTP and of what a layer holds.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"

_DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES = frozenset({INDEX, _DOCKER_LIST})
MANIFESTS = frozenset({MANIFEST, _DOCKER_MANIFEST})

_REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class Entry:
    """A descriptor: what a blob or manifest is, which it is, and how many bytes it has."""

    media_type: str
    digest: Digest
    size_bytes: int

    def as_json(self) -> dict[str, Any]:
        """The descriptor as manifests and indexes carry it."""
        return {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size_bytes}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Entry":
        """The descriptor that `document` describes; raises `InvalidInput` when a field is missing or wrong."""
        try:
            return cls(str(document["mediaType"]), Digest.parse(document["digest"]), int(document["size"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"a descriptor lacks a usable {error}: {str(document)[:200]}") from error


class Layout:
    """An image layout in `directory`, which is made when it isn't there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._blobs = directory / "blobs" / "sha256"
        self._index = directory / "index.json"
        self._blobs.mkdir(parents=True, exist_ok=True)
        (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def path(self, digest: Digest) -> Path:
        """Where the blob or manifest with this digest is, or would be."""
        return self._blobs / digest.hex

    @contextmanager
    def new_blob(self) -> Iterator[tuple[BinaryIO, Callable[[Digest], None]]]:
        """A file to write, and what to call with its digest when all is written; without that call it goes away."""
        descriptor, name = tempfile.mkstemp(dir=self._blobs, prefix=".part-")
        os.fchmod(descriptor, 0o644)
        try:
            with open(descriptor, "wb") as file:

                def keep(digest: Digest) -> None:
                    file.flush()
                    os.replace(name, self.path(digest))

                yield file, keep
        finally:
            Path(name).unlink(missing_ok=True)

    def add_document(self, media_type: str, document: Mapping[str, Any]) -> Entry:
        """Store `document` as JSON: a config, a manifest or an index."""
        body = json.dumps(document, separators=(",", ":")).encode()
        digest = Digest.of(body)
        with self.new_blob() as (file, keep):
            file.write(body)
            keep(digest)
        return Entry(media_type, digest, len(body))

    def tag(self, name: str, entry: Entry) -> None:
        """Let `name` (`repository:tag`) stand for `entry`; what it stood for before is forgotten."""
        kept = [descriptor for descriptor in self._descriptors() if descriptor["annotations"].get(_REF_NAME) != name]
        kept.append(entry.as_json() | {"annotations": {_REF_NAME: name}})
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": kept}
        fresh = self._index.with_suffix(".new")
        fresh.write_text(json.dumps(document, indent=1))
        os.replace(fresh, self._index)

    def tags(self) -> dict[str, Entry]:
        """Every name that `index.json` gives, and what it stands for."""
        return {
            descriptor["annotations"][_REF_NAME]: Entry.from_json(descriptor)
            for descriptor in self._descriptors()
            if _REF_NAME in descriptor["annotations"]
        }

    def _descriptors(self) -> list[dict[str, Any]]:
        if not self._index.exists():
            return []
        try:
            document = json.loads(self._index.read_bytes())
            return [{"annotations": {}} | descriptor for descriptor in document["manifests"]]
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput(f"{self._index} isn't the index of an OCI image layout: {error}") from error
