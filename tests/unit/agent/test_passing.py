import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry

from p2pdist.agent import passing
from p2pdist.agent.passing import PassThrough
from p2pdist.agent.service import Upstreams
from p2pdist.agent.shim import Shim
from p2pdist.core.digest import Digest
from p2pdist.oci.upstream import Upstream
from p2pdist.telemetry.metrics import AgentMetrics
from tests.fakes.content import FakeContent
from tests.fakes.origin_server import OriginServer, Reply, TokenServer, image_manifest, oci_error
from tests.fakes.raw_client import RawClient, running_server

BLOB = b"x" * 1_000_000
DIGEST = Digest.of(BLOB)
UPLOADS = "/v2/team/app/blobs/uploads/"
SESSION = "/v2/team/app/blobs/uploads/one"


@pytest.fixture
def origin() -> Iterator[OriginServer]:
    with OriginServer() as server:
        yield server


class Bench:
    """A shim whose default upstream is a server of the test, which knows it as `registry.test` too."""

    def __init__(self, origin: OriginServer) -> None:
        self.content = FakeContent("registry.test", "other.test")
        self.upstreams = Upstreams(
            {
                "registry.test": Upstream("registry.test", origin.url),
                "other.test": Upstream("other.test", "http://127.0.0.1:9"),
            }
        )
        self.registry = CollectorRegistry()
        self.metrics = AgentMetrics(self.registry)

    @asynccontextmanager
    async def client(self, *, login: bool = False) -> AsyncIterator[RawClient]:
        elsewhere = PassThrough(self.upstreams, "me")
        ours = ("me", "tracker")
        shim = Shim(self.content, elsewhere, self.metrics, "registry.test", login=login, ours=lambda: ours)
        try:
            async with running_server(shim) as server, server.connect() as client:
                yield client
        finally:
            elsewhere.close()

    def requests(self, kind: str, status: str) -> float:
        labels = {"kind": kind, "status": status}
        return self.registry.get_sample_value("p2pdist_agent_shim_requests_total", labels) or 0


@pytest.fixture
def bench(origin: OriginServer) -> Iterator[Bench]:
    bench = Bench(origin)
    yield bench
    bench.content.close()


def serve_upload(origin: OriginServer, location: str = SESSION) -> None:
    headers = {"Location": location, "Range": "0-0", "Docker-Upload-UUID": "one"}
    origin.put(UPLOADS, Reply(202, headers))
    done = {"Location": f"/v2/team/app/blobs/{DIGEST}", "Docker-Content-Digest": str(DIGEST)}
    origin.put(SESSION, Reply(201, done))


@pytest.mark.parametrize(
    ("base", "query"),
    [
        ("/v2/team/app", ""),
        ("/v2/registry.test/team/app", ""),
        ("/registry.test/v2/team/app", ""),
        ("/v2/team/app", "?ns=registry.test"),
    ],
)
async def test_a_push_comes_back_by_the_name_that_the_client_uses(
    bench: Bench, origin: OriginServer, base: str, query: str
) -> None:
    serve_upload(origin)
    async with bench.client() as client:
        begun = await client.get(f"{base}/blobs/uploads/{query}", "Content-Length: 0", method="POST")
        assert (begun.status, begun.headers["location"]) == (202, f"{base}/blobs/uploads/one{query}")
        assert (begun.headers["range"], begun.headers["docker-upload-uuid"]) == ("0-0", "one")
        digest = f"{'&' if query else '?'}digest={DIGEST}"
        lines = f"Content-Length: {len(BLOB)}", "Content-Type: application/octet-stream", "Content-Range: 0-999999"
        await client.request(begun.headers["location"] + digest, *lines, method="PUT", body=BLOB)
        put = await client.answer("PUT")
        assert (put.status, put.headers["location"]) == (201, f"{base}/blobs/{DIGEST}{query}")
    [seen] = origin.seen(SESSION)
    assert (seen.method, seen.body) == ("PUT", BLOB)
    assert seen.query == {"digest": [str(DIGEST)]}
    assert seen.headers["content-range"] == "0-999999"
    assert bench.requests("push", "202") == bench.requests("push", "201") == 1


