"""The origin client against Debian's docker-registry: open to all, behind htpasswd, and with tokens."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2pdist.core.digest import Digest
from p2pdist.core.errors import BlobUnknown, Denied, ManifestUnknown
from p2pdist.oci.credentials import DockerConfig
from p2pdist.oci.origin import OriginClient, Upstream
from p2pdist.oci.reference import Tag
from tests.system.images import image, index, layer
from tests.system.registries import ACCOUNT, Registry

PUBLIC, PRIVATE = "library/app", "team/secret"
IMAGE = image(layer(3_000_017, "one"), layer(1000, "two", "zstd"))
INDEX = index(IMAGE)


@pytest.fixture(params=["none", "htpasswd", "token"])
def auth(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def registry(auth: str, tmp_path: Path, require_program: Callable[[str], str]) -> Iterator[Registry]:
    require_program("docker-registry")
    with Registry(tmp_path / "registry", auth=auth, public=(PUBLIC,)) as registry:
        for repository in (PUBLIC, PRIVATE):
            registry.push(INDEX, repository, "1")
        yield registry


def upstream(registry: Registry, config: Path | None) -> Upstream:
    if config is None:
        return Upstream("registry.test", registry.direct_url)
    entry = {"auth": ACCOUNT.authorization.removeprefix("Basic ")}
    config.write_text(json.dumps({"auths": {registry.direct_url: entry}}))
    return Upstream("registry.test", registry.direct_url, credentials=DockerConfig(config))


async def test_everything_of_an_image_comes_right(registry: Registry, auth: str, tmp_path: Path) -> None:
    private = {PUBLIC: auth == "htpasswd", PRIVATE: auth != "none"}
    with OriginClient(upstream(registry, tmp_path / "config.json")) as origin:
        for repository in (PUBLIC, PRIVATE):
            descriptor = await origin.resolve(repository, "1")
            assert str(descriptor.digest) == INDEX.manifest.digest
            top = await origin.manifest(repository, Tag("1"))
            assert (top.body, top.descriptor, top.private) == (INDEX.manifest.data, descriptor, private[repository])
            child = await origin.manifest(repository, top.parse().manifests[0].digest)
            assert child.body == IMAGE.manifest.data
            for content, blob in zip(IMAGE.blobs, child.parse().blobs, strict=True):
                received = bytearray()
                fetched = await origin.blob(repository, blob.digest, received.extend)
                assert received == content.data
                assert (fetched.size, fetched.private) == (blob.size_bytes, private[repository])
                assert await origin.blob_size(repository, blob.digest) == blob.size_bytes


async def test_a_part_of_a_blob(registry: Registry, tmp_path: Path) -> None:
    content = IMAGE.layers[0]
    received = bytearray()
    with OriginClient(upstream(registry, tmp_path / "config.json")) as origin:
        fetched = await origin.blob(PRIVATE, Digest.parse(content.digest), received.extend, offset=1000, end=2_000_000)
    assert received == content.data[1000:2_000_000]
    assert fetched.honours_ranges
    assert fetched.size == content.size_bytes


async def test_what_isnt_there_and_what_isnt_ours(registry: Registry, auth: str, tmp_path: Path) -> None:
    with OriginClient(upstream(registry, tmp_path / "config.json")) as origin:
        with pytest.raises(ManifestUnknown, match="MANIFEST_UNKNOWN"):
            await origin.manifest(PUBLIC, Tag("2"))
        with pytest.raises(ManifestUnknown, match=r"registry\.test/no/such"):
            await origin.resolve("no/such", "1")
        with pytest.raises(BlobUnknown, match="BLOB_UNKNOWN"):
            await origin.blob(PUBLIC, Digest.of(b"nothing"), lambda _: None)
    if auth != "none":
        with OriginClient(upstream(registry, None)) as origin, pytest.raises(Denied, match="set credentials_file"):
            await origin.manifest(PRIVATE, Tag("1"))
