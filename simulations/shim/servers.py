"""What is compared: an agent that holds a blob, with a tracker, and nginx in front of the very same file.

Both serve from loopback, and from one file in the page cache, since the agent's store keeps a blob as a plain file.
nginx runs as one process with sendfile, tcp_nopush and its cache of open files: its usual good settings.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from p2pdist.core.digest import Digest
from p2pdist.core.errors import Unavailable
from p2pdist.core.pieces import PieceLayout
from p2pdist.demo.configs import TrackerAddresses, UpstreamSite, tracker_toml
from p2pdist.demo.ports import FreePorts
from p2pdist.store import BlobStore
from simulations.processes import Process

UPSTREAM = "registry.test"
REPOSITORY = "library/app"
_NOBODY = "http://127.0.0.1:9"
_START_SECONDS = 30.0
_SEARCH_PATH = "/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin"
_NGINX = """\
daemon off;
master_process off;
user root;
pid {directory}/pid;
error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 10000000;
    open_file_cache max=1000 inactive=1h;
    default_type application/octet-stream;
    client_body_temp_path {directory}/body;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    proxy_temp_path {directory}/temporary;
    server {{
        listen 127.0.0.1:{port};
        root {root};
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Held:
    """Two blobs in an agent's store: the one to measure with, and one of a few bytes."""

    large: Digest
    small: Digest
    paths: dict[Digest, Path]


@dataclass(frozen=True, slots=True)
class Server:
    """One of the two, running; `url` gives the address of a blob."""

    name: str
    process: Process
    urls: dict[Digest, str]


def fill_store(state_dir: Path, size_bytes: int, small_bytes: int) -> Held:
    """A store with two blobs of random bytes."""
    with BlobStore.open(state_dir) as store:
        digests = [_add_blob(store, size) for size in (size_bytes, small_bytes)]
        paths = {}
        for digest in digests:
            with store.committed(digest) as blob:
                paths[digest] = blob.path
    return Held(digests[0], digests[1], paths)


def _add_blob(store: BlobStore, size_bytes: int) -> Digest:
    """One that consists of one random piece many times over, which is as good as any to whoever doesn't look."""
    layout = PieceLayout.for_size(size_bytes)
    piece = os.urandom(layout.piece_bytes)
    hasher = Digest("sha256", "0" * 64).hasher()
    for index in range(layout.count):
        hasher.update(piece[: layout.length(index)])
    digest = Digest("sha256", hasher.hexdigest())
    with store.begin(digest, layout, upstream=UPSTREAM, repository=REPOSITORY) as partial:
        for index in range(layout.count):
            partial.write_piece(index, piece[: layout.length(index)])
        partial.commit(digest)
    return digest


@contextmanager
def agent(directory: Path, held: Held) -> Iterator[Server]:
    """The agent whose store is in `directory`/agent, with a tracker, until the end of the block."""
    control, relay, admin, *ours = (f"127.0.0.1:{port}" for port in FreePorts().take(7))
    shim, agent_relay, swarm, agent_admin = ours
    site = UpstreamSite(UPSTREAM, _NOBODY)
    tracker_config = tracker_toml(str(directory / "tracker"), TrackerAddresses(control, relay, admin), site)
    # There is no registry that could say who may have what is held; its table is the last of the file.
    tracker_config += 'access = "fleet"\n'
    agent_config = (
        f'state_dir = "{directory / "agent"}"\nname = "agent"\n[tracker]\naddress = "{control}"\n'
        f'[shim]\nlisten = ["{shim}"]\ndefault_upstream = "{UPSTREAM}"\n[relay]\nlisten = ["{agent_relay}"]\n'
        f'[swarm]\nlisten = ["{swarm}"]\n[admin]\nlisten = "{agent_admin}"\n'
    )
    with (
        _daemon(directory, "tracker", tracker_config, admin),
        _daemon(directory, "agent", agent_config, agent_admin) as process,
    ):
        urls = {digest: f"http://{shim}/v2/{REPOSITORY}/blobs/{digest}?ns={UPSTREAM}" for digest in held.paths}
        yield Server("agent", process, urls)


@contextmanager
def _daemon(directory: Path, command: str, config: str, admin: str) -> Iterator[Process]:
    path = directory / f"{command}.toml"
    path.write_text(config)
    argv: list[str | Path] = [sys.executable, "-m", "p2pdist", command, "--config", path]
    with Process(argv, log=directory / f"{command}.log", environment={"NO_PROXY": "*", "no_proxy": "*"}) as process:
        process.wait_until(lambda: _answers(admin, "/readyz"), f"the {command} is ready", _START_SECONDS)
        yield process


@contextmanager
def nginx(directory: Path, held: Held) -> Iterator[Server]:
    """Nginx with links to the store's files as its root, until the end of the block."""
    program = shutil.which("nginx", path=_SEARCH_PATH)
    if program is None:
        raise Unavailable("the comparison needs the program nginx (Debian package nginx)")
    root = directory / "root"
    root.mkdir()
    for digest, path in held.paths.items():
        (root / digest.hex).symlink_to(path)
    (port,) = FreePorts().take(1)
    config = directory / "nginx.conf"
    config.write_text(_NGINX.format(directory=directory, root=root, port=port))
    with Process([program, "-p", directory, "-c", config], log=directory / "nginx.log") as process:
        target = f"/{held.small.hex}"
        process.wait_until(lambda: _answers(f"127.0.0.1:{port}", target), "nginx answers", _START_SECONDS)
        yield Server("nginx", process, {digest: f"http://127.0.0.1:{port}/{digest.hex}" for digest in held.paths})


def _answers(address: str, target: str) -> bool:
    connection = HTTPConnection(address, timeout=_START_SECONDS)
    try:
        connection.request("GET", target)
        with connection.getresponse() as response:
            return response.status == 200
    except OSError:
        return False
    finally:
        connection.close()
