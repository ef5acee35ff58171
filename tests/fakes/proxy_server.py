"""A tiny HTTP proxy on loopback: CONNECT and plain requests, with or without a password, in threads.

It knows one host by name, whatever the name's port: all connections go to `target_port` on 127.0.0.1.
"""

import base64
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from p2pdist.http.dial import shut_down


class ProxyServer:
    """Listens on 127.0.0.1 while it is entered; `asked` lists the request lines that came."""

    def __init__(self, target_port: int, userinfo: str = "", connect_status: int = 200) -> None:
        self.asked: list[str] = []
        self.authorizations: list[str | None] = []
        self.target_port = target_port
        self.expected = "Basic " + base64.b64encode(userinfo.encode()).decode() if userinfo else None
        self.connect_status = connect_status
        self.sockets: list[socket.socket] = []
        self._http = _Server(self)
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._http.shutdown()
        for connection in self.sockets:
            shut_down(connection)
        self._http.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, proxy: ProxyServer) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """The tests look at `asked`."""

    def _enter(self) -> socket.socket | None:
        proxy = self.server.proxy
        proxy.asked.append(self.requestline)
        proxy.authorizations.append(self.headers.get("proxy-authorization"))
        self.close_connection = True
        if proxy.expected is not None and self.headers.get("proxy-authorization") != proxy.expected:
            self.send_response(407)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        proxy.sockets.append(self.connection)
        return socket.create_connection(("127.0.0.1", proxy.target_port))

    def do_CONNECT(self) -> None:
        onward = self._enter()
        if onward is None:
            return
        with onward:
            self.send_response(self.server.proxy.connect_status, "As told")
            self.end_headers()
            if self.server.proxy.connect_status == 200:
                back = threading.Thread(target=_pump, args=(onward, self.connection))
                back.start()
                _pump(self.connection, onward)
                back.join()

    def do_GET(self) -> None:
        onward = self._enter()
        if onward is None:
            return
        with onward:
            target = urlsplit(self.path)
            head = [f"GET {target.path} HTTP/1.1", f"Host: {target.netloc}", "Connection: close", "", ""]
            onward.sendall("\r\n".join(head).encode())
            _pump(onward, self.connection)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    shut_down(sink)
