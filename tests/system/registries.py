"""Origins for the tests: Debian's docker-registry with its storage in a directory of the test, a meter in front.

Three kinds: open to all, `htpasswd` (Basic), and tokens (Bearer, with a token server of ours).
"""

import hashlib
import json
import shutil
import ssl
from contextlib import ExitStack
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path
from typing import Self

from tests.system.images import Image, Index, Pusher
from tests.system.meter import Meter
from tests.system.places import Place, with_port
from tests.system.tokens import ISSUER, SERVICE, Account, TokenServer

ACCOUNT = Account("operator", "correct horse battery")
# docker-registry reads bcrypt only, which Python's library lacks: made once, of the account above.
_HTPASSWD = "operator:$2b$05$sn9C3/g.jYuyChH5y7vIYegvmf87Cx6qQ5.UQfrxcBogEcmr8px86\n"
LOOPBACK = Place()
_START_SECONDS = 15


class Registry:
    """One docker-registry process; `url` leads through the meter, pushes go past it."""

    def __init__(
        self,
        directory: Path,
        *,
        place: Place = LOOPBACK,
        auth: str = "none",
        tls: ssl.SSLContext | None = None,
        public: tuple[str, ...] = (),
        deletes: bool = False,
    ) -> None:
        self._directory = directory
        self._storage = directory / "storage"
        self._place = place
        self._auth = auth
        self._deletes = deletes
        self._tls = tls
        self._port = 0
        self._cleanup = ExitStack()
        self.token_url = ""
        self.tokens = TokenServer(ACCOUNT, public)
        self.meter = Meter(self.connect)
        self.url = ""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._directory.mkdir(parents=True, exist_ok=True)
            stack.callback(shutil.rmtree, self._storage, ignore_errors=True)
            config = self._directory / "config.yml"
            config.write_text(self._config(stack))
            argv = ["docker-registry", "serve", str(config)]
            log = self._directory / "registry.log"
            process = stack.enter_context(self._place.start(argv, log))
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
        return f"http://{with_port(self._place.address, self._port)}"

    def connect(self) -> HTTPConnection:
        """A connection past the meter."""
        return self._place.http(self._place.address, self._port)

    def push(self, content: Image | Index, repository: str, tag: str) -> None:
        """Upload an image or index, with the rights of the account."""
        authorization = {
            "none": "",
            "htpasswd": ACCOUNT.authorization,
            "token": self.tokens.push_authorization(repository),
        }[self._auth]
        connection = self.connect()
        try:
            Pusher(connection, authorization).push(content, repository, tag)
        finally:
            connection.close()

    def upload(self, data: bytes, repository: str, algorithm: str) -> str:
        """Upload a blob by a digest of this algorithm, which is returned; the registry must be open to all."""
        digest = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
        connection = self.connect()
        try:
            connection.request("POST", f"/v2/{repository}/blobs/uploads/")
            with connection.getresponse() as begun:
                begun.read()
            connection.request("PUT", f"{begun.headers['Location']}&digest={digest}", data)
            with connection.getresponse() as done:
                assert done.status == 201, done.read()
                done.read()
        finally:
            connection.close()
        return digest

    def write_docker_config(self, path: Path) -> Path:
        """Write a docker `config.json` that holds the account's password for the address of `url`."""
        encoded = ACCOUNT.authorization.removeprefix("Basic ")
        address = self.url.split("://", 1)[1]
        path.write_text(json.dumps({"auths": {address: {"auth": encoded}}}))
        return path

    def connect_through_meter(self) -> HTTPConnection:
        """A connection as p2pdist makes it, for tests of the meter itself."""
        return self._place.http(self._place.address, int(self.url.rsplit(":", 1)[1]))

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
            f"storage: {{filesystem: {{rootdirectory: '{self._storage}'}}, "
            f"delete: {{enabled: {str(self._deletes).lower()}}}}}\n"
            f"http: {{addr: '{with_port(self._place.address, 0)}', secret: 'not one'}}\n"
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
            self.token_url = f"{server.url}/token"
            return (
                f"auth: {{token: {{realm: '{server.url}/token', service: {SERVICE}, issuer: '{ISSUER}', "
                f"rootcertbundle: '{bundle}'}}}}\n"
            )
        return ""