async def test_a_chunked_body_goes_on_chunked_and_cut_ones_dont_look_whole(bench: Bench, origin: OriginServer) -> None:
    origin.put(SESSION, Reply(202, {"Location": SESSION, "Range": "0-4"}))
    async with bench.client() as client:
        await client.request(SESSION, "Transfer-Encoding: chunked", method="PATCH", body=b"5\r\nhello\r\n0\r\n\r\n")
        assert (await client.answer("PATCH")).status == 202
        await client.request(SESSION, "Content-Length: 10", method="PATCH", body=b"hello")
        await client.stream.send_eof()
        assert (await client.answer("PATCH")).status == 400
    [seen] = origin.seen(SESSION)
    assert (seen.body, seen.headers["transfer-encoding"]) == (b"hello", "chunked")


async def test_the_body_is_sent_on_before_it_is_whole(bench: Bench) -> None:
    arrived = trio.Event()

    async def upstream(stream: trio.SocketStream) -> None:
        received = b""
        while b"first" not in received:
            received += await stream.receive_some()
        arrived.set()
        while b"last" not in received:
            received += await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, upstream, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        bench.upstreams = Upstreams({"registry.test": Upstream("registry.test", f"http://127.0.0.1:{port}")})
        async with bench.client() as client:
            await client.request(SESSION, "Content-Length: 9", method="PUT", body=b"first")
            await arrived.wait()
            await client.send(b"last")
            assert (await client.answer("PUT")).status == 201
        nursery.cancel_scope.cancel()


async def test_a_body_beyond_the_limit_is_refused(
    bench: Bench, origin: OriginServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passing, "MAX_BODY_BYTES", 4)
    async with bench.client() as client:
        await client.request(SESSION, "Content-Length: 5", method="PUT", body=b"hello")
        assert (await client.answer("PUT")).status == 413
    async with bench.client() as client:
        await client.request(SESSION, "Transfer-Encoding: chunked", method="PUT", body=b"5\r\nhello\r\n0\r\n\r\n")
        assert (await client.answer("PUT")).status == 413
    assert origin.seen(SESSION) == []


@pytest.mark.parametrize(
    ("path", "source", "sent"),
    [
        ("/v2/team/app", "team/base", "team/base"),
        ("/v2/registry.test/team/app", "registry.test/team/base", "team/base"),
        ("/registry.test/v2/team/app", "other.test/base", "other.test/base"),
        ("/v2/registry.test/team/app", "other.test/base", None),
        ("/v2/team/app", "BAD", None),
    ],
)
async def test_the_source_of_a_mount_is_named_as_the_upstream_knows_it(
    bench: Bench, origin: OriginServer, path: str, source: str, sent: str | None
) -> None:
    serve_upload(origin)
    async with bench.client() as client:
        target = f"{path}/blobs/uploads/?mount={DIGEST}&from={source}"
        assert (await client.get(target, "Content-Length: 0", method="POST")).status == 202
    expected = {} if sent is None else {"mount": [str(DIGEST)], "from": [sent]}
    assert origin.seen(UPLOADS)[0].query == expected


async def test_only_the_upstream_gets_the_callers_authorization(bench: Bench, origin: OriginServer) -> None:
    secret = "Authorization: Bearer of-the-caller"
    with OriginServer() as storage:
        storage.put("/list", Reply(body=b'{"tags": []}'))
        origin.put("/v2/team/app/tags/list", Reply(307, {"Location": f"{storage.url}/list"}))
        origin.put(UPLOADS, Reply(307, {"Location": f"{storage.url}/upload"}))
        async with bench.client() as client:
            assert (await client.get("/v2/team/app/tags/list", secret)).body == b'{"tags": []}'
            begun = await client.get(UPLOADS, secret, "Content-Length: 0", method="POST")
            assert (begun.status, begun.headers["location"]) == (307, f"{storage.url}/upload")
        assert [seen.headers.get("authorization") for seen in storage.requests] == [None]
    assert {seen.headers["authorization"] for seen in origin.requests} == {"Bearer of-the-caller"}


