"""Generates the image that the demo distributes: real layers, two platforms, versions that share most of their bytes.

Owns what is in the image and how big each layer is. Everything follows from the seed (and, for the compressed layers,
from the zlib that wrote them), so that two runs make the same digests. Only one tiny layer and the config differ
between the platforms, and one small layer and the config between the versions.
"""

import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput
from p2pdist.core.units import format_size
from p2pdist.demo.executable import ARCHITECTURES, greeting
from p2pdist.demo.layout import CONFIG, LAYER_GZIP, LAYER_TAR, Layout, as_json
from p2pdist.oci.descriptor import Descriptor, Platform
from p2pdist.oci.manifest import OCI_INDEX, OCI_MANIFEST

REPOSITORY = "demo/app"
MIN_SIZE_BYTES = 1 << 20

_GREETING = "This is p2pdist's demo image: every byte of it came verified.\n"
_CREATED = "2024-01-01T00:00:00Z"
_TIME = 1704067200
_STEP_BYTES = 1 << 20
_TAR_RECORD_BYTES = 10240
_STORED, _FASTEST = 0, 1

# How often each letter stands among 256: English enough to compress to half.
_LETTERS = (
    b"e" * 31 + b"t" * 23 + b"a" * 20 + b"o" * 19 + b"i" * 18 + b"n" * 18 + b"s" * 16 + b"h" * 16 + b"r" * 15
    + b"d" * 11 + b"l" * 10 + b"u" * 7 + b"c" * 7 + b"m" * 6 + b"\n" * 2 + b" " * 37
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PlatformImage:
    """What one platform's pull of an image takes: the manifest, and the config and layers that it lists."""

    manifest: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def blob_bytes(self) -> int:
        """Bytes of the config and all layers."""
        return self.config.size_bytes + sum(layer.size_bytes for layer in self.layers)


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """One version of the image: its name, its index, and per architecture (an OCI name) what a pull takes."""

    repository: str
    tag: str
    index: Descriptor
    platforms: Mapping[str, PlatformImage]

    @property
    def name(self) -> str:
        """`repository:tag`."""
        return f"{self.repository}:{self.tag}"


def generate(directory: Path, size_bytes: int, versions: int = 2, seed: int = 0) -> list[GeneratedImage]:
    """Write an image of about `size_bytes` per platform in so many versions into the image layout in `directory`.

    The versions' tags are "1", "2" and so on. Raises `InvalidInput` below 1 MiB.
    """
    if size_bytes < MIN_SIZE_BYTES:
        raise InvalidInput(
            f"an image of {format_size(size_bytes)} is too small to cut into layers; take at least "
            f"{format_size(MIN_SIZE_BYTES)}"
        )
    layout = Layout(directory)
    bases = {architecture: _base_layer(layout, architecture) for architecture in ARCHITECTURES}
    applications = [_application_layer(layout, size_bytes, seed, version) for version in range(1, versions + 1)]
    shared = _shared_layers(layout, size_bytes, seed, applications[0].entry.size_bytes)
    return [
        _assemble(
            layout, str(version), {arch: [base, *shared, applications[version - 1]] for arch, base in bases.items()}
        )
        for version in range(1, versions + 1)
    ]


@dataclass(frozen=True, slots=True)
class _Layer:
    """A stored layer and the digest of its tar before compression (OCI image config, `diff_ids`)."""

    entry: Descriptor
    diff_id: Digest
    made_by: str


def _base_layer(layout: Layout, architecture: str) -> _Layer:
    with layout.new_blob() as (file, keep):
        tar = _TarWriter(file, _FASTEST)
        for name in ("bin", "data", "dev", "etc", "proc", "root", "sys"):
            tar.directory(name)
        tar.directory("tmp", mode=0o1777)
        tar.file("bin/hello", greeting(architecture, _GREETING), mode=0o755)
        tar.file("etc/passwd", b"root:x:0:0:root:/root:/bin/hello\n")
        tar.file("etc/group", b"root:x:0:\n")
        tar.file("etc/os-release", b'ID=p2pdist-demo\nNAME="p2pdist demo"\n')
        return tar.finish(keep, f"base for {architecture}")


def _shared_layers(layout: Layout, size_bytes: int, seed: int, taken_bytes: int) -> list[_Layer]:
    """The layers that all platforms and versions have; the last and largest takes what the others left."""
    stored = _data_layer(layout, "layer-1", _STORED, _noise(f"{seed}/1", size_bytes * 25 // 100))
    text = _data_layer(layout, "layer-2", _FASTEST, _text(f"{seed}/2", size_bytes * 16 // 100))
    files = _many_files_layer(layout, size_bytes * 15 // 100, seed)
    rest = size_bytes - taken_bytes - sum(layer.entry.size_bytes for layer in (stored, text, files))
    large = _data_layer(layout, "layer-4", None, _noise(f"{seed}/4", rest - _TAR_RECORD_BYTES))
    return [stored, text, files, large]


def _data_layer(layout: Layout, name: str, level: int | None, content: "_Content") -> _Layer:
    with layout.new_blob() as (file, keep):
        tar = _TarWriter(file, level)
        tar.stream(f"data/{name}.bin", content)
        return tar.finish(keep, name)


def _many_files_layer(layout: Layout, size_bytes: int, seed: int) -> _Layer:
    count = 64
    with layout.new_blob() as (file, keep):
        tar = _TarWriter(file, None)
        tar.directory("data/layer-3")
        for number in range(count):
            tar.stream(f"data/layer-3/{number:02}.bin", _noise(f"{seed}/3/{number}", size_bytes // count))
        return tar.finish(keep, "layer-3")


def _application_layer(layout: Layout, size_bytes: int, seed: int, version: int) -> _Layer:
    """The one layer that differs between the versions: 4 % of the image."""
    with layout.new_blob() as (file, keep):
        tar = _TarWriter(file, _STORED)
        tar.directory("app")
        tar.file("app/version", f"{version}\n".encode())
        tar.stream("app/app.bin", _noise(f"{seed}/app/{version}", size_bytes * 4 // 100))
        return tar.finish(keep, f"version {version}")


def _assemble(layout: Layout, tag: str, platforms: Mapping[str, list[_Layer]]) -> GeneratedImage:
    images = {architecture: _platform_image(layout, architecture, layers) for architecture, layers in platforms.items()}
    index = layout.add_document(
        OCI_INDEX,
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [
                as_json(replace(image.manifest, platform=Platform("linux", architecture)))
                for architecture, image in images.items()
            ],
        },
    )
    layout.tag(f"{REPOSITORY}:{tag}", index)
    return GeneratedImage(REPOSITORY, tag, index, images)


def _platform_image(layout: Layout, architecture: str, layers: list[_Layer]) -> PlatformImage:
    config_document: dict[str, Any] = {
        "created": _CREATED,
        "architecture": architecture,
        "os": "linux",
        "config": {"Cmd": ["/bin/hello"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [str(layer.diff_id) for layer in layers]},
        "history": [{"created": _CREATED, "created_by": layer.made_by} for layer in layers],
    }
    config = layout.add_document(CONFIG, config_document)
    entries = tuple(layer.entry for layer in layers)
    manifest_document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": as_json(config),
        "layers": [as_json(entry) for entry in entries],
    }
    return PlatformImage(layout.add_document(OCI_MANIFEST, manifest_document), config, entries)


@dataclass(frozen=True, slots=True)
class _Content:
    """A file's bytes, made while they are written."""

    size_bytes: int
    parts: Iterator[bytes]


def _noise(label: str, size_bytes: int) -> _Content:
    """Bytes that nothing compresses; all that `label` decides."""
    return _Content(size_bytes, _noise_parts(label, size_bytes))


def _text(label: str, size_bytes: int) -> _Content:
    """Letters in about the frequencies of English: they compress to half."""
    return _Content(size_bytes, (part.translate(_LETTERS) for part in _noise_parts(label, size_bytes)))


def _noise_parts(label: str, size_bytes: int) -> Iterator[bytes]:
    for offset in range(0, size_bytes, _STEP_BYTES):
        length = min(_STEP_BYTES, size_bytes - offset)
        yield hashlib.shake_128(f"p2pdist demo/{label}/{offset}".encode()).digest(length)


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _TarWriter:
    """Writes one layer: a tar, compressed by gzip at `level` unless that is None, hashed before and after."""

    def __init__(self, file: BinaryIO, level: int | None) -> None:
        self._file = file
        self._gzip: _Compressor | None = None
        if level is not None:
            # Without searching for matches: the text has none to find, and it is three times as fast.
            self._gzip = zlib.compressobj(level, zlib.DEFLATED, 16 + zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
        self._tar_hash = hashlib.sha256()
        self._tar_bytes = 0
        self._file_hash = hashlib.sha256()
        self._file_bytes = 0

    def directory(self, name: str, mode: int = 0o755) -> None:
        self._header(name, tarfile.DIRTYPE, mode, 0)

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        self._header(name, tarfile.REGTYPE, mode, len(content))
        self._body([content], len(content))

    def stream(self, name: str, content: _Content) -> None:
        self._header(name, tarfile.REGTYPE, 0o644, content.size_bytes)
        self._body(content.parts, content.size_bytes)

    def finish(self, keep: Callable[[Digest], None], made_by: str) -> _Layer:
        self._write(bytes(1024 + -(self._tar_bytes + 1024) % _TAR_RECORD_BYTES))
        if self._gzip is not None:
            self._store(self._gzip.flush())
        digest = Digest("sha256", self._file_hash.hexdigest())
        keep(digest)
        media_type = LAYER_TAR if self._gzip is None else LAYER_GZIP
        diff_id = Digest("sha256", self._tar_hash.hexdigest())
        return _Layer(Descriptor(media_type, digest, self._file_bytes), diff_id, made_by)

    def _header(self, name: str, kind: bytes, mode: int, size_bytes: int) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.mode, member.size, member.mtime = kind, mode, size_bytes, _TIME
        self._write(member.tobuf(tarfile.PAX_FORMAT))

    def _body(self, parts: Iterable[bytes], size_bytes: int) -> None:
        for part in parts:
            self._write(part)
        self._write(bytes(-size_bytes % tarfile.BLOCKSIZE))

    def _write(self, data: bytes) -> None:
        self._tar_hash.update(data)
        self._tar_bytes += len(data)
        self._store(data if self._gzip is None else self._gzip.compress(data))

    def _store(self, data: bytes) -> None:
        self._file_hash.update(data)
        self._file_bytes += len(data)
        self._file.write(data)
