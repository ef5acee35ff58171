"""The admin address's own routes: whole images, status, and who may ask."""

import json
import platform
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from p2pdist.agent.clients import Clients
from p2pdist.agent.guard import commands_only
from p2pdist.agent.image_pull import ImagePuller
from p2pdist.agent.passage import Source
from p2pdist.agent.report import BlobEvent, DoneEvent, ErrorEvent, ManifestEvent, PullEvent, Status
from p2pdist.agent.status import Reporter
from p2pdist.core.digest import Digest
from p2pdist.http.admin import admin_handler
from p2pdist.http.server import Request, Response
from p2pdist.wire.messages import Failed, Join, ManifestIs, ManifestWanted
from tests.fakes.origin_server import MANIFEST_TYPE, OriginServer
from tests.fakes.raw_client import TestServer, running_server

from .bench import NODE, PIECE_BYTES, Bench, Blob, running
from .scripted_tracker import Line

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
IMAGE = "/v1/pull?image=registry.example/library/app:1"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def manifest_of(*blobs: Blob) -> bytes:
    pointers = [{"mediaType": "application/x", "digest": str(blob.digest), "size": len(blob.data)} for blob in blobs]
    document = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": pointers[0], "layers": pointers[1:]}
    return json.dumps(document).encode()


def index_of(*manifests: tuple[bytes, str]) -> bytes:
    entries = [
        {
            "mediaType": MANIFEST_TYPE,
            "digest": str(Digest.of(body)),
            "size": len(body),
            "platform": {"os": "linux", "architecture": architecture},
        }
        for body, architecture in manifests
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}).encode()


@asynccontextmanager
async def serving(root: Path, origin: str | None = None) -> AsyncIterator[tuple[Bench, TestServer]]:
    async with running(root, origin=origin) as bench, trio.open_nursery() as nursery:
        reporter = Reporter(
            NODE,
            "host-1",
            {"127.0.0.1:7500": None},
            Clients(),
            bench.control,
            bench.library,
            bench.relays,
            bench.relay,
            bench.swarm,
            bench.store,
            bench.metrics,
        )
        bench.refresh = reporter.refresh_metrics
        routes = {
            ("GET", "/v1/status"): commands_only(reporter.handle, "test"),
            ("POST", "/v1/pull"): commands_only(ImagePuller(bench.library, nursery).handle, "test"),
        }
        async with running_server(admin_handler(bench.registry, reporter.why_not_ready, routes)) as server:
            yield bench, server
        nursery.cancel_scope.cancel()


async def manifest(line: Line, body: bytes, media_type: str = MANIFEST_TYPE) -> None:
    """Answer the next question for a manifest."""
    wanted = await line.next(ManifestWanted)
    await line.say(ManifestIs(wanted.id, str(Digest.of(body)), media_type, body, False))


async def refuse_joins(line: Line, count: int) -> None:
    """Have the next pulls end at the origin."""
    for _ in range(count):
        await line.say(Failed((await line.next(Join)).id, "UNAVAILABLE", 503, "try the origin"))


def events(body: bytes) -> list[PullEvent]:
    return [msgspec.json.decode(line, type=PullEvent) for line in body.splitlines()]


async def test_an_index_whose_blobs_are_partly_held(root: Path) -> None:
    config, layer, held = Blob(100, 1), Blob(3 * PIECE_BYTES, 2), Blob(500, 3)
    image = manifest_of(config, layer, held, layer)
    index = index_of((manifest_of(Blob(7)), "other"), (image, ARCHITECTURE))
    with OriginServer() as origin:
        for blob in (config, layer):
            origin.put_blob("library/app", blob.data)
        async with serving(root, origin.url) as (bench, server), server.connect() as client:
            with bench.store.begin(held.digest, held.layout, metainfo=held.metainfo) as partial:
                partial.write_piece(0, held.data)
                partial.commit()

            async def play() -> None:
                await manifest(bench.line, index, INDEX_TYPE)
                await manifest(bench.line, image)
                await refuse_joins(bench.line, 2)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(play)
                answer = await client.get(IMAGE, method="POST")
            assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson")
            told = events(answer.body)
            assert [each.digest for each in told if isinstance(each, ManifestEvent)] == [
                str(Digest.of(index)),
                str(Digest.of(image)),
            ]
            assert isinstance(told[0], ManifestEvent)
            done = told[-1]
            assert isinstance(done, DoneEvent)
            assert done.digest == str(Digest.of(index))
            assert (done.bytes.origin, done.bytes.store, done.bytes.swarm) == (100 + 3 * PIECE_BYTES, 500, 0)
            last = {each.digest: each for each in told if isinstance(each, BlobEvent)}
            assert {digest: (each.state, each.source) for digest, each in last.items()} == {
                str(config.digest): ("held", "origin"),
                str(layer.digest): ("held", "origin"),
                str(held.digest): ("held", "store"),
            }
            # Everything is here now: neither tracker nor origin is asked for a blob.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(manifest, bench.line, image)
                answer = await client.get(IMAGE, method="POST")
            done = events(answer.body)[-1]
            assert isinstance(done, DoneEvent)
            assert done.bytes.store == 600 + 3 * PIECE_BYTES