async def test_what_isnt_for_the_upstream_stays_here(bench: Bench, origin: OriginServer) -> None:
    origin.put("/v2/team/app/tags/list", Reply(200, {"Set-Cookie": "a=b", "X-Secret": "1"}, b"{}"))
    lines = "Cookie: a=b", "Proxy-Authorization: Basic eA==", "X-Mine: 1", "Accept: application/json", "Connection: x"
    async with bench.client() as client:
        answer = await client.get("/v2/team/app/tags/list", *lines)
    assert {"set-cookie", "x-secret"}.isdisjoint(answer.headers)
    [seen] = origin.requests
    assert seen.headers["accept"] == "application/json"
    assert {"cookie", "proxy-authorization", "x-mine", "connection"}.isdisjoint(seen.headers)


async def test_a_list_goes_on_page_by_page(bench: Bench, origin: OriginServer) -> None:
    body = json.dumps({"name": "team/app", "tags": ["a", "b"]}).encode()
    link = {"Link": '</v2/team/app/tags/list?last=b&n=2>; rel="next"', "Content-Type": "application/json"}
    origin.put("/v2/team/app/tags/list", Reply(200, link, body))
    async with bench.client() as client:
        answer = await client.get("/v2/registry.test/team/app/tags/list?n=2&ns=")
        assert answer.status == 404
        answer = await client.get("/v2/registry.test/team/app/tags/list?n=2")
    assert (answer.status, answer.body) == (200, body)
    assert answer.headers["link"] == '</v2/registry.test/team/app/tags/list?last=b&n=2>; rel="next"'
    assert origin.requests[-1].target == "/v2/team/app/tags/list?n=2"
    assert bench.requests("list", "200") == 1


async def test_referrers_are_what_the_upstream_says(bench: Bench, origin: OriginServer) -> None:
    path = f"/v2/team/app/referrers/{DIGEST}"
    index = b'{"schemaVersion": 2, "manifests": []}'
    media_type = "application/vnd.oci.image.index.v1+json"
    async with bench.client() as client:
        assert (await client.get(path)).status == 404
        origin.put(path, Reply(200, {"Content-Type": media_type, "OCI-Filters-Applied": "artifactType"}, index))
        answer = await client.get(f"{path}?artifactType=application%2Fx")
        assert (answer.status, answer.body, answer.headers["content-type"]) == (200, index, media_type)
        assert answer.headers["oci-filters-applied"] == "artifactType"
        head = await client.get(path, method="HEAD")
        assert (head.status, head.headers["content-length"], head.body) == (200, str(len(index)), b"")
        assert (await client.get("/v2/team/app/referrers/sha256:12")).status == 400
    assert origin.requests[1].query == {"artifactType": ["application/x"]}


async def test_a_list_that_is_open_to_anybody_with_a_token_is_got_with_one(bench: Bench, origin: OriginServer) -> None:
    origin.put("/v2/team/app/tags/list", Reply(body=b"[]"))
    TokenServer(origin, {"me": "secret"}, public=("team/app/tags/list",))
    async with bench.client() as client:
        assert (await client.get("/v2/team/app/tags/list")).status == 200


async def test_a_refusal_comes_back_with_its_challenge(bench: Bench, origin: OriginServer) -> None:
    tokens = TokenServer(origin, {"me": "secret"})
    tokens.anonymous_refused = True
    serve_upload(origin)
    async with bench.client() as client:
        for method, path in (("GET", "/v2/team/app/tags/list"), ("POST", UPLOADS)):
            answer = await client.get(path, "Content-Length: 0", method=method)
            assert answer.status == 401
            assert answer.headers["www-authenticate"].startswith(f'Bearer realm="{origin.url}/token"')
            assert json.loads(answer.body)["errors"][0]["code"] == "UNAUTHORIZED"


async def test_an_upstream_that_isnt_there_is_said_to_be_unavailable(bench: Bench) -> None:
    async with bench.client() as client:
        answer = await client.get("/v2/other.test/app/tags/list")
        assert (answer.status, json.loads(answer.body)["errors"][0]["code"]) == (503, "UNAVAILABLE")
        answer = await client.get("/v2/other.test/app/blobs/uploads/", "Content-Length: 0", method="POST")
        assert answer.status == 503


