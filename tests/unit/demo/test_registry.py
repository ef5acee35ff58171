import base64
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path

import pytest
import trio
import trio.testing

from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput
from p2pdist.demo.access import BasicAccess, TokenAccess
from p2pdist.demo.catalog import Catalog
from p2pdist.demo.image import generate
from p2pdist.demo.layout import Layout
from p2pdist.demo.pacing import Pace
from p2pdist.demo.registry import Registry, serve_registry
from tests.unit.demo.registry_conformance import CHECKS, Answer, Subject, example, sha256


def catalog_of(subject: Subject, manifests: list[tuple[str, bytes, str]]) -> Catalog:
    catalog = Catalog()
    catalog.add_blob(subject.repository, subject.blob)
    for media_type, body, reference in manifests:
        catalog.add_manifest(subject.repository, media_type, body, None if ":" in reference else reference)
    return catalog


async def with_registry(make: Callable[[Catalog], Registry], use: Callable[[Subject, Registry], None]) -> None:
    subject, manifests = example("127.0.0.1", 0)
    registry = make(catalog_of(subject, manifests))
    async with trio.open_nursery() as nursery:
        address = await nursery.start(serve_registry, registry)
        found = Subject(**{**vars(subject), "port": int(address.rpartition(":")[2])})
        await trio.to_thread.run_sync(use, found, registry)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_the_registry_in_memory_conforms(check):
    await with_registry(Registry, lambda subject, registry: check(subject))


async def test_an_image_layout_is_served_whole(tmp_path):
    (image,) = generate(tmp_path, 1 << 20, versions=1)
    layout = Layout(tmp_path)

    def use(subject: Subject) -> None:
        tags = subject.ask("GET", f"/v2/{image.repository}/tags/list")
        assert json.loads(tags.body)["tags"] == ["1"]
        for built in image.platforms.values():
            path = f"/v2/{image.repository}/manifests/{built.manifest.digest}"
            assert subject.ask("GET", path).body == layout.path(built.manifest.digest).read_bytes()
            for blob in (built.config, *built.layers):
                answer = subject.ask("GET", f"/v2/{image.repository}/blobs/{blob.digest}")
                assert Digest.of(answer.body) == blob.digest
        large = built.layers[4]
        part = subject.ask("GET", f"/v2/{image.repository}/blobs/{large.digest}", {"Range": "bytes=1000-70000"})
        assert part.body == layout.path(large.digest).read_bytes()[1000:70001]

    async with trio.open_nursery() as nursery:
        address = await nursery.start(serve_registry, Registry(Catalog.from_layout(layout)))
        subject, _ = example("127.0.0.1", int(address.rpartition(":")[2]))
        await trio.to_thread.run_sync(use, subject)
        nursery.cancel_scope.cancel()


def test_a_layout_with_a_name_that_is_no_tag_is_refused(tmp_path):
    layout = Layout(tmp_path)
    layout.tag("app", layout.add_document("application/json", {}))
    with pytest.raises(InvalidInput, match="repository:tag"):
        Catalog.from_layout(layout)


async def test_requests_and_body_bytes_are_counted_per_blob():
    def use(subject: Subject, registry: Registry) -> None:
        subject.ask("GET", subject.blob_path())
        subject.ask("HEAD", subject.blob_path())
        subject.part("bytes=10-19")
        subject.part("bytes=999999-")
        subject.ask("GET", subject.manifest_path(subject.tag))
        stats = json.loads(subject.ask("GET", "/stats").body)
        sent = len(subject.blob) + 10
        assert stats == {
            "body_bytes": sent,
            "blobs": {sha256(subject.blob): {"requests": 4, "body_bytes": sent}},
            "manifests": {sha256(subject.index): {"requests": 1}},
        }

    await with_registry(Registry, use)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_writing_is_refused(method):
    def use(subject: Subject, registry: Registry) -> None:
        answer = subject.ask(method, f"/v2/{subject.repository}/blobs/uploads/")
        assert (answer.status, answer.codes) == (405, ["UNSUPPORTED"])

    await with_registry(Registry, use)


@pytest.mark.parametrize(
    ("reference", "code"), [("sha256:abc", "DIGEST_INVALID"), ("-tag", "NAME_INVALID"), ("x" * 129, "NAME_INVALID")]
)
async def test_a_manifest_by_what_is_neither_tag_nor_digest_is_refused(reference, code):
    def use(subject: Subject, registry: Registry) -> None:
        answer = subject.ask("GET", subject.manifest_path(reference))
        assert (answer.status, answer.codes) == (400, [code])

    await with_registry(Registry, use)


@pytest.mark.parametrize("path", ["/", "/v1/", "/v2/app", "/v2/app/tags/other", "/token"])
async def test_other_paths_are_not_found(path):
    def use(subject: Subject, registry: Registry) -> None:
        answer = subject.ask("GET", path)
        assert (answer.status, answer.codes) == (404, ["NAME_UNKNOWN"])

    await with_registry(Registry, use)


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


async def test_basic_asks_for_a_user_everywhere():
    def use(subject: Subject, registry: Registry) -> None:
        for path in ("/v2/", subject.manifest_path(subject.tag), subject.blob_path()):
            for headers in (
                {},
                basic("ann", "wrong"),
                basic("bob", "secret"),
                {"Authorization": "Basic ?"},
                {"Authorization": "Basic /w=="},
                {"Authorization": "Bearer x"},
            ):
                answer = subject.ask("GET", path, headers)
                assert (answer.status, answer.codes) == (401, ["UNAUTHORIZED"])
                assert answer.headers["WWW-Authenticate"].startswith('Basic realm="')
            assert subject.ask("GET", path, basic("ann", "secret")).status == 200

    await with_registry(lambda catalog: Registry(catalog, access=BasicAccess({"ann": "secret"})), use)


