import email
import email.policy
import json
import random
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
from prometheus_client import CollectorRegistry

from p2pdist.agent.content import Content, ManifestContent
from p2pdist.agent.passing import PassThrough
from p2pdist.agent.service import Upstreams
from p2pdist.agent.shim import Shim
from p2pdist.core.digest import Digest
from p2pdist.core.errors import Denied, DigestInvalid, ProtocolError, StoreError, Unavailable
from p2pdist.http.server import Limits
from p2pdist.oci.bearer import BearerToken
from p2pdist.oci.challenge import Challenge
from p2pdist.oci.errors import Unauthorized
from p2pdist.telemetry.metrics import AgentMetrics
from tests.fakes.content import FakeContent
from tests.fakes.raw_client import Answer, TestServer, running_server

INDEX = "application/vnd.oci.image.index.v1+json"
BODY = b'{"schemaVersion": 2}'
DATA = random.Random(20).randbytes(1_000_000)
DIGEST = Digest.of(DATA)
BLOB = f"/v2/library/app/blobs/{DIGEST}?ns=docker.io"


class Bench:
    """A shim on a socket, its content and its metrics."""

    def __init__(self) -> None:
        self.content = FakeContent("docker.io", "localhost:5000")
        self.registry = CollectorRegistry()
        content: Content = self.content
        self.passing = PassThrough(Upstreams({}))
        self.shim = Shim(content, self.passing, AgentMetrics(self.registry), "docker.io")

    @asynccontextmanager
    async def running(self, limits: Limits | None = None) -> AsyncIterator[TestServer]:
        async with running_server(self.shim, limits) as server:
            yield server

    def requests(self, kind: str, status: str) -> float:
        labels = {"kind": kind, "status": status}
        return self.registry.get_sample_value("p2pdist_agent_shim_requests_total", labels) or 0

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"p2pdist_agent_{name}", labels)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.content.close()
    bench.passing.close()


def codes(answer: Answer) -> list[str]:
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
    return [error["code"] for error in json.loads(answer.body)["errors"]]


async def test_it_is_a_registry(bench: Bench) -> None:
    async with bench.running() as server, server.connect() as client:
        for target in ("/v2/", "/v2/?ns=docker.io", "/docker.io/v2/"):
            answer = await client.get(target)
            assert (answer.status, answer.body) == (200, b"{}")
            assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
        answer = await client.get("/v2/", method="HEAD")
        assert (answer.status, answer.headers["content-length"]) == (200, "2")
    assert bench.requests("version", "200") == 4


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_manifest_by_tag_and_by_digest(bench: Bench, method: str) -> None:
    digest = bench.content.add_manifest("docker.io", "library/app", "1.2", INDEX, BODY)
    async with bench.running() as server, server.connect() as client:
        for reference in ("1.2", digest):
            answer = await client.get(f"/v2/library/app/manifests/{reference}?ns=docker.io", method=method)
            assert answer.status == 200
            assert answer.headers["content-type"] == INDEX
            assert answer.headers["docker-content-digest"] == str(digest)
            assert answer.headers["content-length"] == str(len(BODY))
            assert answer.headers["etag"] == f'"{digest}"'
            assert "content-encoding" not in answer.headers
            assert answer.body == (BODY if method == "GET" else b"")
    assert bench.requests("manifest", "200") == 2


async def test_the_upstream_comes_from_the_request(bench: Bench) -> None:
    async with bench.running() as server, server.connect() as client:
        for target in (
            "/v2/app/manifests/1?ns=localhost%3A5000",
            "/v2/localhost:5000/app/manifests/1",
            "/v2/localhost%3A5000/app/manifests/1",
            "/localhost:5000/v2/app/manifests/1",
            "/v2/app/manifests/1",
        ):
            assert codes(await client.get(target)) == ["MANIFEST_UNKNOWN"]
    assert bench.content.requests == ["localhost:5000 app 1"] * 4 + ["docker.io library/app 1"]


async def test_only_configured_upstreams_are_asked(bench: Bench) -> None:
    async with bench.running() as server, server.connect() as client:
        answer = await client.get("/v2/app/manifests/1?ns=ghcr.io")
        assert (answer.status, codes(answer)) == (404, ["NAME_UNKNOWN"])
        assert "ghcr.io" in answer.body.decode()
    assert bench.content.requests == []