async def test_an_answer_that_breaks_off_ends_short(bench: Bench, origin: OriginServer) -> None:
    origin.put("/v2/team/app/tags/list", Reply(body=b"x" * 500_000, cut_after=300_000))
    async with bench.client() as client:
        answer = await client.get("/v2/team/app/tags/list")
        assert (answer.status, answer.complete, answer.body) == (200, False, b"x" * 300_000)
        assert await client.ending() == "fin"


async def test_a_client_that_hangs_up_ends_the_request_upstream(bench: Bench, origin: OriginServer) -> None:
    origin.put("/v2/team/app/tags/list", Reply(body=b"x" * 500_000, hang_after=300_000))
    async with bench.client() as client:
        await client.request("/v2/team/app/tags/list")
        await trio.to_thread.run_sync(origin.hanging.wait)


async def test_web_pages_may_not_write(bench: Bench, origin: OriginServer) -> None:
    async with bench.client() as client:
        page = "Origin: http://evil.test"
        assert (await client.get(UPLOADS, page, "Content-Length: 0", method="POST")).status == 403
    assert origin.requests == []


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v2/", "GET, HEAD"),
        ("POST", "/v2/team/app/manifests/1", "GET, HEAD, PUT, DELETE"),
        ("PUT", f"/v2/team/app/blobs/{DIGEST}", "GET, HEAD, DELETE"),
        ("GET", UPLOADS, "POST"),
        ("POST", SESSION, "GET, PATCH, PUT, DELETE"),
        ("DELETE", "/v2/team/app/tags/list", "GET, HEAD"),
    ],
)
async def test_what_a_thing_hasnt_is_not_allowed(bench: Bench, method: str, path: str, allowed: str) -> None:
    async with bench.client() as client:
        answer = await client.get(path, method=method)
        assert (answer.status, answer.headers["allow"]) == (405, allowed)


async def test_what_was_deleted_here_is_asked_for_upstream(bench: Bench, origin: OriginServer) -> None:
    bench.content.add_blob("registry.test", "team/app", BLOB)
    path = f"/v2/team/app/blobs/{DIGEST}"
    origin.put(path, Reply(202))
    serve_upload(origin)
    async with bench.client() as client:
        assert (await client.get(path)).body == BLOB
        assert (await client.get(path, method="DELETE")).status == 202
        origin.put(path, oci_error(404, "BLOB_UNKNOWN"))
        for method in ("GET", "HEAD"):
            assert (await client.get(path, method=method)).status == 404
        await client.request(f"{SESSION}?digest={DIGEST}", "Content-Length: 1", method="PUT", body=b"x")
        assert (await client.answer("PUT")).status == 201
        assert (await client.get(path)).body == BLOB


async def test_a_refused_deletion_changes_nothing(bench: Bench, origin: OriginServer) -> None:
    bench.content.add_blob("registry.test", "team/app", BLOB)
    path = f"/v2/team/app/blobs/{DIGEST}"
    origin.put(path, oci_error(405, "UNSUPPORTED", Allow="GET"))
    async with bench.client() as client:
        answer = await client.get(path, method="DELETE")
        assert (answer.status, answer.headers["allow"]) == (405, "GET")
        assert (await client.get(path)).body == BLOB


async def test_an_upstream_that_moves_is_followed(bench: Bench, origin: OriginServer) -> None:
    with OriginServer() as moved:
        for server, body in ((origin, b"old"), (moved, b"new")):
            server.put("/v2/team/app/tags/list", Reply(body=body))
        async with bench.client() as client:
            assert (await client.get("/v2/team/app/tags/list")).body == b"old"
            bench.upstreams._configured["registry.test"] = Upstream("registry.test", moved.url)
            assert (await client.get("/v2/team/app/tags/list")).body == b"new"


