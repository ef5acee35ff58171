from collections.abc import Sequence
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.agent.routes import (
    BlobRoute,
    ManifestRoute,
    ReferrersRoute,
    Route,
    TagsRoute,
    UploadRoute,
    VersionCheck,
    client_base,
    parse_mount_source,
    parse_route,
)
from p2pdist.core.digest import Digest
from p2pdist.core.errors import DigestInvalid, InvalidInput, NotFound, P2PDistError
from p2pdist.oci.errors import NameInvalid
from p2pdist.oci.reference import Tag

UPSTREAMS = ("docker.io", "quay.io", "localhost:5000", "localhost", "registry")
DIGEST = Digest.of(b"content")


def route(path: str, *namespaces: str, default: str | None = None) -> Route:
    return parse_route(path, namespaces, UPSTREAMS, default)


@pytest.mark.parametrize("path", ["/v2/", "/v2", "/docker.io/v2/", "/quay.io/v2"])
def test_version_check(path: str) -> None:
    assert route(path) == VersionCheck()


@pytest.mark.parametrize(
    ("path", "namespaces", "default", "upstream", "repository"),
    [
        ("/v2/library/app/manifests/1.2", ["docker.io"], None, "docker.io", "library/app"),
        ("/v2/app/manifests/1.2", ["docker.io"], None, "docker.io", "library/app"),
        ("/v2/app/manifests/1.2", ["index.docker.io"], None, "docker.io", "library/app"),
        ("/v2/app/manifests/1.2", ["Quay.IO"], None, "quay.io", "app"),
        ("/v2/app/manifests/1.2", ["quay.io", "quay.io"], "docker.io", "quay.io", "app"),
        ("/v2/app/manifests/1.2", ["localhost:5000"], None, "localhost:5000", "app"),
        ("/v2/app/manifests/1.2", ["registry"], None, "registry", "app"),
        ("/v2/quay.io/team/app/manifests/1.2", ["docker.io"], None, "docker.io", "quay.io/team/app"),
        ("/v2/quay.io/team/app/manifests/1.2", [], None, "quay.io", "team/app"),
        ("/v2/docker.io/app/manifests/1.2", [], "quay.io", "docker.io", "library/app"),
        ("/v2/localhost:5000/app/manifests/1.2", [], None, "localhost:5000", "app"),
        ("/v2/localhost/app/manifests/1.2", [], None, "localhost", "app"),
        ("/v2/registry/app/manifests/1.2", [], "docker.io", "docker.io", "registry/app"),
        ("/v2/other.io/app/manifests/1.2", [], "docker.io", "docker.io", "other.io/app"),
        ("/v2/quay.io/manifests/1.2", [], "docker.io", "docker.io", "library/quay.io"),
        ("/v2/app/manifests/1.2", [], "docker.io", "docker.io", "library/app"),
        ("/v2/app/manifests/1.2", [], "quay.io", "quay.io", "app"),
        ("/v2/manifests/manifests/1.2", [], "quay.io", "quay.io", "manifests"),
        ("/v2/v2/blobs/manifests/1.2", [], "quay.io", "quay.io", "v2/blobs"),
        ("/docker.io/v2/app/manifests/1.2", [], None, "docker.io", "library/app"),
        ("/quay.io/v2/docker.io/app/manifests/1.2", [], None, "quay.io", "docker.io/app"),
        ("/localhost:5000/v2/app/manifests/1.2", [], "docker.io", "localhost:5000", "app"),
        ("/docker.io/v2/app/manifests/1.2", ["quay.io"], None, "quay.io", "app"),
    ],
)
def test_the_upstream_and_the_repository(
    path: str, namespaces: Sequence[str], default: str | None, upstream: str, repository: str
) -> None:
    assert route(path, *namespaces, default=default) == ManifestRoute(upstream, repository, Tag("1.2"))


