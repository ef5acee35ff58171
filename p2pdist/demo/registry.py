"""The demo's origin: a registry that serves a catalog by the OCI distribution API and counts what it sends.

Reading only (distribution spec, "Pull"); `GET /stats` gives the counts as JSON. Runs in the caller's event loop, or as
a process of its own: `python -m p2pdist.demo.registry --dir LAYOUT` prints one JSON line with its address and serves
until SIGINT or SIGTERM.
"""

import argparse
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from p2pdist.core.digest import Digest
from p2pdist.core.errors import NotFound, P2PDistError
from p2pdist.core.units import parse_rate
from p2pdist.demo.access import TOKEN_PATH, Access, BasicAccess, OpenAccess, TokenAccess, Unauthorized
from p2pdist.demo.catalog import Blob, Catalog
from p2pdist.demo.layout import Layout
from p2pdist.demo.pacing import Pace
from p2pdist.http.ranges import RangeNotSatisfiable, parse_range
from p2pdist.http.server import Request, Response, open_listeners, serve
from p2pdist.oci.errors import error_body
from p2pdist.oci.reference import parse_target

STATS_PATH = "/stats"
_API_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}
_JSON = {"Content-Type": "application/json"}
_ROUTE = re.compile(r"/v2/(?P<repository>.+)/(?P<kind>manifests|blobs|tags)/(?P<reference>[^/]+)")
_SLICE_BYTES = 1 << 20
_PACED_SLICE_BYTES = 64 * 1024


class MethodNotAllowed(P2PDistError):
    """Something else than reading."""

    http_status = 405
    oci_code = "UNSUPPORTED"


class Registry:
    """Answers requests from `catalog`; the counts are kept as long as it lives."""

    def __init__(self, catalog: Catalog, *, access: Access | None = None, pace: Pace | None = None) -> None:
        self._catalog = catalog
        self._access: Access = access if access is not None else OpenAccess()
        self._pace = pace
        self.manifest_requests: Counter[Digest] = Counter()
        self.blob_requests: Counter[Digest] = Counter()
        self.blob_bytes: Counter[Digest] = Counter()

    async def handle(self, request: Request, response: Response) -> None:
        """Answer one request; what is wrong with it becomes an OCI error body."""
        try:
            await self._route(request, response)
        except P2PDistError as error:
            if response.started:
                raise
            await response.send(error.http_status, _JSON | _API_VERSION | _headers_of(error), error_body(error))

    def stats(self) -> dict[str, object]:
        """What was asked for and sent so far; `body_bytes` counts what was handed to the blobs' connections."""
        return {
            "body_bytes": self.blob_bytes.total(),
            "blobs": {
                str(digest): {"requests": count, "body_bytes": self.blob_bytes[digest]}
                for digest, count in self.blob_requests.items()
            },
            "manifests": {str(digest): {"requests": count} for digest, count in self.manifest_requests.items()},
        }

    async def _route(self, request: Request, response: Response) -> None:
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed(f"{request.method} isn't served here: this registry is for reading")
        if request.path == STATS_PATH:
            await response.send(200, _JSON, json.dumps(self.stats()).encode())
        elif request.path == TOKEN_PATH and isinstance(self._access, TokenAccess):
            await response.send(200, _JSON, json.dumps(self._access.issue(request)).encode())
        elif request.path in ("/v2", "/v2/"):
            self._access.check(request, None)
            await response.send(200, _JSON | _API_VERSION, b"{}")
        elif match := _ROUTE.fullmatch(request.path):
            self._access.check(request, match["repository"])
            await self._send(match["kind"], match["repository"], match["reference"], request, response)
        else:
            raise NotFound(f"nothing is at {request.path[:300]}")

    async def _send(self, kind: str, repository: str, reference: str, request: Request, response: Response) -> None:
        if kind == "manifests":
            manifest = self._catalog.manifest(repository, parse_target(reference))
            self.manifest_requests[manifest.digest] += 1
            headers = {"Content-Type": manifest.media_type, "Docker-Content-Digest": str(manifest.digest)}
            await response.send(200, headers | _API_VERSION, manifest.body)
        elif kind == "blobs":
            await self._send_blob(self._catalog.blob(repository, Digest.parse(reference)), request, response)
        elif reference == "list":
            body = {"name": repository, "tags": self._catalog.tags(repository)}
            await response.send(200, _JSON | _API_VERSION, json.dumps(body).encode())
        else:
            raise NotFound(f"nothing is at {request.path[:300]}")

    async def _send_blob(self, blob: Blob, request: Request, response: Response) -> None:
        headers = {
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": str(blob.digest),
            "Accept-Ranges": "bytes",
        } | _API_VERSION
        self.blob_requests[blob.digest] += 1
        part = parse_range(request.headers.get("range"), blob.size_bytes)
        status, start, end = 200, 0, blob.size_bytes
        if part is not None:
            status, start, end = 206, part.start, part.end
            headers["Content-Range"] = part.content_range(blob.size_bytes)
        headers["Content-Length"] = str(end - start)
        await response.start(status, headers)
        if request.method == "GET":
            await self._send_body(blob, start, end, response)

    async def _send_body(self, blob: Blob, start: int, end: int, response: Response) -> None:
        """Send bytes `start` to `end`; a slice is counted when it starts to leave, so that a broken one counts too."""
        slice_bytes = _SLICE_BYTES if self._pace is None else _PACED_SLICE_BYTES
        async with _opened(blob.source) as opened:
            for offset in range(start, end, slice_bytes):
                count = min(slice_bytes, end - offset)
                if self._pace is not None:
                    await self._pace.take(count)
                self.blob_bytes[blob.digest] += count
                if isinstance(opened, int):
                    await response.send_file(opened, offset, count)
                else:
                    await response.write(opened[offset : offset + count])


