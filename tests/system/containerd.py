"""A containerd of the test's own: own root, state, socket and mirror configuration, no CRI plug-in, no network.

It runs in a process and a mount namespace of its own. When it ends, the kernel ends its shims and containers and undoes
their mounts, whatever state they were in.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from simulations.processes import Process
from tests.system.clients import run
from tests.system.images import Image
from tests.system.tokens import Account

SNAPSHOTTER = "native"
_DISABLED = ["grpc.v1.cri", "internal.v1.opt", "internal.v1.tracing"]
_DISABLED += [f"snapshotter.v1.{name}" for name in ("aufs", "btrfs", "devmapper", "zfs")]
_START_SECONDS = 15


class Containerd:
    """The daemon, and `ctr` against it; `launcher` (a namespace) and `environment` are those of `ctr`, which pulls."""

    def __init__(
        self, directory: Path, *, launcher: Sequence[str | Path] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        self._directory = directory
        self._launcher = launcher
        self._environment = environment
        self.hosts = directory / "hosts"
        """The directory of hosts.toml files."""
        self._socket = directory / "containerd.sock"
        self._cleanup = ExitStack()
        self._containers = 0

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        config = self._directory / "config.toml"
        plugins = ", ".join(f'"io.containerd.{name}"' for name in _DISABLED)
        config.write_text(
            f'version = 2\nroot = "{self._directory / "root"}"\nstate = "{self._directory / "state"}"\n'
            f'disabled_plugins = [{plugins}]\n[grpc]\naddress = "{self._socket}"\n'
        )
        namespaces = [
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount",
            "--mount-proc",
            "--propagation",
            "private",
        ]
        log = self._directory / "containerd.log"
        with ExitStack() as stack:
            process = stack.enter_context(Process([*namespaces, "containerd", "--config", config], log=log))
            process.wait_until(lambda: "containerd successfully booted" in process.output(), "booted", _START_SECONDS)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._cleanup.close()

    def _ctr(self, *arguments: str | Path) -> str:
        return run([*self._launcher, "ctr", "--address", self._socket, *arguments], self._environment)

    def mirror(self, registry: str, url: str) -> None:
        """Pull images of `registry` from `url` and nowhere else: the registry itself is given a dead address."""
        hosts = self.hosts / registry / "hosts.toml"
        hosts.parent.mkdir(parents=True, exist_ok=True)
        hosts.write_text(f'server = "http://127.0.0.1:9"\n[host."{url}"]\ncapabilities = ["pull", "resolve"]\n')

    def pull(self, reference: str, *, every_platform: bool = False, account: Account | None = None) -> None:
        """Pull and unpack `reference` through the mirror of its registry."""
        options = ["--all-platforms"] if every_platform else ["--platform", "linux/amd64"]
        options += ["--user", f"{account.user}:{account.password}"] if account is not None else []
        self._ctr("images", "pull", "--hosts-dir", self.hosts, "--snapshotter", SNAPSHOTTER, *options, reference)

    def remove(self, reference: str) -> None:
        """Remove an image, and at once what only it needed."""
        self._ctr("images", "remove", "--sync", reference)

    def digest_of(self, reference: str) -> str:
        """The digest that an image that was pulled points to."""
        rows = [line.split() for line in self._ctr("images", "list").splitlines()[1:]]
        return next(row[2] for row in rows if row[0] == reference)

    def contents(self) -> dict[str, str]:
        """What each blob and manifest in the content store is named, and the sha256 of what stands in it."""
        directory = self._directory / "root/io.containerd.content.v1.content/blobs/sha256"
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}

    def assert_holds(self, image: Image) -> None:
        """Every byte of the image is there."""
        contents = self.contents()
        expected = [image.manifest.hex, *(blob.hex for blob in image.blobs)]
        assert {name: contents.get(name) for name in expected} == {name: name for name in expected}

    def run_container(self, reference: str) -> str:
        """What the image's command prints in a container without a network."""
        self._containers += 1
        places = ["--runc-root", str(self._directory / "runc"), "--fifo-dir", str(self._directory / "fifo")]
        name = f"test-{self._containers}"
        return self._ctr("run", "--rm", "--snapshotter", SNAPSHOTTER, *places, reference, name)
