"""A server for the tests of client and counter: blobs, cut short or refused as a test wants it."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHUNKED = b"6\r\nsorry!\r\n0\r\n\r\n"


class Blobs:
    """What is served under which path, and what was asked for."""

    def __init__(self, bodies: dict[str, bytes]) -> None:
        self.bodies = bodies
        self.cuts: dict[str, int] = {}
        """Paths whose next answer ends after so many bytes."""
        self.refusals: dict[str, int] = {}
        """Paths whose next answers have this status."""
        self.ranges: list[tuple[str, str | None]] = []
        self.connections = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    blobs: Blobs

    def setup(self) -> None:
        super().setup()
        self.blobs.connections += 1

    def do_GET(self) -> None:
        path, wanted = self.path, self.headers.get("Range")
        self.blobs.ranges.append((path, wanted))
        if path in self.blobs.refusals:
            self._head(self.blobs.refusals.pop(path), 0)
        elif path not in self.blobs.bodies:
            self.send_response(404)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(CHUNKED)
        else:
            self._send(path, wanted)

    do_HEAD = do_GET  # noqa: N815 (http.server looks for this name)

    def _send(self, path: str, wanted: str | None) -> None:
        body = self.blobs.bodies[path]
        match = re.fullmatch(r"bytes=(\d+)-", wanted or "")
        start = int(match[1]) if match else 0
        self._head(206 if match else 200, len(body) - start)
        if self.command == "HEAD":
            return
        cut = self.blobs.cuts.pop(path, len(body))
        self.wfile.write(body[start:cut])
        if cut < len(body):
            self.close_connection = True

    def _head(self, status: int, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *_arguments: object) -> None:
        """Tests need no log."""


@contextmanager
def serving(blobs: Blobs) -> Iterator[tuple[str, int]]:
    """A server on the loopback for as long as the context lasts; its address."""
    handler: Any = type("Handler", (_Handler,), {"blobs": blobs})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield "127.0.0.1", server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
