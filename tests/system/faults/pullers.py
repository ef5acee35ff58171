"""The clients of the matrix: each pulls through the agent, knows the registry itself, and checks what it got."""

import json
import shutil
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Protocol, Self

import trustme

from tests.system.clients import ClientFailed, SkopeoCopy, run
from tests.system.containerd import Containerd
from tests.system.dockerd import Dockerd
from tests.system.faults.cells import Client
from tests.system.images import Image

UPSTREAM = "registry.test"
HUB = "docker.io"
_HUB_HOST = "registry-1.docker.io"
_HEAD_BYTES = 64 * 1024


class Puller(Protocol):
    """A container client with storage of its own."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def pull(self, name: str, image: Image) -> None:
        """Pull `library/NAME:1` and make sure that it is `image`; raises `ClientFailed`."""


def program_of(client: Client) -> tuple[str, ...]:
    """The programs that a client needs."""
    return {Client.CONTAINERD: ("containerd", "ctr", "unshare"), Client.DOCKERD: ("dockerd", "unshare")}.get(
        client, (client.value,)
    )


def puller(client: Client, directory: Path, shim: str, origin: str) -> Puller:
    """The client, told that the registry at the address `origin` is mirrored at the address `shim`."""
    match client:
        case Client.CONTAINERD:
            return _Containerd(directory, shim, origin)
        case Client.DOCKERD:
            return _Dockerd(directory, shim, origin)
        case _:
            return _PodmanFamily(client, shim, origin)


class _Containerd:
    def __init__(self, directory: Path, shim: str, origin: str) -> None:
        self._daemon = Containerd(directory)
        hosts = self._daemon.hosts / UPSTREAM / "hosts.toml"
        hosts.parent.mkdir(parents=True)
        hosts.write_text(f'server = "http://{origin}"\n[host."http://{shim}"]\ncapabilities = ["pull", "resolve"]\n')

    def __enter__(self) -> Self:
        self._daemon.__enter__()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._daemon.__exit__()

    def pull(self, name: str, image: Image) -> None:
        self._daemon.pull(f"{UPSTREAM}/library/{name}:1")
        self._daemon.assert_holds(image)


class _Dockerd:
    """It goes to Docker Hub by itself, so the registry has to be that: by a proxy for TLS and a CA of our own."""

    def __init__(self, directory: Path, shim: str, origin: str) -> None:
        directory.mkdir(parents=True)
        config = directory / "daemon.json"
        config.write_text(json.dumps({"registry-mirrors": [f"http://{shim}"]}))
        authority = trustme.CA()
        authority.cert_pem.write_to_path(directory / "ca.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(_HUB_HOST).configure_cert(context)
        self._hub = _TlsFront(context, int(origin.rsplit(":", 1)[1]))
        environment = {
            "SSL_CERT_FILE": str(directory / "ca.pem"),
            "HTTPS_PROXY": f"http://{self._hub.address}",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        self._daemon = Dockerd(directory / "daemon", config, environment=environment)
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._hub)
            stack.enter_context(self._daemon)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._cleanup.close()

    def pull(self, name: str, image: Image) -> None:
        self._daemon.pull(f"{HUB}/library/{name}", "1")


class _TlsFront:
    """An HTTP proxy that knows one host: it ends the TLS inside CONNECT and passes the rest on to a port."""

    def __init__(self, context: ssl.SSLContext, target: int) -> None:
        self._context = context
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="hub", daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), name="hub connection", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head and len(head) < _HEAD_BYTES and (part := client.recv(4096)):
                head += part
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            inside = self._context.wrap_socket(client, server_side=True)
            server = socket.create_connection(("127.0.0.1", self._target))
            back = threading.Thread(target=_copy, args=(server, inside), name="hub connection", daemon=True)
            back.start()
            _copy(inside, server)
            back.join()
            for sock in (inside, server):
                sock.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while part := source.recv(_HEAD_BYTES):
            target.sendall(part)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class _PodmanFamily:
    """Podman, skopeo and buildah share their configuration and their way to registries.

    They want a directory with a short name (a runroot may have 50 characters).
    """

    def __init__(self, client: Client, shim: str, origin: str) -> None:
        self._client = client
        self._directory = Path(tempfile.mkdtemp(prefix="puller-"))
        registries = self._directory / ".config/containers/registries.conf"
        registries.parent.mkdir(parents=True)
        registries.write_text(
            f'[[registry]]\nprefix = "{UPSTREAM}"\nlocation = "{origin}"\ninsecure = true\n'
            f'[[registry.mirror]]\nlocation = "{shim}/{UPSTREAM}"\ninsecure = true\n'
        )
        self._policy = self._directory / "policy.json"
        self._policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self._environment = {"HOME": str(self._directory)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        shutil.rmtree(self._directory)

    def pull(self, name: str, image: Image) -> None:
        reference = f"{UPSTREAM}/library/{name}:1"
        pull: dict[Client, Callable[[], None]] = {
            Client.SKOPEO: lambda: self._skopeo(reference, image),
            Client.PODMAN: lambda: self._podman(reference, image),
            Client.BUILDAH: lambda: self._buildah(reference),
        }
        pull[self._client]()

    def _skopeo(self, reference: str, image: Image) -> None:
        copy = self._directory / "copy"
        try:
            platform = ["--override-os", "linux", "--override-arch", "amd64"]
            argv = ["skopeo", "--insecure-policy", *platform, "copy", f"docker://{reference}", f"dir:{copy}"]
            run(argv, self._environment)
            SkopeoCopy(copy).assert_is(image)
        finally:
            shutil.rmtree(copy, ignore_errors=True)

    def _storage(self) -> list[str | Path]:
        at = self._directory
        return ["--root", at / "root", "--runroot", at / "run", "--storage-driver", "vfs"]

    def _podman(self, reference: str, image: Image) -> None:
        podman = ["podman", *self._storage(), "--tmpdir", self._directory / "tmp", "--events-backend", "none"]
        run([*podman, "pull", "--quiet", "--signature-policy", self._policy, reference], self._environment)
        inspected = json.loads(run([*podman, "image", "inspect", reference], self._environment))
        if inspected[0]["Digest"] != image.manifest.digest:
            raise AssertionError(f"podman pulled {inspected[0]['Digest']}")
        run([*podman, "rmi", "--force", reference], self._environment)

    def _buildah(self, reference: str) -> None:
        buildah = ["buildah", *self._storage()]
        run([*buildah, "pull", "--quiet", "--signature-policy", self._policy, reference], self._environment)
        run([*buildah, "rmi", "--force", reference], self._environment)


__all__ = ["ClientFailed", "Puller", "program_of", "puller"]
