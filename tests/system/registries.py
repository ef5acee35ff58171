"""Origins for the tests: Debian's docker-registry with its storage in a directory of the test, a meter in front.

Three kinds: open to all, `htpasswd` (Basic), and tokens (Bearer, with a token server of ours).
"""

import json
import socket
import ssl
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path
from typing import Self

from simulations.network import Host
from simulations.processes import Process
from tests.system.images import Image, Index, Pusher
from tests.system.meter import Meter
from tests.system.tokens import ISSUER, SERVICE, Account, TokenServer

ACCOUNT = Account("operator", "correct horse battery")
# docker-registry reads bcrypt only, which Python's library lacks: made once, of the account above.
_HTPASSWD = "operator:$2b$05$sn9C3/g.jYuyChH5y7vIYegvmf87Cx6qQ5.UQfrxcBogEcmr8px86\n"
_START_SECONDS = 15
_PUSH_SECONDS = 60


@dataclass(frozen=True)
class _Place:
    """Where sockets of a registry are: this machine's loopback, or a host of a test's network."""

    host: Host | None

    @property
    def address(self) -> str:
        return self.host.ipv4 if self.host else "127.0.0.1"

    def listen(self) -> socket.socket:
        return self.host.listen(0, self.address) if self.host else socket.create_server((self.address, 0))

    def connect(self, port: int) -> HTTPConnection:
        connection = HTTPConnection(self.address, port, timeout=_PUSH_SECONDS)
        if self.host:
            connection.sock = self.host.connect(self.address, port, _PUSH_SECONDS)
        return connection


class Registry:
    """One docker-registry process; `url` leads through the meter, pushes go past it."""

    def __init__(
        self,
        directory: Path,
        *,
        host: Host | None = None,
        auth: str = "none",
        tls: ssl.SSLContext | None = None,
        public: tuple[str, ...] = (),
    ) -> None:
        self._directory = directory
        self._place = _Place(host)
        self._auth = auth
        self._tls = tls
        self._port = 0
        self._cleanup = ExitStack()
        self.tokens = TokenServer(ACCOUNT, public)
        self.meter = Meter(lambda: self._place.connect(self._port))
        self.url = ""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._directory.mkdir(parents=True, exist_ok=True)
            config = self._directory / "config.yml"
            config.write_text(self._config(stack))
            argv = ["docker-registry", "serve", str(config)]
            log = self._directory / "registry.log"
            host = self._place.host
            process = host.start(argv, log=log) if host else Process(argv, log=log)
            stack.enter_context(process)
            process.wait_until(lambda: "listening on" in process.output(), "docker-registry listens", _START_SECONDS)
            listening = next(line for line in process.output().splitlines() if "listening on" in line)
            self._port = int(listening.split("listening on ")[1].split('"')[0].split(",")[0].rsplit(":", 1)[1])
            self.url = stack.enter_context(self.meter.serve(self._place.listen(), self._tls)).url
            stack.callback(self.meter.close)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._cleanup.close()

    @property
    def direct_url(self) -> str:
        """Past the meter: for what nobody counts."""
        return f"http://{self._place.address}:{self._port}"

    def push(self, content: Image | Index, repository: str, tag: str) -> None:
        """Upload an image or index, with the rights of the account."""
        authorization = {
            "none": "",
            "htpasswd": ACCOUNT.authorization,
            "token": self.tokens.push_authorization(repository),
        }[self._auth]
        connection = self._place.connect(self._port)
        try:
            Pusher(connection, authorization).push(content, repository, tag)
        finally:
            connection.close()

    def write_docker_config(self, path: Path) -> Path:
        """Write a docker `config.json` that holds the account's password for the address of `url`."""
        encoded = ACCOUNT.authorization.removeprefix("Basic ")
        address = self.url.split("://", 1)[1]
        path.write_text(json.dumps({"auths": {address: {"auth": encoded}}}))
        return path

    def connect_through_meter(self) -> HTTPConnection:
        """A connection as p2pdist makes it, for tests of the meter itself."""
        return self._place.connect(int(self.url.rsplit(":", 1)[1]))

    def read_through_meter(self, path: str) -> bytes:
        """The body that a GET gives, as far as it comes."""
        connection = self.connect_through_meter()
        try:
            connection.request("GET", path)
            with connection.getresponse() as response:
                return response.read()
        except IncompleteRead as error:
            return error.partial
        finally:
            connection.close()

    def _config(self, stack: ExitStack) -> str:
        shared = (
            "version: 0.1\n"
            "log: {level: info, accesslog: {disabled: true}}\n"
            f"storage: {{filesystem: {{rootdirectory: '{self._directory / 'storage'}'}}}}\n"
            f"http: {{addr: '{self._place.address}:0', secret: 'not one'}}\n"
        )
        return shared + self._auth_config(stack)

    def _auth_config(self, stack: ExitStack) -> str:
        if self._auth == "htpasswd":
            path = self._directory / "htpasswd"
            path.write_text(_HTPASSWD)
            return f"auth: {{htpasswd: {{realm: tests, path: '{path}'}}}}\n"
        if self._auth == "token":
            bundle = self._directory / "tokens.pem"
            self.tokens.write_certificate(bundle)
            server = stack.enter_context(self.tokens.serve(self._place.listen()))
            return (
                f"auth: {{token: {{realm: '{server.url}/token', service: {SERVICE}, issuer: '{ISSUER}', "
                f"rootcertbundle: '{bundle}'}}}}\n"
            )
        return ""