def _headers_of(error: P2PDistError) -> dict[str, str]:
    match error:
        case Unauthorized():
            return {"WWW-Authenticate": error.challenge}
        case RangeNotSatisfiable():
            return {"Content-Range": error.content_range}
        case _:
            return {}


@asynccontextmanager
async def _opened(source: bytes | Path) -> AsyncIterator[int | bytes]:
    """A descriptor of the file, closed at the end, or the bytes themselves."""
    if isinstance(source, bytes):
        yield source
        return
    descriptor = await trio.to_thread.run_sync(os.open, source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def serve_registry(
    registry: Registry,
    address: str = "127.0.0.1:0",
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on `address` until cancelled; reports `host:port` when it listens."""
    listeners = await open_listeners(address)
    host, port = listeners[0].socket.getsockname()[:2]
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, registry.handle, listeners)
        task_status.started(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve an image layout until SIGINT or SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m p2pdist.demo.registry", description="Serve an image layout.")
    parser.add_argument("--dir", type=Path, required=True, help="an OCI image layout; names in it are repository:tag")
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="default: %(default)s")
    parser.add_argument("--rate", help="limit for the bodies of blobs over all connections, such as 80Mbit/s")
    parser.add_argument("--auth", choices=("none", "basic", "token"), default="none", help="default: %(default)s")
    parser.add_argument("--user", action="append", default=[], metavar="NAME:PASSWORD", help="may be given again")
    parser.add_argument("--private", action="append", default=[], metavar="REPOSITORY", help="token: only for users")
    options = parser.parse_args(argv)
    try:
        registry = Registry(
            Catalog.from_layout(Layout(options.dir)),
            access=_access(options.auth, options.user, options.private),
            pace=Pace(parse_rate(options.rate) // 8, _PACED_SLICE_BYTES) if options.rate else None,
        )
        trio.run(_serve_until_signal, registry, options.listen)
    except P2PDistError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _access(kind: str, users: list[str], private: list[str]) -> Access:
    passwords = {name: password for name, _, password in (user.partition(":") for user in users)}
    if kind == "basic":
        return BasicAccess(passwords)
    return TokenAccess(passwords, private) if kind == "token" else OpenAccess()


async def _serve_until_signal(registry: Registry, listen: str) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            address = await nursery.start(serve_registry, registry, listen)
            print(json.dumps({"address": address}), flush=True)
            async for _ in signals:
                nursery.cancel_scope.cancel()


if __name__ == "__main__":
    sys.exit(main())