async def test_a_registry_of_the_internet_sends_nobody_inside(
    bench: Bench, origin: OriginServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pdist.http.dial.is_private", lambda address: address != "127.0.0.2")
    with OriginServer(host="127.0.0.2") as outside:
        bench.upstreams = Upstreams({"registry.test": Upstream("registry.test", outside.url)})
        challenge = f'Bearer realm="{origin.url}/token"'
        outside.guard = lambda seen: oci_error(401, "UNAUTHORIZED", WWW_Authenticate=challenge)
        async with bench.client() as client:
            for lines, method in ((("Content-Length: 0",), "POST"), (("Authorization: Basic eA==",), "DELETE")):
                path = UPLOADS if method == "POST" else SESSION
                answer = await client.get(path, *lines, method=method)
                assert answer.status == 502
                assert "www-authenticate" not in answer.headers
            outside.guard = lambda seen: Reply(307, {"Location": f"{origin.url}/x"})
            assert (await client.get("/v2/team/app/tags/list")).status == 502
    assert origin.connections == 0


async def test_with_login_the_upstream_says_who_must_log_in(bench: Bench, origin: OriginServer) -> None:
    origin.put("/v2/", Reply(200, {"Docker-Distribution-API-Version": "registry/2.0"}, b"{}"))
    TokenServer(origin, {"me": "secret"}).valid.add("user-1")
    async with bench.client(login=True) as client:
        answer = await client.get("/v2/")
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith(f'Bearer realm="{origin.url}/token"')
        answer = await client.get("/v2/", "Authorization: Bearer user-1")
        assert (answer.status, answer.body) == (200, b"{}")
        origin.script("/v2/", oci_error(500, "UNKNOWN"))
        origin.guard = lambda seen: None
        assert (await client.get("/v2/")).status == 200
    async with bench.client() as client:
        assert (await client.get("/v2/")).status == 200
    assert len(origin.seen("/v2/")) == 3


async def test_an_upstream_that_is_down_keeps_nobody_from_what_is_here(bench: Bench) -> None:
    bench.upstreams = Upstreams({"registry.test": Upstream("registry.test", "http://127.0.0.1:9")})
    async with bench.client(login=True) as client:
        assert (await client.get("/v2/")).body == b"{}"


async def test_whether_somebody_must_upload_a_blob_his_password_tells(bench: Bench, origin: OriginServer) -> None:
    bench.content.add_blob("registry.test", "team/app", BLOB)
    path = f"/v2/team/app/blobs/{DIGEST}"
    async with bench.client() as client:
        assert (await client.get(path, method="HEAD")).status == 200
        assert (await client.get(path, "Authorization: Basic bWU6c2VjcmV0", method="HEAD")).status == 404
    [seen] = origin.requests
    assert (seen.method, seen.headers["authorization"]) == ("HEAD", "Basic bWU6c2VjcmV0")


@pytest.mark.parametrize("node", ["me", "tracker"])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v2/team/app/manifests/1"), ("GET", f"/v2/team/app/blobs/{DIGEST}"), ("HEAD", "/v2/"), ("POST", UPLOADS)],
)
async def test_a_request_that_comes_back_isnt_served(
    bench: Bench, origin: OriginServer, node: str, method: str, path: str
) -> None:
    via = f"Via: 1.1 p2pdist-other, 1.0 cache.test, 1.1 p2pdist-{node}"
    async with bench.client() as client:
        assert (await client.get(path, via, "Content-Length: 0", method=method)).status == 404
    assert origin.requests == []
    assert bench.content.requests == []


async def test_another_fleet_is_passed_on_under_our_name(bench: Bench, origin: OriginServer) -> None:
    body = image_manifest()
    digest = origin.put_manifest("team/app", "1", body)
    origin.put_blob("team/app", BLOB)
    async with bench.client() as client:
        answer = await client.get("/v2/team/app/manifests/1", "Via: 1.1 p2pdist-other")
        assert (answer.status, answer.body, answer.headers["docker-content-digest"]) == (200, body, str(digest))
        answer = await client.get(f"/v2/team/app/blobs/{DIGEST}", "Via: 1.1 p2pdist-other", "Range: bytes=5-9")
        assert (answer.status, answer.body, answer.headers["content-range"]) == (206, b"xxxxx", "bytes 5-9/1000000")
        assert (await client.get("/v2/other.test/app/manifests/1", "Via: 1.1 p2pdist-other")).status == 404
        await client.get("/v2/team/app/tags/list")
    assert bench.content.requests == []
    assert [seen.headers["via"] for seen in origin.requests] == ["1.1 p2pdist-other, 1.1 p2pdist-me"] * 2 + [
        "1.1 p2pdist-me"
    ]
