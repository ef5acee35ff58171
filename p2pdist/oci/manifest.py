"""Manifests and indexes: OCI image spec ("Image Manifest", "Image Index") and docker's schema 2 of both.

Strict about what we rely on (digests, sizes, media types, one unambiguous kind), tolerant of fields that we don't know:
the bytes that go on to a daemon are always the origin's own. A registry may hold manifests of any media type; of those
that we don't know it is only known that they are JSON objects. Pure: doesn't know where the bytes come from.
"""

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput
from p2pdist.oci.descriptor import Descriptor, Platform
from p2pdist.oci.errors import ManifestInvalid

MAX_MANIFEST_BYTES = 4 * 1024 * 1024

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

_MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST, OCI_ARTIFACT)
_INDEXES = (OCI_INDEX, DOCKER_LIST)
MANIFEST_MEDIA_TYPES = (*_INDEXES, *_MANIFESTS)
"""What we ask a registry for, and what `parse_manifest` reads."""

_OTHER = re.compile(r"application/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")
_DOCKER_V1 = "application/vnd.docker.distribution.manifest.v1"
_SAYS_NOTHING = ("", "application/json", "application/octet-stream", "binary/octet-stream", "text/plain")


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image, or another artifact in the form of one: a config and layers (an artifact manifest has no config)."""

    media_type: str
    config: Descriptor | None
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Config and layers, in order, each digest once."""
        ordered: dict[Digest, Descriptor] = {}
        for blob in filter(None, (self.config, *self.layers)):
            ordered.setdefault(blob.digest, blob)
        return tuple(ordered.values())

    @property
    def manifests(self) -> tuple[Descriptor, ...]:
        """No children: an image has none."""
        return ()


@dataclass(frozen=True, slots=True)
class Index:
    """One image for several platforms: a list of manifests."""

    media_type: str
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None = None

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """No blobs: an index has only manifests."""
        return ()


