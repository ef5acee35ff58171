"""A node of the plain BitTorrent deployment that `bittorrent` starts: seeder and tracker, or a host's downloader.

libtorrent is left as it comes; only where it listens is set, and what it reports. Independent of `p2pdist.swarm`, which
is the thing to compare with.
"""

import argparse
import hashlib
import json
import os
import socket
import sys
import threading
from collections.abc import Sequence
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote_to_bytes, urlsplit

import libtorrent as lt

_TORRENT_PORT = 6881
_ANNOUNCE_SECONDS = 1800
_PART_BYTES = 1 << 20
_FETCH_SECONDS = 600
_ALERT_MILLISECONDS = 500


class NotToBeHad(Exception):
    """A blob that the origin, or the seeder, doesn't give."""


class Torrents:
    """A libtorrent session with its defaults, and what its alerts have said about the torrents in it."""

    def __init__(self, address: str, directory: Path) -> None:
        categories = lt.alert.category_t
        mask = categories.error_notification | categories.status_notification | categories.storage_notification
        self._session = lt.session(
            {"listen_interfaces": f"{address}:{_TORRENT_PORT}", "alert_mask": mask | categories.tracker_notification}
        )
        self._directory = directory
        self._changed = threading.Condition()
        self._handles: dict[str, lt.torrent_handle] = {}
        self._announced: set[str] = set()
        self._flushed: set[str] = set()
        threading.Thread(target=self._listen, daemon=True).start()

    def path(self, name: str) -> Path:
        """Where the file of a torrent is."""
        return self._directory / name

    def add(self, torrent: bytes) -> str:
        """Add a torrent, and return its name."""
        params = lt.load_torrent_buffer(torrent)
        params.save_path = str(self._directory)
        handle = self._session.add_torrent(params)
        name = str(handle.status().name)
        with self._changed:
            self._handles[name] = handle
        return name

    def wait_announced(self, name: str) -> None:
        """Wait until the torrents' tracker knows of us."""
        with self._changed:
            self._changed.wait_for(lambda: name in self._announced)

    def wait_whole(self, name: str) -> None:
        """Wait until the torrent's file is whole, and on disk."""
        with self._changed:
            self._changed.wait_for(lambda: name in self._flushed)

    def counts(self) -> dict[str, int]:
        """Payload sent, and payload received in vain."""
        status = [handle.status() for handle in list(self._handles.values())]
        return {
            "sent_bytes": sum(each.total_payload_upload for each in status),
            "redundant_bytes": sum(each.total_redundant_bytes + each.total_failed_bytes for each in status),
        }

    def _listen(self) -> None:
        while True:
            self._session.wait_for_alert(_ALERT_MILLISECONDS)
            for alert in self._session.pop_alerts():
                self._take(alert)

    def _take(self, alert: Any) -> None:
        if isinstance(alert, lt.torrent_finished_alert):
            alert.handle.flush_cache()
        elif isinstance(alert, lt.cache_flushed_alert | lt.tracker_reply_alert):
            told = self._flushed if isinstance(alert, lt.cache_flushed_alert) else self._announced
            with self._changed:
                told.add(alert.torrent_name)
                self._changed.notify_all()
        elif alert.category() & lt.alert.category_t.error_notification:
            print(alert.message(), flush=True)


