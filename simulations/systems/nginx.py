"""A caching proxy between the hosts and the origin: nginx on the tracker's host, which fetches each blob once.

What everybody waits for is behind the lock of its cache: the first request streams while it fills the cache, the others
are served from it afterwards.
"""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from p2pdist.core.errors import Unavailable
from simulations.network import Host
from simulations.processes import Process, poll_until
from simulations.systems import Counts, Stage

_PORT = 8080
_START_SECONDS = 20
_READ_SECONDS = 600
_PART_BYTES = 1 << 20
_NAME = "tracker"
_SEARCH_PATH = "/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin"
_CONFIG = """\
daemon off;
master_process off;
user root;
pid {directory}/pid;
error_log {directory}/error.log;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path {directory}/body;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    proxy_temp_path {directory}/temporary;
    proxy_cache_path {directory}/cache keys_zone=blobs:16m inactive=1d use_temp_path=off;
    server {{
        listen {address}:{port} backlog=4096;
        location / {{
            proxy_pass {origin};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_cache blobs;
            proxy_cache_key $uri;
            proxy_cache_valid 200 1d;
            proxy_cache_lock on;
            proxy_cache_lock_timeout 1h;
            proxy_cache_lock_age 1h;
        }}
    }}
}}
"""


class Nginx:
    """One nginx in the middle."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._process: Process | None = None
        self._url = f"http://{stage.server.ipv4}:{_PORT}"

    def start(self) -> None:
        if shutil.which("nginx", path=_SEARCH_PATH) is None:
            raise Unavailable("the system nginx needs the program nginx (Debian package nginx)")
        values = {"directory": self._stage.directory, "address": self._stage.server.ipv4, "port": _PORT}
        config = self._stage.directory / "nginx.conf"
        config.write_text(_CONFIG.format(origin=self._stage.origin_url, **values))
        self.restart(_NAME)
        poll_until(lambda: _listens(self._stage.server), "nginx listens", _START_SECONDS)

    def warm(self, digests: Sequence[str]) -> None:
        for digest in digests:
            _drain(self._stage.server, self.blob_url(_NAME, digest))

    def blob_url(self, host: str, digest: str) -> str:
        return self._url + self._stage.blob_path(digest)

    def manifest_url(self, host: str, reference: str) -> str | None:
        return self._url + self._stage.manifest_path(reference)

    def processes(self) -> Mapping[str, Process]:
        return {_NAME: self._process} if self._process is not None else {}

    def counts(self) -> Counts:
        """It keeps none that could be asked for; what its link carried says about the same."""
        return Counts()

    def kill(self, host: str) -> None:
        if self._process is not None:
            self._process.kill()

    def restart(self, host: str) -> None:
        program = shutil.which("nginx", path=_SEARCH_PATH) or "nginx"
        directory = self._stage.directory
        argv: list[str | Path] = [program, "-p", directory, "-c", directory / "nginx.conf"]
        self._process = self._stage.server.start(argv, log=directory / "nginx.log")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()


def make(stage: Stage) -> Nginx:
    """The system on `stage`."""
    return Nginx(stage)


def _listens(host: Host) -> bool:
    try:
        host.connect(host.ipv4, _PORT).close()
    except ConnectionRefusedError:
        return False
    return True


def _drain(host: Host, url: str) -> None:
    """GET a blob and forget it; raises `Unavailable` when it can't be had."""
    where = urlsplit(url)
    with closing(HTTPConnection(host.ipv4, _PORT)) as connection:
        connection.sock = host.connect(host.ipv4, _PORT, _READ_SECONDS)
        connection.request("GET", where.path)
        with connection.getresponse() as response:
            if response.status != 200:
                raise Unavailable(f"nginx answered {url} with {response.status}")
            while response.read(_PART_BYTES):
                pass
