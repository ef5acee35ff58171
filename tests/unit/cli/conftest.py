"""A daemon's admin address played by http.server: it answers what the test says."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest


@dataclass
class Admin:
    """What is answered, and what was asked."""

    address: str
    status: int = 200
    body: bytes = b""
    promised_bytes: int | None = None
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def admin() -> Iterator[Admin]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            played.asked.append(f"{self.command} {self.path}")
            self.send_response(played.status)
            promised = len(played.body) if played.promised_bytes is None else played.promised_bytes
            self.send_header("Content-Length", str(promised))
            self.end_headers()
            self.wfile.write(played.body)

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        played = Admin(f"127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield played
        server.shutdown()
        thread.join()
