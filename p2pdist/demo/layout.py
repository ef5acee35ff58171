"""An OCI image layout on disk: blobs under their digest, and an index that names what is there.

The format is the OCI image layout (OCI image spec, "Image Layout"), so that skopeo can read and write it too as
`oci:DIRECTORY:NAME`; a name in `index.json` is `repository:tag`. Knows nothing of HTTP and of what a layer holds.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput
from p2pdist.oci.descriptor import Descriptor
from p2pdist.oci.manifest import OCI_INDEX

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"

_REF_NAME = "org.opencontainers.image.ref.name"


def as_json(descriptor: Descriptor) -> dict[str, Any]:
    """The descriptor as manifests and indexes carry it; a platform goes with it, `urls` don't."""
    document: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size_bytes,
    }
    if descriptor.platform is not None:
        document["platform"] = {"architecture": descriptor.platform.architecture, "os": descriptor.platform.os}
    return document


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

    def add_document(self, media_type: str, document: Mapping[str, Any]) -> Descriptor:
        """Store `document` as JSON: a config, a manifest or an index."""
        body = json.dumps(document, separators=(",", ":")).encode()
        digest = Digest.of(body)
        with self.new_blob() as (file, keep):
            file.write(body)
            keep(digest)
        return Descriptor(media_type, digest, len(body))

    def tag(self, name: str, target: Descriptor) -> None:
        """Let `name` (`repository:tag`) stand for `target`; what it stood for before is forgotten."""
        kept = [entry for entry in self._descriptors() if entry["annotations"].get(_REF_NAME) != name]
        kept.append(as_json(target) | {"annotations": {_REF_NAME: name}})
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": kept}
        fresh = self._index.with_suffix(".new")
        fresh.write_text(json.dumps(document, indent=1))
        os.replace(fresh, self._index)

    def tags(self) -> dict[str, Descriptor]:
        """Every name that `index.json` gives, and what it stands for; raises `InvalidInput` for a damaged one."""
        named = [entry for entry in self._descriptors() if _REF_NAME in entry["annotations"]]
        try:
            return {
                entry["annotations"][_REF_NAME]: Descriptor(
                    entry["mediaType"], Digest.parse(entry["digest"]), entry["size"]
                )
                for entry in named
            }
        except (KeyError, TypeError) as error:
            raise InvalidInput(f"a descriptor in {self._index} lacks a usable {error}") from error

    def _descriptors(self) -> list[dict[str, Any]]:
        if not self._index.exists():
            return []
        try:
            document = json.loads(self._index.read_bytes())
            return [{"annotations": {}} | entry for entry in document["manifests"]]
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput(f"{self._index} isn't the index of an OCI image layout: {error}") from error
