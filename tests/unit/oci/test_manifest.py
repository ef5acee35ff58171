import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.core.digest import Digest
from p2pdist.oci.descriptor import Descriptor, Platform
from p2pdist.oci.errors import ManifestInvalid
from p2pdist.oci.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MAX_MANIFEST_BYTES,
    OCI_ARTIFACT,
    OCI_INDEX,
    OCI_MANIFEST,
    Index,
    Manifest,
    parse_manifest,
)


def pointer(name: str, size: object = 7, media_type: str = "application/x") -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(name.encode())), "size": size}


def image(**changes: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "config": pointer("config"), "layers": [pointer("a"), pointer("b")]} | changes


def read(document: object, media_type: str = "") -> Manifest | Index:
    return parse_manifest(json.dumps(document).encode(), media_type)


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST, OCI_MANIFEST + "; charset=utf-8"])
def test_an_image_has_config_and_layers(media_type: str) -> None:
    manifest = read(image(), media_type)
    assert isinstance(manifest, Manifest)
    assert manifest.media_type == media_type.partition(";")[0]
    assert [blob.digest for blob in manifest.blobs] == [Digest.of(name) for name in (b"config", b"a", b"b")]
    assert manifest.blobs[0] == Descriptor("application/x", Digest.of(b"config"), 7)
    assert manifest.manifests == ()


def test_a_layer_that_occurs_twice_is_one_blob_at_its_first_place() -> None:
    manifest = read(image(layers=[pointer("a"), pointer("b"), pointer("a")]))
    assert isinstance(manifest, Manifest)
    assert len(manifest.layers) == 3
    assert [blob.digest for blob in manifest.blobs] == [Digest.of(name) for name in (b"config", b"a", b"b")]


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
def test_an_index_has_manifests_with_platforms(media_type: str) -> None:
    arm = pointer("arm", media_type=OCI_MANIFEST) | {
        "platform": {"os": "linux", "architecture": "arm64", "variant": "v8", "os.version": "1"}
    }
    index = read({"schemaVersion": 2, "manifests": [arm, pointer("other")]}, media_type)
    assert isinstance(index, Index)
    assert index.manifests[0].platform == Platform("linux", "arm64", "v8")
    assert str(index.manifests[0].platform) == "linux/arm64/v8"
    assert index.manifests[1].platform is None
    assert index.blobs == ()


def test_an_artifact_manifest_has_blobs_only() -> None:
    manifest = read({"mediaType": OCI_ARTIFACT, "artifactType": "a/b", "blobs": [pointer("a")]}, OCI_ARTIFACT)
    assert [blob.digest for blob in manifest.blobs] == [Digest.of(b"a")]


def test_an_artifact_in_an_image_manifest_keeps_its_subject_and_urls() -> None:
    layer = pointer("l", media_type="application/vnd.example.sbom+json") | {"urls": ["https://example.com/l"]}
    manifest = read(image(artifactType="a/b", subject=pointer("s"), layers=[layer], annotations={"x": "y"}))
    assert manifest.subject is not None
    assert manifest.subject.digest == Digest.of(b"s")
    assert manifest.blobs[1].urls == ("https://example.com/l",)


@pytest.mark.parametrize("document", [{"what": ["ever"]}, {"mediaType": "application/vnd.example.thing+json"}, image()])
def test_a_manifest_of_another_media_type_names_nothing(document: object) -> None:
    assert read(document, "Application/vnd.example.thing+json") == Manifest(
        "application/vnd.example.thing+json", None, ()
    )


def test_a_document_may_say_itself_that_it_is_of_another_media_type() -> None:
    assert read({"mediaType": "application/vnd.example.thing"}, "application/json").media_type.endswith("thing")


@pytest.mark.parametrize("came_as", ["", "application/json", "text/plain; charset=utf-8"])
@pytest.mark.parametrize(
    ("document", "kind"),
    [
        (image(mediaType=DOCKER_MANIFEST), DOCKER_MANIFEST),
        (image(), OCI_MANIFEST),
        ({"schemaVersion": 2, "manifests": []}, OCI_INDEX),
        ({"schemaVersion": 2, "manifests": [], "mediaType": DOCKER_LIST}, DOCKER_LIST),
        ({"blobs": []}, OCI_ARTIFACT),
    ],
)
def test_a_media_type_that_says_nothing_gives_way_to_the_document(came_as: str, document: object, kind: str) -> None:
    assert read(document, came_as).media_type == kind


