"""The container clients of the tests that need no daemon: skopeo and podman, each with all its files in one directory.

Knows how they are told to use a mirror, and how to read what they stored.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.system.images import Image

CLIENT_SECONDS = 60


class ClientFailed(Exception):
    """A client ended with an error; the message is what it printed."""


def run(argv: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> str:
    """What the program printed; raises `ClientFailed` when it fails or takes longer than a minute."""
    words = [str(word) for word in argv]
    try:
        finished = subprocess.run(
            words,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CLIENT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ClientFailed(f"{' '.join(words)}: not ended within {CLIENT_SECONDS} s: {error.stderr!r}") from None
    if finished.returncode:
        raise ClientFailed(f"{' '.join(words)}: exit code {finished.returncode}: {finished.stderr.strip()}")
    return finished.stdout


def address_of(url: str) -> str:
    """`127.0.0.1:5000` of `http://127.0.0.1:5000`."""
    return url.split("://", 1)[1]


@dataclass(frozen=True)
class SkopeoCopy:
    """An image that skopeo wrote to a directory (`dir:`): every blob is a file named by its hexadecimal digest."""

    directory: Path

    @property
    def manifest(self) -> bytes:
        return (self.directory / "manifest.json").read_bytes()

    def blobs(self) -> dict[str, str]:
        """What each blob's file is named, and the sha256 of what stands in it."""
        files = (path for path in self.directory.iterdir() if len(path.name) == 64)
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def assert_is(self, image: Image) -> None:
        """Every byte of the manifest and of each blob is that of `image`."""
        assert self.manifest == image.manifest.data
        assert self.blobs() == {blob.hex: blob.hex for blob in image.blobs}


def skopeo_copy(
    source: str, directory: Path, *, every_platform: bool = False, authorization_file: Path | None = None
) -> SkopeoCopy:
    """Copy `ADDRESS/REPOSITORY:TAG` (or `@DIGEST`), from a registry without TLS, into `directory`."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    options = ["--all"] if every_platform else []
    options += ["--src-authfile", str(authorization_file)] if authorization_file else []
    platform = ["--override-os", "linux", "--override-arch", "amd64"]
    copy = ["copy", "--src-tls-verify=false", *options, f"docker://{source}", f"dir:{directory}"]
    # An own home: the user's registries.conf, credentials and certificates have no part in a test.
    run(["skopeo", "--insecure-policy", *platform, *copy], {"HOME": str(directory.parent)})
    return SkopeoCopy(directory)


def skopeo_archive(source: str, file: Path) -> dict[str, Any]:
    """Copy an image into a `docker-archive:`, which holds unpacked layers; returns the configuration it names."""
    file.parent.mkdir(parents=True, exist_ok=True)
    copy = ["copy", "--src-tls-verify=false", f"docker://{source}", f"docker-archive:{file}"]
    run(["skopeo", "--insecure-policy", "--override-arch", "amd64", *copy], {"HOME": str(file.parent)})
    entry = json.loads(run(["tar", "-xOf", file, "manifest.json"]))[0]
    configuration: dict[str, Any] = json.loads(run(["tar", "-xOf", file, entry["Config"]]))
    return configuration


class Podman:
    """Podman with its own storage, told that `registry` is mirrored at `mirror` (and dead otherwise).

    It wants a directory with a short name (its runroot may have 50 characters), so it makes one and removes it.
    """

    def __init__(self, registry: str, mirror: str) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="podman-"))
        registries = self._directory / "registries.conf"
        registries.write_text(
            f'[[registry]]\nprefix = "{registry}"\nlocation = "127.0.0.1:9"\ninsecure = true\n'
            f'[[registry.mirror]]\nlocation = "{mirror}"\ninsecure = true\n'
        )
        self._policy = self._directory / "policy.json"
        self._policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self._environment = {"HOME": str(self._directory), "CONTAINERS_REGISTRIES_CONF": str(registries)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        shutil.rmtree(self._directory)

    def _podman(self, *arguments: str | Path) -> str:
        storage: list[str | Path] = ["--root", self._directory / "root", "--runroot", self._directory / "run"]
        storage += ["--tmpdir", self._directory / "tmp", "--storage-driver", "vfs", "--events-backend", "none"]
        return run(["podman", *storage, *arguments], self._environment)

    def pull(self, reference: str) -> str:
        """Pull `reference`; returns the digest of its manifest."""
        self._podman("pull", "--quiet", "--signature-policy", self._policy, reference)
        inspected = json.loads(self._podman("image", "inspect", reference))
        digest: str = inspected[0]["Digest"]
        return digest
