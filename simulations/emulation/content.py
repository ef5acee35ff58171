"""The image of a measurement: layers of random bytes, a config and a manifest, in an OCI image layout on disk.

Random, so that nothing compresses it and no run finds another's blobs; made once a run and streamed to disk, so that
its size doesn't matter. Owns also how a layout is pushed to a registry (OCI distribution spec, "Push").
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from p2pdist.core.digest import Digest
from p2pdist.core.errors import Unavailable
from p2pdist.demo.layout import CONFIG, LAYER_TAR, Layout, as_json
from p2pdist.oci.descriptor import Descriptor
from p2pdist.oci.manifest import OCI_MANIFEST

REPOSITORY = "library/app"
TAG = "1"
_PART_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Image:
    """What was made: its layers are what hosts pull."""

    layout: Layout
    manifest: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all layers."""
        return sum(layer.size_bytes for layer in self.layers)


def make_image(directory: Path, layer_sizes: Sequence[int]) -> Image:
    """An image whose layers have these sizes, in a new layout in `directory`."""
    layout = Layout(directory)
    layers = tuple(_random_layer(layout, size) for size in layer_sizes)
    diff_ids = [str(layer.digest) for layer in layers]
    config = layout.add_document(
        CONFIG, {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    )
    manifest = layout.add_document(
        OCI_MANIFEST,
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": as_json(config),
            "layers": [as_json(layer) for layer in layers],
        },
    )
    layout.tag(f"{REPOSITORY}:{TAG}", manifest)
    return Image(layout, manifest, config, layers)


def _random_layer(layout: Layout, size_bytes: int) -> Descriptor:
    hasher = hashlib.sha256()
    with layout.new_blob() as (file, keep):
        for offset in range(0, size_bytes, _PART_BYTES):
            part = os.urandom(min(_PART_BYTES, size_bytes - offset))
            hasher.update(part)
            file.write(part)
        digest = Digest("sha256", hasher.hexdigest())
        keep(digest)
    return Descriptor(LAYER_TAR, digest, size_bytes)


def push(image: Image, connection: HTTPConnection) -> None:
    """Upload the image to the registry at the other end; raises `Unavailable` when it doesn't take it."""
    for blob in (image.config, *image.layers):
        with image.layout.path(blob.digest).open("rb") as file:
            _push_blob(connection, blob, file)
    body = image.layout.path(image.manifest.digest).read_bytes()
    _request(connection, "PUT", f"/v2/{REPOSITORY}/manifests/{TAG}", body, image.manifest.media_type)


def _push_blob(connection: HTTPConnection, blob: Descriptor, file: BinaryIO) -> None:
    location = _request(connection, "POST", f"/v2/{REPOSITORY}/blobs/uploads/").getheader("Location", "")
    target = urlsplit(location)
    query = "&".join(filter(None, (target.query, f"digest={blob.digest}")))
    headers = {"Content-Length": str(blob.size_bytes)}
    _request(connection, "PUT", f"{target.path}?{query}", file, "application/octet-stream", headers)


def _request(
    connection: HTTPConnection,
    method: str,
    path: str,
    body: bytes | BinaryIO = b"",
    media_type: str = "",
    headers: dict[str, str] | None = None,
) -> HTTPResponse:
    typed = {"Content-Type": media_type} if media_type else {}
    connection.request(method, path, body, typed | (headers or {}))
    response = connection.getresponse()
    text = response.read()
    if response.status not in (201, 202):
        raise Unavailable(f"the origin answered {method} {path} with {response.status}: {text[:300]!r}")
    return response
