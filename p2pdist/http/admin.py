"""The admin endpoint of a daemon: is it alive, is it ready, what does it count, and what else the daemon adds.

For operators and probes on a private address; knows nothing of what the daemon does.
"""

import json
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from p2pdist.core.errors import NotFound
from p2pdist.http.server import Handler, Request, Response

Reasons = Callable[[], list[str]]
"""Why a daemon isn't ready, one sentence each; none when it is."""


def admin_handler(
    registry: CollectorRegistry, reasons: Reasons, routes: Mapping[tuple[str, str], Handler] | None = None
) -> Handler:
    """The handler of an admin listener: `/healthz`, `/readyz`, `/metrics`, and `routes` by method and path.

    A GET route answers HEAD too. Errors are sentences in plain text with the status that belongs to them.
    """

    async def healthz(_request: Request, response: Response) -> None:
        await _send_json(response, 200, {"healthy": True})

    async def readyz(_request: Request, response: Response) -> None:
        found = reasons()
        await _send_json(response, 503 if found else 200, {"ready": not found, "reasons": found})

    async def metrics(request: Request, response: Response) -> None:
        encode, content_type = choose_encoder(request.headers.get("accept") or "")
        await response.send(200, {"Content-Type": content_type}, encode(registry))

    table: dict[tuple[str, str], Handler] = {
        ("GET", "/healthz"): healthz,
        ("GET", "/readyz"): readyz,
        ("GET", "/metrics"): metrics,
        **(routes or {}),
    }

    async def handle(request: Request, response: Response) -> None:
        method = "GET" if request.method == "HEAD" else request.method
        found = table.get((method, request.path))
        if found is not None:
            await found(request, response)
            return
        allowed = sorted(known for known, path in table if path == request.path)
        if not allowed:
            raise NotFound(f"{request.path[:300]!r} isn't served here; {', '.join(sorted({p for _, p in table}))} are")
        await _refuse_method(request, response, allowed)

    return handle


async def _refuse_method(request: Request, response: Response, allowed: list[str]) -> None:
    sentence = f"{request.path} has no method {request.method}; it has {', '.join(allowed)}\n"
    headers = {"Content-Type": "text/plain; charset=utf-8", "Allow": ", ".join(allowed)}
    await response.send(405, headers, sentence.encode())


async def _send_json(response: Response, status: int, document: Mapping[str, object]) -> None:
    await response.send(status, {"Content-Type": "application/json"}, json.dumps(document).encode() + b"\n")
