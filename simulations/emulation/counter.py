"""The counting point in front of an origin: passes requests on, moves bodies inside the kernel, counts what left.

A process of its own in the origin's namespace, so that its cores' time is nobody else's. A body is counted while it is
sent, so that one which breaks off counts as far as it came.

    python -m simulations.emulation.counter LISTEN-HOST:PORT ORIGIN-HOST:PORT TALLY-FILE
"""

import fcntl
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from simulations.emulation.heads import BadMessage, Head, parse_head, read_head
from simulations.emulation.tally import Tally

LISTENING = "counting at"
_BLOB = re.compile(r"/v2/.+/blobs/sha256:[0-9a-f]{64}(?:\?.*)?")
_PIPE_BYTES = 1 << 20
_SPLICE_BYTES = 256 * 1024
_BODILESS = frozenset({204, 304})


def serve(listener: socket.socket, origin: tuple[str, int], tally: Tally) -> None:
    """Take connections until the listener is closed; each has a thread and a connection to the origin of its own."""
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_converse, args=(client, origin, tally), daemon=True).start()


def _converse(client: socket.socket, origin: tuple[str, int], tally: Tally) -> None:
    with client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with socket.create_connection(origin) as upstream:
                upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while _pass_one(client, upstream, tally):
                    pass
        except (OSError, BadMessage) as error:
            print(f"a connection ended: {error}", flush=True)


def _pass_one(client: socket.socket, upstream: socket.socket, tally: Tally) -> bool:
    """Pass one request and its answer on; returns whether the connection lasts."""
    head = read_head(client)
    if not head:
        return False
    request = parse_head(head)
    method, target = request.words[:2]
    if method not in ("GET", "HEAD") or request.body_bytes or "transfer-encoding" in request.fields:
        raise BadMessage(f"{method} {target}: only reading is counted, and passed on")
    is_blob = _BLOB.fullmatch(target) is not None
    tally.add(blob_requests=is_blob, other_requests=not is_blob)
    upstream.sendall(head)
    answer = read_head(upstream)
    if not answer:
        return False
    response = parse_head(answer)
    client.sendall(answer)
    length = _body_bytes(method, response)
    if length is None:
        upstream.shutdown(socket.SHUT_WR)
    for size in _move(upstream, client, length):
        if is_blob and response.status in (200, 206):
            tally.add(blob_bytes=size)
    return length is not None and request.lasting and response.lasting


def _body_bytes(method: str, response: Head) -> int | None:
    """How long the body is; None: until the connection ends, which is enough for errors that come in chunks."""
    if method == "HEAD" or response.status in _BODILESS:
        return 0
    return response.body_bytes


def _move(source: socket.socket, target: socket.socket, size_bytes: int | None) -> Iterator[int]:
    """Move a body through a pipe (splice(2)), part by part; gives the size of each part that was sent."""
    if size_bytes == 0:
        return
    into, out = os.pipe2(os.O_CLOEXEC)
    try:
        fcntl.fcntl(out, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        left = size_bytes
        while left is None or left > 0:
            taken = os.splice(source.fileno(), out, _SPLICE_BYTES if left is None else min(left, _SPLICE_BYTES))
            if not taken:
                if left is not None:
                    raise BadMessage(f"the origin ended a body {left} bytes early")
                return
            left = None if left is None else left - taken
            yield from _send(into, target, taken)
    finally:
        os.close(into)
        os.close(out)


def _send(into: int, target: socket.socket, size_bytes: int) -> Iterator[int]:
    while size_bytes:
        sent = os.splice(into, target.fileno(), size_bytes)
        size_bytes -= sent
        yield sent


def main(argv: Sequence[str]) -> int:
    """Count until SIGTERM; the three arguments are those of the module's docstring."""
    listen, origin, path = argv
    host, port = listen.rsplit(":", 1)
    origin_host, origin_port = origin.rsplit(":", 1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with Tally(Path(path)) as tally, socket.create_server((host, int(port)), backlog=1024) as listener:
        print(LISTENING, listen, flush=True)
        serve(listener, (origin_host, int(origin_port)), tally)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