async def test_accept_lines_are_one_list_and_decide(bench: Bench) -> None:
    bench.content.add_manifest("docker.io", "library/app", "1.2", INDEX, BODY)
    async with bench.running() as server, server.connect() as client:
        target = "/v2/app/manifests/1.2"
        assert (await client.get(target, "Accept: application/json", f"Accept: {INDEX}")).status == 200
        assert (await client.get(target, "Accept: */*")).status == 200
        answer = await client.get(target, "Accept: application/vnd.oci.image.manifest.v1+json")
        assert (answer.status, codes(answer)) == (404, ["MANIFEST_UNKNOWN"])


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("GET", "/", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/_catalog", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/app/manifests/1", 404, "MANIFEST_UNKNOWN"),
        ("GET", f"/v2/app/blobs/{DIGEST}", 404, "BLOB_UNKNOWN"),
        ("GET", "/v2/app/blobs/sha256:123", 400, "DIGEST_INVALID"),
        ("GET", "/v2/app/manifests/sha256:123", 400, "DIGEST_INVALID"),
        ("GET", "/v2/APP/manifests/1", 400, "NAME_INVALID"),
        ("GET", "/v2/app/manifests/1?ns=docker.io&ns=localhost:5000", 400, "NAME_INVALID"),
        ("PUT", "/v2/", 405, "UNSUPPORTED"),
        ("PUT", "/v2/app/tags/list", 405, "UNSUPPORTED"),
    ],
)
async def test_errors_have_oci_bodies(bench: Bench, method: str, target: str, status: int, code: str) -> None:
    async with bench.running() as server, server.connect() as client:
        answer = await client.get(target, method=method)
        assert (answer.status, codes(answer)) == (status, [code])
        assert (answer.headers.get("allow") == "GET, HEAD") is (status == 405)
        if method == "GET":
            assert (await client.get(target, method="HEAD")).status == status
        assert (await client.get("/v2/")).status == 200


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("no tracker"),
        Denied("no right"),
        ProtocolError("garbage"),
        StoreError("full"),
        DigestInvalid("liar"),
    ],
)
async def test_whatever_cant_be_had_is_a_404_before_the_header(bench: Bench, error: Exception) -> None:
    bench.content.errors = {"1.2": error, str(DIGEST): error}
    async with bench.running() as server, server.connect() as client:
        answer = await client.get("/v2/app/manifests/1.2")
        assert (answer.status, codes(answer)) == (404, ["MANIFEST_UNKNOWN"])
        assert str(error) in answer.body.decode()
        answer = await client.get(BLOB)
        assert (answer.status, codes(answer)) == (404, ["BLOB_UNKNOWN"])
        assert (await client.get(BLOB, method="HEAD")).status == 404


def test_a_manifest_with_other_bytes_cant_even_be_made() -> None:
    with pytest.raises(DigestInvalid, match="other bytes"):
        ManifestContent(Digest.of(BODY), INDEX, BODY + b" ")


async def test_a_blob_that_is_there(bench: Bench) -> None:
    bench.content.add_blob("docker.io", "library/app", DATA)
    async with bench.running() as server, server.connect() as client:
        for method, body in (("GET", DATA), ("HEAD", b"")):
            answer = await client.get(BLOB, method=method)
            assert (answer.status, answer.complete, answer.body == body) == (200, True, True)
            assert answer.headers["content-length"] == "1000000"
            assert answer.headers["content-type"] == "application/octet-stream"
            assert answer.headers["docker-content-digest"] == str(DIGEST)
            assert answer.headers["accept-ranges"] == "bytes"
            assert "content-encoding" not in answer.headers
    assert bench.value("sent_bytes_total", sink="shim") == 1_000_000
    assert bench.value("first_byte_seconds_count") == 1
    assert bench.requests("blob", "200") == 2


async def test_an_empty_blob(bench: Bench) -> None:
    blob = bench.content.add_blob("docker.io", "library/app", b"")
    async with bench.running() as server, server.connect() as client:
        for line in ("X: y", "Range: bytes=0-"):
            answer = await client.get(f"/v2/app/blobs/{blob.digest}", line)
            assert (answer.status, answer.headers["content-length"], answer.complete) == (200, "0", True)


@pytest.mark.parametrize(
    ("field", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=9-99", 9, 100),
        ("bytes=999999-", 999_999, 1_000_000),
        ("bytes=-5", 999_995, 1_000_000),
    ],
)
async def test_one_range_is_answered_with_that_part(bench: Bench, field: str, start: int, end: int) -> None:
    bench.content.add_blob("docker.io", "library/app", DATA)
    async with bench.running() as server, server.connect() as client:
        answer = await client.get(BLOB, f"Range: {field}", f'If-Range: "{DIGEST}"')
        assert answer.status == 206
        assert answer.body == DATA[start:end]
        assert answer.headers["content-length"] == str(end - start)
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/1000000"
        assert answer.headers["docker-content-digest"] == str(DIGEST)
    assert bench.content.taken == [(DIGEST, False)]


