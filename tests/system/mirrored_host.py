"""A host in a network of its own, where containerd, dockerd and Podman believe that the test's registry is Docker Hub.

Its runtimes' configuration is a directory of the test, in which `p2pdist mirror` works as it does in a host's /. The
registry answers as registry-1.docker.io over TLS too, so that a runtime can go to it past the agent, as in real life.
"""

import ssl
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import trustme

from simulations.network import Host, Link, Network
from tests.system.clients import run
from tests.system.containerd import Containerd
from tests.system.daemons import Agent, attempt
from tests.system.dockerd import Dockerd
from tests.system.fleet import Fleet
from tests.system.images import Image
from tests.system.places import Place
from tests.system.registries import Registry
from tests.system.tokens import Account

HUB = "docker.io"
_HUB_HOST = "registry-1.docker.io"
_POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}'


class MirroredHost:
    """The host, its agent, and all that its runtimes need; nothing is configured to go through the agent yet."""

    def __init__(
        self, directory: Path, *, auth: str = "none", public: tuple[str, ...] = (), login: bool = False
    ) -> None:
        self.root = directory / "root"
        self._login = login
        self._directory = directory
        self._network = Network({"registry": Link(), "tracker": Link(), "agent-1": Link()})
        self._cleanup = ExitStack()
        place = Place(self._network["registry"])
        self.registry = Registry(directory / "registry", place=place, auth=auth, public=public)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._network)
            stack.enter_context(self.registry)
            stack.enter_context(self.registry.meter.serve(self._network["registry"].listen(443), self._tls()))
            upstream = {"name": HUB, "origin": self.registry.url}
            settings = {"shim": {"default_upstream": HUB, "login": self._login}}
            fleet = Fleet(self._directory / "fleet", [upstream], 1, network=self._network, agent_settings=settings)
            stack.enter_context(fleet)
            self.agent: Agent = fleet.agents[0]
            self._make_files()
            environment = {"SSL_CERT_FILE": str(self._directory / "ca.pem")}
            launcher = self._launcher()
            self.containerd = Containerd(self._directory / "containerd", launcher=launcher, environment=environment)
            self.containerd.hosts = self.root / "etc/containerd/certs.d"
            stack.enter_context(self.containerd)
            config = self.root / "etc/docker/daemon.json"
            docker = Dockerd(self._directory / "docker", config, launcher=launcher, environment=environment)
            self.dockerd = stack.enter_context(docker)
            self.podman = MirroredPodman(launcher, environment, self._directory / "podman")
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._cleanup.close()

    @property
    def _host(self) -> Host:
        return self._network["agent-1"]

    def _tls(self) -> ssl.SSLContext:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self._directory / "ca.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(_HUB_HOST).configure_cert(context)
        return context

    def _make_files(self) -> None:
        (self._directory / "hosts").write_text(f"127.0.0.1 localhost\n{self._network['registry'].ipv4} {_HUB_HOST}\n")
        for name, text in {
            "containers/policy.json": _POLICY,
            "containers/registries.conf": 'unqualified-search-registries = ["docker.io"]\n',
            "containerd/certs.d/other.test/hosts.toml": 'server = "https://other.test"\n',
            "docker/daemon.json": '{ "debug": false }',
        }.items():
            path = self.root / "etc" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def _launcher(self) -> list[str | Path]:
        """What a runtime's program is started by: in the host's network, with the test's hosts and containers files."""
        binds = [f"{self._directory}/hosts:/etc/hosts", f"{self.root}/etc/containers:/etc/containers"]
        mounts = " && ".join("mount --bind {} {}".format(*bind.split(":")) for bind in binds)
        # Not `ip netns exec`: that mounts a /sys of its own, without the cgroups that dockerd looks for.
        enter = ["nsenter", f"--net=/run/netns/{self._host.namespace}", "unshare", "--mount"]
        return [*enter, "sh", "-c", f'{mounts} && exec "$@"', "sh"]

    def mirror(self, *arguments: str) -> str:
        """What `p2pdist mirror` prints on this host."""
        command = [*arguments, "--root", str(self.root)]
        if arguments[0] != "remove":
            command += ["--shim", self.agent.shim_address, "--admin", self.agent.admin_address]
        namespace = ["ip", "netns", "exec", self._host.namespace]
        code, printed, complained = attempt("mirror", *command, launcher=namespace)
        assert code == 0, f"p2pdist mirror {' '.join(command)}: {code}: {printed}{complained}"
        return printed

    def push(self, image: Image, name: str) -> None:
        """Give Docker Hub an image `library/NAME:1`."""
        self.registry.push(image, f"library/{name}", "1")

    def files(self) -> dict[str, bytes]:
        """All configuration of the runtimes, and the names of all directories of it."""
        paths = sorted((self.root / "etc").rglob("*"))
        return {str(path): path.read_bytes() if path.is_file() else b"" for path in paths}


class MirroredPodman:
    """Podman on the host, with storage of its own."""

    def __init__(self, launcher: list[str | Path], environment: dict[str, str], directory: Path) -> None:
        self._launcher = launcher
        self._environment = {**environment, "HOME": str(directory.parent)}
        self._directory = directory

    def _podman(self, *arguments: str) -> str:
        places = ["--root", self._directory / "root", "--runroot", self._directory / "run"]
        # Without a place of its own for locks it would share those of every other Podman of the machine.
        places += ["--tmpdir", self._directory / "tmp", "--storage-driver", "vfs", "--events-backend", "none"]
        return run([*self._launcher, "podman", *places, *arguments], self._environment)

    def pull(self, reference: str, account: Account | None = None) -> None:
        shown = ["--creds", f"{account.user}:{account.password}"] if account is not None else []
        self._podman("pull", "--quiet", *shown, reference)

    def remove(self, reference: str) -> None:
        self._podman("rmi", "--force", reference)