class Swarm:
    """What a BitTorrent tracker knows (BEP 3, BEP 23): who has announced which torrent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._peers: dict[bytes, dict[bytes, None]] = {}

    def announce(self, query: str, address: str) -> bytes:
        """The answer to an announcement from `address`: the addresses of all others."""
        fields = parse_qs(query, encoding="latin-1")
        info_hash = unquote_to_bytes(next(part for part in query.split("&") if part.startswith("info_hash="))[10:])
        me = socket.inet_aton(address) + int(fields["port"][0]).to_bytes(2, "big")
        with self._lock:
            peers = self._peers.setdefault(info_hash, {})
            others = b"".join(peer for peer in peers if peer != me)
            if fields.get("event") == ["stopped"]:
                peers.pop(me, None)
            else:
                peers[me] = None
        answer: dict[Any, Any] = {b"interval": _ANNOUNCE_SECONDS, b"peers": others}
        return bytes(lt.bencode(answer))


class Node:
    """What both kinds have in common: each blob is got once, whoever asks for it meanwhile waits."""

    def __init__(self, torrents: Torrents) -> None:
        self.torrents = torrents
        self.swarm = Swarm()
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._got: dict[str, Any] = {}

    def once(self, digest: str) -> Any:
        """What `get` gives for a blob, which it is asked for once."""
        with self._lock:
            lock = self._locks.setdefault(digest, threading.Lock())
        with lock:
            if digest not in self._got:
                self._got[digest] = self.get(digest)
            return self._got[digest]

    def get(self, digest: str) -> Any:
        """Get a blob for the first time."""
        raise NotImplementedError


class Seeder(Node):
    """Fetches blobs from the origin and gives torrents."""

    def __init__(self, torrents: Torrents, serve: str, origin: str, repository: str) -> None:
        super().__init__(torrents)
        self._tracker = f"http://{serve}/announce"
        self._origin = origin
        self._repository = repository

    def get(self, digest: str) -> bytes:
        """Fetch a blob, whole; returns its torrent once it is seeded."""
        name = digest.removeprefix("sha256:")
        path = self.torrents.path(name)
        self._fetch(digest, path)
        creator = lt.create_torrent(lt.list_files(str(path)))
        creator.add_tracker(self._tracker)
        lt.set_piece_hashes(creator, str(path.parent))
        torrent = bytes(lt.bencode(creator.generate()))
        self.torrents.add(torrent)
        self.torrents.wait_announced(name)
        return torrent

    def _fetch(self, digest: str, path: Path) -> None:
        connection = HTTPConnection(self._origin.removeprefix("http://"), timeout=_FETCH_SECONDS)
        hasher = hashlib.sha256()
        try:
            connection.request("GET", f"/v2/{self._repository}/blobs/{digest}")
            with connection.getresponse() as response, path.open("wb") as file:
                if response.status != 200:
                    raise NotToBeHad(f"the origin answered with {response.status}")
                while part := response.read(_PART_BYTES):
                    hasher.update(part)
                    file.write(part)
        finally:
            connection.close()
        if hasher.hexdigest() != path.name:
            raise NotToBeHad(f"the origin gave other bytes for {digest}")


class Downloader(Node):
    """Downloads blobs from the swarm."""

    def __init__(self, torrents: Torrents, seeder: str) -> None:
        super().__init__(torrents)
        self._seeder = seeder

    def get(self, digest: str) -> Path:
        """Download a blob; returns its file."""
        connection = HTTPConnection(self._seeder, timeout=_FETCH_SECONDS)
        try:
            connection.request("GET", f"/torrent/{digest}")
            with connection.getresponse() as response:
                torrent = response.read()
                if response.status != 200:
                    raise NotToBeHad(f"the seeder answered with {response.status}: {torrent[:300]!r}")
        finally:
            connection.close()
        name = self.torrents.add(torrent)
        self.torrents.wait_whole(name)
        return self.torrents.path(name)


class _Handler(BaseHTTPRequestHandler):
    """Serves a node; one connection may carry many requests."""

    protocol_version = "HTTP/1.1"
    node: Node

    def do_GET(self) -> None:
        """Answer one request."""
        where = urlsplit(self.path)
        kind, _, digest = where.path.removeprefix("/").partition("/")
        try:
            match kind:
                case "announce":
                    self._answer(200, self.node.swarm.announce(where.query, str(self.client_address[0])))
                case "counts":
                    self._answer(200, json.dumps(self.node.torrents.counts()).encode())
                case "torrent":
                    self._answer(200, self.node.once(digest))
                case "blob":
                    self._send(self.node.once(digest))
                case _:
                    self._answer(404, b"")
        except NotToBeHad as error:
            self._answer(502, str(error).encode())

    def log_message(self, format: str, *_arguments: object) -> None:
        """Requests aren't logged."""

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send(self, path: Path) -> None:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            self.wfile.flush()
            self.connection.sendfile(file)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Run a node until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", required=True, metavar="HOST:PORT", help="for clients and other nodes")
    parser.add_argument("--address", required=True, help="where libtorrent listens")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--origin", default="", help="base URL of a registry: this is the seeder")
    parser.add_argument("--repository", default="")
    parser.add_argument("--seeder", default="", metavar="HOST:PORT", help="this is a downloader")
    options = parser.parse_args(argv)
    options.directory.mkdir(parents=True, exist_ok=True)
    torrents = Torrents(options.address, options.directory)
    if options.origin:
        node: Node = Seeder(torrents, options.serve, options.origin, options.repository)
    else:
        node = Downloader(torrents, options.seeder)
    host, port = options.serve.rsplit(":", 1)
    handler = type("Handler", (_Handler,), {"node": node})
    server = _Server((host, int(port)), handler)
    print("serving at", options.serve, flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
