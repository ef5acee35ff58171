import os
import platform
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from p2pdist.core.digest import Digest
from p2pdist.core.errors import NotFound
from p2pdist.demo.access import BasicAccess
from p2pdist.demo.catalog import Catalog
from p2pdist.demo.image import GeneratedImage, generate
from p2pdist.demo.layout import Layout
from p2pdist.demo.pacing import Pace
from p2pdist.demo.pull import PullProgress, choose_platform, pull
from p2pdist.demo.registry import Registry, serve_registry
from p2pdist.demo.requests import UnexpectedStatus
from p2pdist.http.client import ConnectionBroken, HttpClient
from p2pdist.oci.descriptor import Descriptor, Platform
from p2pdist.oci.errors import ManifestInvalid
from p2pdist.oci.manifest import OCI_INDEX, OCI_MANIFEST
from p2pdist.oci.reference import Reference

SIZE = 2 << 20
ARCHITECTURE = {"aarch64": "arm64"}.get(platform.machine(), "amd64")


@pytest.fixture
def image(tmp_path: Path) -> GeneratedImage:
    return generate(tmp_path, SIZE, versions=1)[0]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


@asynccontextmanager
async def serving(registry: Registry):
    client = HttpClient(timeout_seconds=5)
    async with trio.open_nursery() as nursery:
        address = await nursery.start(serve_registry, registry)
        try:
            yield client, f"http://{address}"
        finally:
            client.close()
        nursery.cancel_scope.cancel()


def reference(image: GeneratedImage) -> Reference:
    return Reference.parse(f"registry.example/{image.name}")


async def test_a_pull_takes_one_platform_and_checks_it(image, layout):
    registry, progress = Registry(Catalog.from_layout(layout)), PullProgress()
    async with serving(registry) as (client, url):
        result = await pull(client, url, reference(image), progress)
    native = image.platforms[ARCHITECTURE]
    assert result.digest == image.index.digest
    assert result.wrong == ()
    assert result.blob_bytes == native.blob_bytes == progress.received_bytes == progress.total_bytes
    assert 0 < result.first_byte_seconds <= result.seconds
    assert set(registry.blob_requests) == {blob.digest for blob in (native.config, *native.layers)}
    assert set(registry.blob_requests.values()) == {1}
    assert dict(registry.manifest_requests) == {image.index.digest: 2, native.manifest.digest: 1}


async def test_by_digest_no_tag_is_asked_for(image, layout):
    registry = Registry(Catalog.from_layout(layout))
    async with serving(registry) as (client, url):
        by_digest = Reference.parse(f"registry.example/{image.repository}@{image.index.digest}")
        await pull(client, url, by_digest, PullProgress())
    assert registry.manifest_requests[image.index.digest] == 1


async def test_the_upstream_is_named_in_every_request(image, layout):
    seen = []

    class Noting(Registry):
        async def handle(self, request, response):
            seen.append(request.query.get("ns"))
            await super().handle(request, response)

    async with serving(Noting(Catalog.from_layout(layout))) as (client, url):
        await pull(client, url, Reference.parse(f"127.0.0.1:5000/{image.name}"), PullProgress())
    assert seen == [["127.0.0.1:5000"]] * len(seen)
    assert len(seen) > 5


async def test_wrong_bytes_are_named_and_the_rest_still_comes(image, layout):
    bad, good = image.platforms[ARCHITECTURE].layers[1:3]
    with layout.path(bad.digest).open("r+b") as file:
        file.seek(1000)
        file.write(b"\0\0\0\0")
    progress = PullProgress()
    async with serving(Registry(Catalog.from_layout(layout))) as (client, url):
        result = await pull(client, url, reference(image), progress)
    assert [str(bad.digest) in sentence for sentence in result.wrong] == [True]
    assert progress.received_bytes == progress.total_bytes
    assert str(good.digest) not in result.wrong[0]