@pytest.mark.parametrize(
    ("document", "media_type", "why"),
    [
        ([], "", "isn't valid"),
        ({}, "", "schemaVersion"),
        (image(schemaVersion=1), "", "schemaVersion is 1"),
        ({"schemaVersion": 1, "fsLayers": []}, "", "schema 1"),
        (image(), "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1"),
        (image(), "text/html", "text/html"),
        ([], "application/vnd.example.thing", "isn't valid"),
        ("x", "application/vnd.example.thing", "isn't valid"),
        (image(mediaType=OCI_MANIFEST), "application/vnd.example.thing", "came as"),
        ({}, "application/vnd.example.thing!/x", "isn't a media type"),
        (image(mediaType="text/html"), "", "text/html"),
        (image(mediaType=OCI_INDEX), OCI_MANIFEST, "came as"),
        (image(manifests=[]), OCI_MANIFEST, "ambiguous"),
        (image(manifests=[]), OCI_INDEX, "ambiguous"),
        (image(), OCI_INDEX, "no manifests"),
        (image(config=None), "", "lacks"),
        (image(layers=None), "", "lacks"),
        (image(layers=[pointer("a"), pointer("a", 8)]), "", "two sizes"),
        (image(layers=[pointer("a", -1)]), "", "-1"),
        (image(layers=[pointer("a", 1 << 50)]), "", "outside"),
        (image(layers=[pointer("a", 1.5)]), "", r"layers\[0\].size"),
        (image(layers=[pointer("a", "7")]), "", r"layers\[0\].size"),
        (image(layers=[pointer("a", True)]), "", r"layers\[0\].size"),
        (image(layers=[pointer("a") | {"digest": "sha256:ab"}]), "", "64 lower-case"),
        (image(layers=[pointer("a", media_type="")]), "", "media type"),
        (image(layers=[{"size": 1}]), "", "mediaType"),
        (image(layers={}), "", "layers"),
    ],
)
def test_refuses_what_we_could_not_rely_on(document: object, media_type: str, why: str) -> None:
    with pytest.raises(ManifestInvalid, match=why) as caught:
        read(document, media_type)
    assert caught.value.http_status == 502
    assert caught.value.oci_code == "MANIFEST_INVALID"


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff\xfe", b"[" * 100_000, b'{"x":' * 100_000, b'{"a":1}{}'])
def test_refuses_what_isnt_json(body: bytes) -> None:
    with pytest.raises(ManifestInvalid, match="isn't valid"):
        parse_manifest(body, OCI_MANIFEST)


def test_refuses_more_than_4_mib() -> None:
    body = json.dumps(image()).encode()
    assert parse_manifest(body + b" " * (MAX_MANIFEST_BYTES - len(body)))
    with pytest.raises(ManifestInvalid, match="4194305"):
        parse_manifest(body + b" " * (MAX_MANIFEST_BYTES + 1 - len(body)))


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_checks_the_digest(algorithm: str) -> None:
    body = json.dumps(image()).encode()
    assert parse_manifest(body, "", Digest.of(body, algorithm))
    with pytest.raises(ManifestInvalid, match="asked for was"):
        parse_manifest(body + b" ", "", Digest.of(body, algorithm))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with pytest.raises(ManifestInvalid):
        parse_manifest(body, OCI_MANIFEST)


_junk = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2) | st.just({})


@given(st.dictionaries(st.sampled_from(["schemaVersion", "mediaType", "config", "layers", "manifests", "x"]), _junk))
def test_wrong_types_anywhere_are_refused_or_ignored(changes: dict[str, Any]) -> None:
    try:
        manifest = read(image() | changes)
    except ManifestInvalid:
        return
    assert manifest.media_type in (OCI_MANIFEST, OCI_INDEX)