class _Platform(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str = ""


class _Descriptor(msgspec.Struct, rename="camel"):
    media_type: str
    digest: str
    size: int
    platform: _Platform | None = None
    urls: list[str] | None = None


class _Document(msgspec.Struct, rename="camel"):
    schema_version: int | None = None
    media_type: str = ""
    config: _Descriptor | None = None
    layers: list[_Descriptor] | None = None
    manifests: list[_Descriptor] | None = None
    blobs: list[_Descriptor] | None = None
    subject: _Descriptor | None = None
    fs_layers: Any = None


_DECODER = msgspec.json.Decoder(_Document)


def parse_manifest(body: bytes, media_type: str = "", digest: Digest | None = None) -> Manifest | Index:
    """What `body` says; `media_type` is what it came with (a Content-Type line), `digest` what it must hash to.

    A media type that says nothing (`application/json`) gives way to the one in the document, and that to the
    document's shape. One of a media type that isn't among `MANIFEST_MEDIA_TYPES` names nothing, as far as we know.
    Raises `ManifestInvalid` when the body is over 4 MiB, doesn't match, isn't a JSON object, isn't what its media type
    says, or when that isn't one of manifests at all.
    """
    if len(body) > MAX_MANIFEST_BYTES:
        raise ManifestInvalid(f"a manifest of {len(body)} bytes is over the limit of {MAX_MANIFEST_BYTES}")
    if digest is not None and (actual := Digest.of(body, digest.algorithm)) != digest:
        raise ManifestInvalid(f"the manifest that came has the digest {actual}, asked for was {digest}")
    came_as = media_type.partition(";")[0].strip().lower()
    try:
        if _is_other(came_as):
            return _other(msgspec.json.decode(body, type=dict[str, Any]), came_as)
        document = _DECODER.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ManifestInvalid(f"the manifest isn't valid: {error}; it starts {bytes(body[:60])!r}") from None
    kind = _kind(document, came_as)
    if _is_other(kind):
        return Manifest(kind, None, ())
    try:
        return _index(document, kind) if kind in _INDEXES else _manifest(document, kind)
    except InvalidInput as error:
        raise ManifestInvalid(f"the manifest isn't valid: {error}") from None


def _other(document: dict[str, Any], came_as: str) -> Manifest:
    said = document.get("mediaType", came_as)
    if said != came_as:
        raise ManifestInvalid(f"the manifest came as {came_as} but says that it is {str(said)[:140]!r}")
    return Manifest(came_as, None, ())


def _is_other(media_type: str) -> bool:
    """Whether it may be a media type of manifests, of which we don't know what they say."""
    known = (*MANIFEST_MEDIA_TYPES, *_SAYS_NOTHING)
    return _OTHER.fullmatch(media_type) is not None and media_type not in known and _DOCKER_V1 not in media_type


def _kind(document: _Document, came_as: str) -> str:
    """The media type of `document`: as it came, as it says, or by its shape."""
    said = document.media_type
    if document.fs_layers is not None or (came_as or said).startswith(_DOCKER_V1):
        raise ManifestInvalid("the manifest is docker's schema 1, which isn't supported; push the image again as OCI")
    if came_as in _SAYS_NOTHING:
        came_as = said or _shape(document)
    if came_as not in MANIFEST_MEDIA_TYPES and not _is_other(came_as):
        raise ManifestInvalid(f"{came_as[:140]!r} isn't a media type of manifests")
    if said and (said in _INDEXES) != (came_as in _INDEXES):
        raise ManifestInvalid(f"the manifest came as {came_as} but says that it is {said[:140]!r}")
    return came_as


def _shape(document: _Document) -> str:
    if document.manifests is not None:
        return OCI_INDEX
    return OCI_ARTIFACT if document.blobs is not None else OCI_MANIFEST


def _index(document: _Document, kind: str) -> Index:
    _check_version(document)
    if document.manifests is None:
        raise ManifestInvalid("the index has no manifests")
    if document.layers is not None or document.config is not None:
        raise ManifestInvalid("the index has layers or a config too, so it is ambiguous what it is")
    return Index(kind, _descriptors(document.manifests), _subject(document))


def _manifest(document: _Document, kind: str) -> Manifest:
    if document.manifests is not None:
        raise ManifestInvalid("the manifest lists manifests too, so it is ambiguous what it is")
    if kind == OCI_ARTIFACT:
        manifest = Manifest(kind, None, _descriptors(document.blobs or []), _subject(document))
    else:
        _check_version(document)
        if document.config is None or document.layers is None:
            raise ManifestInvalid("the manifest lacks its config or its layers")
        config = _descriptor(document.config)
        manifest = Manifest(kind, config, _descriptors(document.layers), _subject(document))
    _check_sizes(manifest)
    return manifest


def _check_version(document: _Document) -> None:
    if document.schema_version != 2:
        raise ManifestInvalid(f"the manifest's schemaVersion is {document.schema_version}, it must be 2")


def _check_sizes(manifest: Manifest) -> None:
    sizes: dict[Digest, int] = {}
    for blob in filter(None, (manifest.config, *manifest.layers)):
        if sizes.setdefault(blob.digest, blob.size_bytes) != blob.size_bytes:
            raise ManifestInvalid(f"the manifest gives two sizes for {blob.digest}")


def _subject(document: _Document) -> Descriptor | None:
    return None if document.subject is None else _descriptor(document.subject)


def _descriptors(forms: list[_Descriptor]) -> tuple[Descriptor, ...]:
    return tuple(map(_descriptor, forms))


def _descriptor(form: _Descriptor) -> Descriptor:
    platform = None
    if form.platform is not None:
        platform = Platform(form.platform.os, form.platform.architecture, form.platform.variant)
    return Descriptor(form.media_type, Digest.parse(form.digest), form.size, platform, tuple(form.urls or ()))