def token_of(answer: Answer) -> dict[str, str]:
    assert answer.status == 200
    return {"Authorization": f"Bearer {json.loads(answer.body)['token']}"}


SCOPE = "scope=repository%3Ateam%2Fapp%3Apull"


async def test_a_token_is_needed_and_anybody_gets_one():
    def use(subject: Subject, registry: Registry) -> None:
        answer = subject.ask("GET", subject.blob_path())
        assert (answer.status, answer.codes) == (401, ["UNAUTHORIZED"])
        challenge = answer.headers["WWW-Authenticate"]
        assert challenge.startswith(f'Bearer realm="http://127.0.0.1:{subject.port}/token",service="')
        assert challenge.endswith(',scope="repository:team/app:pull"')
        token = token_of(subject.ask("GET", f"/token?service=any&{SCOPE}"))
        assert subject.ask("GET", subject.blob_path(), token).body == subject.blob
        assert subject.ask("GET", "/v2/", token).status == 200
        elsewhere = subject.ask("GET", "/v2/other/tags/list", token)
        assert elsewhere.status == 401
        assert elsewhere.headers["WWW-Authenticate"].endswith(',error="insufficient_scope"')

    await with_registry(lambda catalog: Registry(catalog, access=TokenAccess({})), use)


async def test_a_private_repository_is_for_users():
    def use(subject: Subject, registry: Registry) -> None:
        anonymous = token_of(subject.ask("GET", f"/token?{SCOPE}"))
        assert subject.ask("GET", subject.blob_path(), anonymous).status == 401
        assert subject.ask("GET", f"/token?{SCOPE}", basic("ann", "wrong")).status == 401
        user = token_of(subject.ask("GET", f"/token?{SCOPE}", basic("ann", "secret")))
        assert subject.ask("GET", subject.blob_path(), user).body == subject.blob
        push_only = token_of(subject.ask("GET", "/token?scope=repository:team/app:push", basic("ann", "secret")))
        assert subject.ask("GET", subject.blob_path(), push_only).status == 401

    access = TokenAccess({"ann": "secret"}, private=["team/app"])
    await with_registry(lambda catalog: Registry(catalog, access=access), use)


async def test_a_token_expires():
    now = 100.0

    def use(subject: Subject, registry: Registry) -> None:
        nonlocal now
        token = token_of(subject.ask("GET", f"/token?{SCOPE}"))
        now += 59
        assert subject.ask("GET", subject.blob_path(), token).status == 200
        now += 1
        assert subject.ask("GET", subject.blob_path(), token).status == 401

    access = TokenAccess({}, lifetime_seconds=60, clock=lambda: now)
    await with_registry(lambda catalog: Registry(catalog, access=access), use)


async def test_the_pace_holds_for_all_together(autojump_clock):
    pace = Pace(bytes_per_second=1000, burst_bytes=100)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(pace.take, 300)
    assert trio.current_time() - start == pytest.approx(2.9)


async def test_a_rest_saves_up_one_burst(autojump_clock):
    pace = Pace(bytes_per_second=1000, burst_bytes=100)
    await pace.take(100)
    await trio.sleep(60)
    start = trio.current_time()
    await pace.take(100)
    assert trio.current_time() == start
    await pace.take(100)
    assert trio.current_time() - start == pytest.approx(0.1)


async def test_a_paced_registry_takes_its_time():
    async def timed(path: str, port: int) -> float:
        start = trio.current_time()
        await trio.to_thread.run_sync(lambda: Subject(**{**vars(subject), "port": port}).ask("GET", path))
        return trio.current_time() - start

    subject, manifests = example("127.0.0.1", 0)
    registry = Registry(catalog_of(subject, manifests), pace=Pace(200_000, 65536))
    async with trio.open_nursery() as nursery:
        address = await nursery.start(serve_registry, registry)
        elapsed = await timed(subject.blob_path(), int(address.rpartition(":")[2]))
        nursery.cancel_scope.cancel()
    assert elapsed >= (len(subject.blob) - 65536) / 200_000


def test_the_process_prints_its_address_and_stops_when_told(tmp_path: Path):
    generate(tmp_path, 1 << 20, versions=1)
    command = [sys.executable, "-m", "p2pdist.demo.registry", "--dir", str(tmp_path), "--auth", "basic"]
    with subprocess.Popen([*command, "--user", "ann:secret"], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            host, _, port = json.loads(process.stdout.readline())["address"].rpartition(":")
            connection = HTTPConnection(host, int(port), timeout=10)
            connection.request("GET", "/v2/demo/app/tags/list", headers=basic("ann", "secret"))
            assert json.loads(connection.getresponse().read())["tags"] == ["1"]
            connection.close()
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()


def test_the_process_says_what_is_wrong(tmp_path: Path):
    (tmp_path / "index.json").write_text("nonsense")
    command = [sys.executable, "-m", "p2pdist.demo.registry", "--dir", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, timeout=20, check=False)
    assert result.returncode == 2
    assert b"index.json isn't the index" in result.stderr
    assert b"Traceback" not in result.stderr