async def test_ranges_that_cant_be_satisfied_and_ranges_that_are_ignored(bench: Bench) -> None:
    bench.content.add_blob("docker.io", "library/app", DATA)
    async with bench.running() as server, server.connect() as client:
        answer = await client.get(BLOB, "Range: bytes=1000000-")
        assert (answer.status, codes(answer)) == (416, ["RANGE_INVALID"])
        assert answer.headers["content-range"] == "bytes */1000000"
        too_much = "Range: bytes=0-999999,0-0"
        for lines in ([too_much], ["Range: lines=1-2"], ["Range: bytes=0-5", 'If-Range: "other"']):
            answer = await client.get(BLOB, *lines)
            assert (answer.status, len(answer.body)) == (200, 1_000_000)
    assert bench.content.taken == [(DIGEST, True)] * 3


def parts_of(answer: Answer) -> list[tuple[str, bytes]]:
    """Content-Range and bytes of each part, by a reader of mail, which knows nothing of ours."""
    head = f"Content-Type: {answer.headers['content-type']}\n\n".encode()
    message = email.message_from_bytes(head + answer.body, policy=email.policy.HTTP)
    assert message.is_multipart()
    return [(part["content-range"], part.get_payload(decode=True)) for part in message.iter_parts()]


async def test_three_hundred_ranges_in_one_field_are_three_hundred_parts(bench: Bench) -> None:
    bench.content.add_blob("docker.io", "library/app", DATA)
    starts = random.Random(300).sample(range(900_000), 300)
    wanted = [(start, start + 1 + start % 3000) for start in starts]
    field = ",".join(f"{start}-{end - 1}" for start, end in wanted)
    async with bench.running() as server, server.connect() as client:
        for _ in range(2):
            answer = await client.get(BLOB, f"Range: bytes={field}")
            assert (answer.status, answer.complete) == (206, True)
            assert answer.headers["content-length"] == str(len(answer.body))
            assert "content-range" not in answer.headers
            assert answer.headers["docker-content-digest"] == str(DIGEST)
            expected = [(f"bytes {start}-{end - 1}/1000000", len(DATA[start:end])) for start, end in wanted]
            framing = r"\r\n--(\S+)\r\nContent-Type: application/octet-stream\r\nContent-Range: (.+)\r\n\r\n"
            rest, found = answer.body, []
            for start, end in wanted:
                match = re.match(framing.encode(), rest)
                assert match is not None
                found.append((match[2].decode(), end - start))
                assert rest[match.end() : match.end() + end - start] == DATA[start:end]
                rest = rest[match.end() + end - start :]
            assert found == expected
            assert rest == b"\r\n--" + match[1] + b"--\r\n"
    assert bench.content.taken == [(DIGEST, False)] * 2


async def test_parts_of_a_blob_that_is_still_arriving(bench: Bench) -> None:
    text = random.Random(21).randbytes(500_000).hex().encode()
    blob = bench.content.expect_blob("docker.io", "library/app", Digest.of(text), len(text))
    async with bench.running() as server, server.connect() as client:
        await client.request(f"/v2/app/blobs/{blob.digest}", "Range: bytes=600000-600009,10-19, -7")
        await blob.awaited.wait()
        blob.awaited = trio.Event()
        blob.arrive(text[:700_000])
        await blob.awaited.wait()
        blob.arrive(text[700_000:])
        answer = await client.answer()
        assert answer.status == 206
        assert parts_of(answer) == [
            ("bytes 600000-600009/1000000", text[600_000:600_010]),
            ("bytes 10-19/1000000", text[10:20]),
            ("bytes 999993-999999/1000000", text[-7:]),
        ]


async def test_one_range_that_is_left_of_several_is_sent_as_one(bench: Bench) -> None:
    bench.content.add_blob("docker.io", "library/app", DATA)
    async with bench.running() as server, server.connect() as client:
        answer = await client.get(BLOB, "Range: bytes=5-9,2000000-2000001")
        assert (answer.status, answer.body) == (206, DATA[5:10])
        assert answer.headers["content-range"] == "bytes 5-9/1000000"


async def test_a_header_that_waits_too_long_leaves_before_the_first_bytes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pdist.agent.blob_answer.HEADER_SECONDS", 0.2)
    blob = bench.content.expect_blob("docker.io", "library/app", DIGEST, len(DATA))
    async with bench.running() as server, server.connect() as client:
        await client.request(BLOB)
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            received += await client.stream.receive_some()
        assert received.startswith(b"HTTP/1.1 200 ")
        blob.arrive(DATA)
        received = b""
        while len(received) < len(DATA):
            received += await client.stream.receive_some()
        assert received == DATA