def test_manifests_by_digest_and_blobs() -> None:
    assert route(f"/v2/quay.io/a/b/manifests/{DIGEST}") == ManifestRoute("quay.io", "a/b", DIGEST)
    assert route(f"/v2/quay.io/a/b/blobs/{DIGEST}") == BlobRoute("quay.io", "a/b", DIGEST)


@pytest.mark.parametrize(
    ("path", "found", "rest"),
    [
        ("/v2/a/b/tags/list", TagsRoute("quay.io", "a/b"), "tags/list"),
        ("/v2/manifests/tags/list", TagsRoute("quay.io", "manifests"), "tags/list"),
        (f"/v2/a/referrers/{DIGEST}", ReferrersRoute("quay.io", "a", DIGEST), f"referrers/{DIGEST}"),
        ("/v2/a/blobs/uploads", UploadRoute("quay.io", "a", ""), "blobs/uploads/"),
        ("/v2/a/blobs/uploads/", UploadRoute("quay.io", "a", ""), "blobs/uploads/"),
        ("/v2/a/blobs/uploads/x y%?=", UploadRoute("quay.io", "a", "x y%?="), "blobs/uploads/x%20y%25%3F="),
        ("/v2/a/blobs/uploads/manifests/1", ManifestRoute("quay.io", "a/blobs/uploads", Tag("1")), "manifests/1"),
        (f"/v2/docker.io/a/blobs/{DIGEST}", BlobRoute("docker.io", "library/a", DIGEST), f"blobs/{DIGEST}"),
    ],
)
def test_lists_and_uploads(path: str, found: Route, rest: str) -> None:
    assert route(path, default="quay.io") == found
    assert not isinstance(found, VersionCheck)
    assert found.rest == rest


@pytest.mark.parametrize(
    ("path", "base"),
    [
        ("/v2/app/tags/list", "/v2/app"),
        ("/v2/quay.io/team/app/blobs/uploads/", "/v2/quay.io/team/app"),
        ("/quay.io/v2/team/app/blobs/uploads/x", "/quay.io/v2/team/app"),
        ("/v2/a/blobs/uploads/manifests/1", "/v2/a/blobs/uploads"),
        (f"/v2/a/blobs/{DIGEST}", "/v2/a"),
    ],
)
def test_what_the_client_calls_a_repository(path: str, base: str) -> None:
    assert client_base(path) == base


def mount_source(path: str, source: str, *namespaces: str, default: str | None = "quay.io") -> tuple[str, str]:
    return parse_mount_source(path, source, namespaces, UPSTREAMS, default)


def test_the_source_of_a_mount_is_named_like_its_target() -> None:
    assert mount_source("/v2/quay.io/a/blobs/uploads/", "quay.io/b/c") == ("quay.io", "b/c")
    assert mount_source("/v2/quay.io/a/blobs/uploads/", "docker.io/b") == ("docker.io", "library/b")
    assert mount_source("/v2/a/blobs/uploads/", "b") == ("quay.io", "b")
    assert mount_source("/docker.io/v2/a/blobs/uploads/", "b") == ("docker.io", "library/b")
    assert mount_source("/v2/a/blobs/uploads/", "quay.io/b", "localhost") == ("localhost", "quay.io/b")
    with pytest.raises(NotFound):
        mount_source("/v2/quay.io/a/blobs/uploads/", "ghcr.io/b", default=None)


