import json

import pytest
from prometheus_client import CollectorRegistry, Counter

from p2pdist.core.errors import Unavailable
from p2pdist.http.admin import admin_handler
from p2pdist.http.server import Handler, Request, Response
from tests.fakes.raw_client import running_server


async def pull(request: Request, response: Response) -> None:
    await response.send(200, {}, ",".join(request.query["image"]).encode())


async def fail(_request: Request, _response: Response) -> None:
    raise Unavailable("the tracker doesn't answer")


@pytest.fixture
def reasons() -> list[str]:
    return []


@pytest.fixture
def handler(reasons: list[str]) -> Handler:
    registry = CollectorRegistry()
    Counter("pulls", "Pulls.", registry=registry).inc(3)
    return admin_handler(registry, lambda: reasons, {("POST", "/v1/pull"): pull, ("GET", "/v1/status"): fail})


async def test_health_and_readiness(handler: Handler, reasons: list[str]) -> None:
    async with running_server(handler) as server, server.connect() as client:
        answer = await client.get("/healthz")
        assert (answer.status, json.loads(answer.body)) == (200, {"healthy": True})
        answer = await client.get("/readyz")
        assert (answer.status, json.loads(answer.body)) == (200, {"ready": True, "reasons": []})
        reasons.append("no tracker")
        answer = await client.get("/readyz")
        assert (answer.status, json.loads(answer.body)) == (503, {"ready": False, "reasons": ["no tracker"]})
        answer = await client.get("/readyz", method="HEAD")
        assert (answer.status, answer.body) == (503, b"")
        assert (await client.get("/healthz")).status == 200


async def test_metrics_in_both_formats(handler: Handler) -> None:
    async with running_server(handler) as server, server.connect() as client:
        answer = await client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        assert b"\npulls_total 3.0\n" in answer.body
        answer = await client.get("/metrics", "Accept: application/openmetrics-text; version=1.0.0")
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert answer.body.endswith(b"# EOF\n")


async def test_routes_of_the_daemon_and_what_isnt_there(handler: Handler) -> None:
    async with running_server(handler) as server, server.connect() as client:
        assert (await client.get("/v1/pull?image=app", method="POST")).body == b"app"
        answer = await client.get("/v1/pull?image=app")
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
        answer = await client.get("/v1/status")
        assert (answer.status, answer.body) == (503, b"the tracker doesn't answer\n")
        answer = await client.get("/nothing")
        assert answer.status == 404
        assert b"/healthz" in answer.body