async def test_bytes_leave_while_the_rest_is_still_to_come(bench: Bench) -> None:
    blob = bench.content.expect_blob("docker.io", "library/app", DIGEST, len(DATA))
    async with bench.running() as server, server.connect() as client, server.connect() as other:
        await client.request(BLOB)
        await other.request(BLOB, "Range: bytes=500000-")
        received = b""
        for start in range(0, 1_000_000, 100_000):
            await blob.awaited.wait()
            blob.arrive(DATA[start : start + 100_000])
            while received.partition(b"\r\n\r\n")[2] != DATA[: start + 100_000]:
                received += await client.stream.receive_some()
        assert (await other.answer()).body == DATA[500_000:]
    assert blob.readers == 0


async def test_the_header_waits_for_the_first_bytes_so_that_a_404_stays_possible(bench: Bench) -> None:
    blob = bench.content.expect_blob("docker.io", "library/app", DIGEST, len(DATA))
    async with bench.running() as server, server.connect() as client:
        await client.request(BLOB)
        await blob.awaited.wait()
        blob.fail(Unavailable("everything is down"))
        answer = await client.answer()
        assert (answer.status, codes(answer)) == (404, ["BLOB_UNKNOWN"])
        assert (await client.get("/v2/")).status == 200


async def test_a_blob_that_fails_after_the_header_ends_by_fin_and_can_be_resumed(bench: Bench) -> None:
    blob = bench.content.expect_blob("docker.io", "library/app", DIGEST, len(DATA))
    blob.arrive(DATA[:400_000])
    async with bench.running() as server:
        async with server.connect() as client:
            await client.request(BLOB)
            await blob.awaited.wait()
            blob.fail(Unavailable("everything is down"))
            answer = await client.answer()
            assert (answer.status, answer.complete, answer.body == DATA[:400_000]) == (200, False, True)
            assert await client.ending() == "fin"
        blob.arrive(DATA[400_000:])
        async with server.connect() as client:
            assert (await client.get(BLOB, "Range: bytes=400000-")).body == DATA[400_000:]
    assert blob.readers == 0
    assert bench.value("shim_cut_short_total") == 1


async def test_a_wrong_blob_never_leaves_whole(bench: Bench) -> None:
    blob = bench.content.expect_blob("docker.io", "library/app", DIGEST, len(DATA))
    async with bench.running() as server, server.connect() as client:
        await client.request(BLOB)
        await blob.awaited.wait()
        blob.arrive(DATA[:-1] + bytes([DATA[-1] ^ 1]))
        answer = await client.answer()
        assert (answer.complete, len(answer.body)) == (False, 999_999)
        assert await client.ending() == "fin"


@pytest.mark.parametrize("started", [False, True])
async def test_a_daemon_that_hangs_up_lets_go_of_the_blob_and_leaves_it_to_others(bench: Bench, started: bool) -> None:
    blob = bench.content.expect_blob("docker.io", "library/app", DIGEST, len(DATA))
    if started:
        blob.arrive(DATA[:10])
    async with bench.running() as server, server.connect() as stays:
        async with server.connect() as client:
            await client.request(BLOB)
            await blob.awaited.wait()
            if started:
                await client.stream.receive_some(1)
            client.reset()
        await stays.request(BLOB)
        blob.arrive(DATA[10 if started else 0 :])
        assert (await stays.answer()).body == DATA
    assert blob.readers == 0
    assert bench.value("shim_cut_short_total") == 0


async def test_a_bug_behind_the_shim_is_a_500(bench: Bench) -> None:
    bench.content.errors = {"1.2": ZeroDivisionError()}
    async with bench.running() as server, server.connect() as client:
        assert (await client.get("/v2/app/manifests/1.2")).status == 500
    assert bench.requests("manifest", "none") == 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("what", ["manifests/1", f"blobs/{DIGEST}"])
async def test_a_challenge_is_passed_on(bench: Bench, method: str, what: str) -> None:
    challenge = Challenge("bearer", {"realm": "https://auth.test/token", "scope": "repository:library/app:pull"})
    bench.content.errors[what.partition("/")[2]] = Unauthorized("no").with_challenge(challenge)
    async with bench.running() as server, server.connect() as client:
        answer = await client.get(f"/v2/library/app/{what}?ns=docker.io", method=method)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == str(challenge)
        if method == "GET":
            assert codes(answer) == ["UNAUTHORIZED"]


async def test_a_bearer_token_is_passed_on_and_a_password_is_not(bench: Bench) -> None:
    bench.content.add_manifest("docker.io", "library/app", "1", INDEX, BODY)
    bench.content.add_blob("docker.io", "library/app", DATA)
    async with bench.running() as server, server.connect() as client:
        for shown in ("Bearer abc", "Basic dXNlcjpwYXNz"):
            for path in ("/v2/library/app/manifests/1?ns=docker.io", BLOB):
                await client.get(path, f"Authorization: {shown}")
            if shown.startswith("Bearer"):
                await client.get(BLOB, f"Authorization: {shown}", method="HEAD")
    assert bench.content.tokens == [BearerToken("abc")] * 4 + [None] * 3