@pytest.mark.parametrize(
    ("path", "namespaces", "default"),
    [
        ("/", [], "docker.io"),
        ("", [], "docker.io"),
        ("/v1/", [], "docker.io"),
        ("/v2x/", [], "docker.io"),
        ("/a/b/v2/app/manifests/1", [], "docker.io"),
        ("/v2/_catalog", [], "docker.io"),
        ("/v2/app", [], "docker.io"),
        ("/v2/tags/list", [], "docker.io"),
        ("/v2/app/tags", [], "docker.io"),
        ("/v2/app/tags/1", [], "docker.io"),
        ("/v2/manifests/1", [], "docker.io"),
        ("/v2//manifests/1", [], "docker.io"),
        (f"/v2/referrers/{DIGEST}", [], "docker.io"),
        ("/v2/blobs/uploads/", [], "docker.io"),
        ("/v2/blobs/uploads/1", [], "docker.io"),
        ("/v2/app/blobs/uploads/1/2", [], "docker.io"),
        ("/v2/app/manifests/1", [], None),
        ("/v2/app/manifests/1", [], "ghcr.io"),
        ("/v2/app/manifests/1", ["ghcr.io"], "docker.io"),
        ("/v2/app/manifests/1", [""], "docker.io"),
        ("/v2/app/manifests/1", ["no/registry"], "docker.io"),
        ("/v2/ghcr.io/app/manifests/1", [], None),
        ("/v2/localhost:1/app/manifests/1", [], "docker.io"),
        ("/ghcr.io/v2/app/manifests/1", [], "docker.io"),
        ("/registry-mirror/v2/app/manifests/1", [], "docker.io"),
    ],
)
def test_what_isnt_served(path: str, namespaces: Sequence[str], default: str | None) -> None:
    with pytest.raises(NotFound):
        route(path, *namespaces, default=default)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/v2/App/manifests/1", NameInvalid),
        ("/v2/../etc/manifests/1", NameInvalid),
        ("/v2/a//b/manifests/1", NameInvalid),
        ("/v2/app/manifests/-bad", NameInvalid),
        ("/v2/app/manifests/", NameInvalid),
        ("/v2/app/manifests/sha256:abc", DigestInvalid),
        ("/v2/app/blobs/1.2", DigestInvalid),
        ("/v2/app/referrers/1.2", DigestInvalid),
        ("/v2/App/tags/list", NameInvalid),
        ("/v2/app//blobs/uploads/", NameInvalid),
        ("/v2/app/blobs/sha256:" + "A" * 64, DigestInvalid),
        ("/v2/" + "a" * 300 + "/manifests/1", NameInvalid),
    ],
)
def test_what_cant_be_a_name(path: str, error: type[P2PDistError]) -> None:
    with pytest.raises(error):
        route(path, default="quay.io")


def test_two_registries_at_once() -> None:
    with pytest.raises(NameInvalid, match=r"docker\.io, quay\.io"):
        route("/v2/app/manifests/1", "docker.io", "quay.io")


COMPONENTS = st.from_regex(r"[a-z0-9]+([._-][a-z0-9]+)?", fullmatch=True)


@given(
    st.lists(COMPONENTS, min_size=1, max_size=5), st.sampled_from(UPSTREAMS), st.sampled_from(["ns", "front", "name"])
)
def test_every_way_to_name_an_upstream_means_the_same(components: list[str], upstream: str, how: str) -> None:
    repository = "/".join(components)
    expected = f"library/{repository}" if upstream == "docker.io" and len(components) == 1 else repository
    if how == "ns":
        found = route(f"/v2/{repository}/blobs/{DIGEST}", upstream)
    elif how == "front":
        found = route(f"/{upstream}/v2/{repository}/blobs/{DIGEST}")
    elif upstream != "registry":
        found = route(f"/v2/{upstream}/{repository}/blobs/{DIGEST}")
    else:
        return
    assert found == BlobRoute(upstream, expected, DIGEST)


WORDS = ["v2", "manifests", "blobs", "uploads", "tags", "list", "referrers", "docker.io", "a", "", "..", str(DIGEST)]
PATHS = st.lists(st.one_of(st.sampled_from(WORDS), st.text()))


@given(PATHS.map("/".join), st.lists(st.text(), max_size=2), st.one_of(st.none(), st.sampled_from(UPSTREAMS)))
def test_any_path_is_a_configured_upstreams_or_an_error_of_ours(
    path: str, namespaces: list[str], default: str | None
) -> None:
    try:
        found = route(unquote(path), *namespaces, default=default)
    except (InvalidInput, NotFound):
        return
    if not isinstance(found, VersionCheck):
        assert found.rest.isascii()
        assert client_base(unquote(path))
        assert found.upstream in UPSTREAMS
        assert ".." not in found.repository.split("/")