async def test_an_image_that_cannot_be_had(root: Path) -> None:
    image = manifest_of(Blob(100, 1))
    async with serving(root, "http://127.0.0.1:1") as (bench, server), server.connect() as client:

        async def play() -> None:
            await manifest(bench.line, image)
            await bench.line.say(Failed((await bench.line.next(Join)).id, "BLOB_UNKNOWN", 404, "no such blob"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(play)
            answer = await client.get(IMAGE, method="POST")
        last = events(answer.body)[-1]
        assert last == ErrorEvent(code="BLOB_UNKNOWN", message="no such blob")
        only_others = index_of((image, "other"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(manifest, bench.line, only_others, INDEX_TYPE)
            answer = await client.get(IMAGE, method="POST")
        last = events(answer.body)[-1]
        assert isinstance(last, ErrorEvent)
        assert last.code == "MANIFEST_UNKNOWN"


async def test_whoever_hangs_up_does_not_end_the_pull(root: Path) -> None:
    blobs = [Blob(100, seed) for seed in range(12)]
    image = manifest_of(*blobs)
    with OriginServer() as origin:
        for blob in blobs:
            origin.put_blob("library/app", blob.data)
        async with serving(root, origin.url) as (bench, server):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(manifest, bench.line, image)
                async with server.connect() as client:
                    await client.send(f"POST {IMAGE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
                    first = await bench.line.next(Join)
            await bench.line.say(Failed(first.id, "UNAVAILABLE", 503, "try the origin"))
            await refuse_joins(bench.line, len(blobs) - 1)
            await bench.until(lambda: all(bench.store.has(blob.digest) for blob in blobs))


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/v1/pull", 400),
        ("/v1/pull?image=", 400),
        ("/v1/pull?image=a&image=b", 400),
        ("/v1/pull?image=registry.example/UPPER:1", 400),
        ("/v1/pull?image=elsewhere.example/library/app:1", 404),
    ],
)
async def test_images_that_are_refused_at_once(root: Path, target: str, status: int) -> None:
    async with serving(root, "http://127.0.0.1:1") as (_, server), server.connect() as client:
        assert (await client.get(target, method="POST")).status == status


async def test_status_and_metrics(root: Path) -> None:
    blob = Blob(4 * PIECE_BYTES)
    async with serving(root) as (bench, server), server.connect() as client:
        bench.dealer.open(blob, bench.relay_port)
        pull = bench.library.want(Source("registry.example", "library/app", blob.digest))
        join = await bench.line.next(Join)
        await bench.line.say(blob.plan(join.id))
        bench.dealer.deal(blob, range(3))
        await bench.until(lambda: pull.received_bytes == 3 * PIECE_BYTES)
        status = msgspec.json.decode((await client.get("/v1/status")).body, type=Status)
        assert (status.name, status.node_id, status.tracker.connected) == ("host-1", NODE, True)
        (running_pull,) = status.pulls
        assert running_pull.digest == str(blob.digest)
        assert (running_pull.received_bytes, running_pull.source) == (3 * PIECE_BYTES, "relay")
        bench.dealer.deal(blob, [3])
        await bench.until(lambda: bench.store.has(blob.digest))
        status = msgspec.json.decode((await client.get("/v1/status")).body, type=Status)
        assert (status.blobs.count, status.blobs.bytes, status.bytes.dealt) == (1, len(blob.data), len(blob.data))
        for _ in range(2):
            metrics = (await client.get("/metrics")).body.decode()
            assert f'p2pdist_agent_received_bytes_total{{source="dealt"}} {float(len(blob.data))}' in metrics
            assert "p2pdist_agent_tracker_connects_total 1.0" in metrics
            assert "p2pdist_agent_tracker_connected 1.0" in metrics
        assert (await client.get("/readyz")).status == 200
        await bench.tracker.close()
        await bench.line.drop()
        await bench.until(lambda: not bench.control.connected)
        answer = await client.get("/readyz")
        assert answer.status == 503
        assert "isn't connected" in answer.body.decode()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:7503"}, 200),
        ({"Host": "[::1]:7503"}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "agent.example:7503"}, 200),
        ({"Host": "evil.example:7503"}, 403),
        ({"Host": "127.0.0.1:7503", "Origin": "http://evil.example"}, 403),
        ({"Host": "127.0.0.1:7503", "Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
async def test_web_pages_are_refused(headers: dict[str, str], status: int) -> None:
    async def handler(_: Request, response: Response) -> None:
        await response.send(200, {}, b"")

    async with running_server(commands_only(handler, "agent.example")) as server, server.connect() as client:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        await client.send(f"POST /v1/pull HTTP/1.1\r\n{lines}Content-Length: 0\r\n\r\n".encode())
        assert (await client.answer("POST")).status == status
