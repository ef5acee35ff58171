"""Small HTTP servers inside the test process: each request has its own connection, so none outlives a test."""

import socket
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from tests.system.places import with_port

_REQUEST_SECONDS = 60


class Handler(BaseHTTPRequestHandler):
    """One connection with one request; a client that hangs up ends it quietly."""

    protocol_version = "HTTP/1.1"
    timeout = _REQUEST_SECONDS

    def handle(self) -> None:
        self.close_connection = True
        try:
            self.handle_one_request()
        except (ConnectionError, ssl.SSLError, TimeoutError):
            return

    def respond(self) -> None:
        """Answer one GET or HEAD."""
        raise NotImplementedError

    def _respond(self) -> None:
        self.respond()

    do_GET = do_HEAD = _respond  # noqa: N815 (http.server looks for these names)

    def log_message(self, format: str, *_arguments: object) -> None:
        """The tests keep their own record."""

    def answer(self, status: int, body: bytes, media_type: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class ServerThread:
    """Serves a listening socket, each connection in a thread, for as long as the context lasts."""

    def __init__(
        self, listener: socket.socket, handler: Callable[..., Handler], context: ssl.SSLContext | None = None
    ) -> None:
        host, port = listener.getsockname()[:2]
        self._server = ThreadingHTTPServer((host, port), handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = context.wrap_socket(listener, server_side=True) if context else listener
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="test HTTP server")
        self.url = f"{'https' if context else 'http'}://{with_port(host, port)}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