@pytest.mark.parametrize("change", [-100, 100])
async def test_a_blob_of_another_length_is_wrong(image, layout, change):
    bad = image.platforms[ARCHITECTURE].layers[3]
    os.truncate(layout.path(bad.digest), bad.size_bytes + change)
    async with serving(Registry(Catalog.from_layout(layout))) as (client, url):
        result = await pull(client, url, reference(image), PullProgress())
    assert [str(bad.digest) in sentence for sentence in result.wrong] == [True]


async def test_a_body_that_is_cut_fails_the_pull(image, layout):
    catalog = Catalog.from_layout(layout)
    bad = image.platforms[ARCHITECTURE].layers[4]
    os.truncate(layout.path(bad.digest), bad.size_bytes // 2)
    async with serving(Registry(catalog)) as (client, url):
        with pytest.raises(ConnectionBroken, match=str(bad.digest)):
            await pull(client, url, reference(image), PullProgress())


async def test_a_manifest_that_is_not_what_its_digest_names_fails_the_pull(image, layout):
    path = layout.path(image.platforms[ARCHITECTURE].manifest.digest)
    path.write_bytes(path.read_bytes() + b" ")
    catalog = Catalog()
    index = layout.path(image.index.digest).read_bytes()
    catalog.add_manifest(image.repository, OCI_INDEX, index, image.tag)
    wrong_digest = catalog.add_manifest(image.repository, OCI_MANIFEST, path.read_bytes())
    kept = catalog._repositories[image.repository].manifests
    kept[image.platforms[ARCHITECTURE].manifest.digest] = kept[wrong_digest]
    async with serving(Registry(catalog)) as (client, url):
        with pytest.raises(ManifestInvalid, match="asked for was"):
            await pull(client, url, reference(image), PullProgress())


async def test_what_the_registry_refuses_is_quoted(image, layout):
    registry = Registry(Catalog.from_layout(layout), access=BasicAccess({}))
    async with serving(registry) as (client, url):
        with pytest.raises(UnexpectedStatus, match=r"HEAD .*answered with 401"):
            await pull(client, url, reference(image), PullProgress())
        unknown = Reference.parse(f"registry.example/{image.repository}@sha256:{'0' * 64}")
        with pytest.raises(UnexpectedStatus, match="UNAUTHORIZED") as caught:
            await pull(client, url, unknown, PullProgress())
    assert caught.value.status == 401


async def test_a_cancelled_pull_ends_at_once(image, layout):
    progress = PullProgress()
    registry = Registry(Catalog.from_layout(layout), pace=Pace(10_000, 10_000))
    async with serving(registry) as (client, url):
        with trio.fail_after(4):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pull, client, url, reference(image), progress)
                while not progress.blobs:
                    await trio.testing.wait_all_tasks_blocked(0.01)
                nursery.cancel_scope.cancel()
    assert progress.received_bytes < progress.total_bytes


def described(*platforms: str) -> list[Descriptor]:
    return [
        Descriptor(OCI_MANIFEST, Digest.of(text.encode()), 1, Platform(*text.split("/")) if text else None)
        for text in platforms
    ]


@pytest.mark.parametrize(
    ("machine", "offered", "chosen"),
    [
        ("x86_64", ["linux/arm64", "linux/amd64"], 1),
        ("aarch64", ["linux/amd64", "linux/arm64/v8"], 1),
        ("aarch64", ["windows/arm64", "linux/amd64"], 1),
        ("riscv64", ["linux/amd64", "linux/riscv64"], 1),
        ("x86_64", ["", "unknown/unknown", "linux/amd64"], 2),
    ],
)
def test_the_platform_is_this_machines(machine, offered, chosen):
    manifests = described(*offered)
    assert choose_platform(manifests, machine) == manifests[chosen]


def test_an_image_for_other_machines_is_refused():
    with pytest.raises(NotFound, match=r"linux on x86_64 or amd64; its platforms: windows/amd64, linux/s390x"):
        choose_platform(described("windows/amd64", "linux/s390x"), "x86_64")
