"""Images made for the tests: layers that are real tar files, in each compression, and one image that runs.

Owns how an image is made and pushed (OCI distribution spec, "Push"). Independent of p2pdist's own OCI code on purpose:
what both got wrong in the same way would go unnoticed.
"""

import base64
import gzip
import hashlib
import io
import json
import random
import tarfile
from dataclasses import dataclass, field
from functools import cached_property
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import zstandard

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
BUSYBOX = Path("/bin/busybox")


@dataclass(frozen=True)
class Content:
    """Bytes with the media type that a descriptor gives them; `diff_id` is the digest of a layer unpacked."""

    media_type: str
    data: bytes = field(repr=False)
    diff_id: str = ""

    @cached_property
    def digest(self) -> str:
        return f"sha256:{self.hex}"

    @cached_property
    def hex(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size_bytes}


@dataclass(frozen=True)
class Image:
    """One platform's image."""

    manifest: Content
    config: Content
    layers: tuple[Content, ...]
    architecture: str

    @property
    def blobs(self) -> list[Content]:
        return [self.config, *self.layers]

    @property
    def blob_bytes(self) -> int:
        """The size of its distinct blobs together."""
        return sum({blob.digest: blob.size_bytes for blob in self.blobs}.values())


@dataclass(frozen=True)
class Index:
    """Images of several platforms under one name."""

    manifest: Content
    images: tuple[Image, ...]


def _json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _tar(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            archive.addfile(entry, io.BytesIO(data))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return buffer.getvalue()


def _layer(archive: bytes, compression: str) -> Content:
    diff_id = f"sha256:{hashlib.sha256(archive).hexdigest()}"
    match compression:
        case "none":
            return Content(LAYER_TYPE, archive, diff_id)
        case "gzip":
            return Content(f"{LAYER_TYPE}+gzip", gzip.compress(archive, compresslevel=1, mtime=0), diff_id)
        case "zstd":
            return Content(f"{LAYER_TYPE}+zstd", zstandard.compress(archive, 1), diff_id)
    raise ValueError(f"no compression {compression!r}")


def layer(size_bytes: int, seed: int | str, compression: str = "gzip") -> Content:
    """A layer of about `size_bytes` that can't be compressed, the same for the same `seed`."""
    return _layer(_tar({f"data/{seed}": random.Random(seed).randbytes(size_bytes)}), compression)


def busybox_layer() -> Content:
    """A root file system that can run one container: Debian's static busybox."""
    return _layer(_tar({"bin/busybox": BUSYBOX.read_bytes()}, {"bin/sh": "busybox"}), "gzip")


def image(*layers: Content, architecture: str = "amd64", command: list[str] | None = None) -> Image:
    """An image of these layers."""
    config = Content(
        CONFIG_TYPE,
        _json(
            {
                "architecture": architecture,
                "os": "linux",
                "config": {"Cmd": command or ["/bin/busybox", "true"], "Env": ["PATH=/bin"]},
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            }
        ),
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config.descriptor(),
        "layers": [layer.descriptor() for layer in layers],
    }
    return Image(Content(MANIFEST_TYPE, _json(manifest)), config, layers, architecture)


def index(*images: Image) -> Index:
    """An index over images of different architectures."""
    entries = [
        {**one.manifest.descriptor(), "platform": {"architecture": one.architecture, "os": "linux"}} for one in images
    ]
    document = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}
    return Index(Content(INDEX_TYPE, _json(document)), images)


class PushFailed(Exception):
    """The registry didn't take what was pushed."""


class Pusher:
    """Pushes to one registry over one connection; `authorization` is the whole value of that header."""

    def __init__(self, connection: HTTPConnection, authorization: str = "") -> None:
        self._connection = connection
        self._headers = {"Authorization": authorization} if authorization else {}

    def push(self, content: Image | Index, repository: str, tag: str) -> None:
        """Upload what the registry lacks of `content`, then name it `repository:tag`."""
        images = content.images if isinstance(content, Index) else (content,)
        for one in images:
            for blob in {blob.digest: blob for blob in one.blobs}.values():
                self._blob(blob, repository)
        if isinstance(content, Index):
            for one in images:
                self._manifest(one.manifest, repository, one.manifest.digest)
        self._manifest(content.manifest, repository, tag)

    def _blob(self, blob: Content, repository: str) -> None:
        head = self._request("HEAD", f"/v2/{repository}/blobs/{blob.digest}", accept=(200, 404))
        if head.status == 200:
            return
        location = self._request("POST", f"/v2/{repository}/blobs/uploads/", accept=(202,)).getheader("Location", "")
        target = urlsplit(location)
        query = f"{target.query}&digest={blob.digest}" if target.query else f"digest={blob.digest}"
        self._request("PUT", f"{target.path}?{query}", blob.data, "application/octet-stream", accept=(201,))

    def _manifest(self, manifest: Content, repository: str, reference: str) -> None:
        path = f"/v2/{repository}/manifests/{reference}"
        self._request("PUT", path, manifest.data, manifest.media_type, accept=(201,))

    def _request(
        self, method: str, path: str, body: bytes = b"", media_type: str = "", *, accept: tuple[int, ...]
    ) -> HTTPResponse:
        typed = {"Content-Type": media_type} if media_type else {}
        self._connection.request(method, path, body, {**self._headers, **typed})
        response = self._connection.getresponse()
        text = response.read()
        if response.status not in accept:
            raise PushFailed(f"{method} {path}: {response.status} {text[:300]!r}")
        return response


def basic_authorization(user: str, password: str) -> str:
    """The `Authorization` header of HTTP Basic (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
