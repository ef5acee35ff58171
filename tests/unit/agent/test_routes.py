from collections.abc import Sequence
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.agent.routes import BlobRoute, ManifestRoute, Route, VersionCheck, parse_route
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
    ("path", "namespaces", "default"),
    [
        ("/", [], "docker.io"),
        ("", [], "docker.io"),
        ("/v1/", [], "docker.io"),
        ("/v2x/", [], "docker.io"),
        ("/a/b/v2/app/manifests/1", [], "docker.io"),
        ("/v2/_catalog", [], "docker.io"),
        ("/v2/app", [], "docker.io"),
        ("/v2/app/tags/list", [], "docker.io"),
        ("/v2/manifests/1", [], "docker.io"),
        ("/v2//manifests/1", [], "docker.io"),
        (f"/v2/app/referrers/{DIGEST}", [], "docker.io"),
        ("/v2/app/blobs/uploads/", [], "docker.io"),
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


PATHS = st.lists(
    st.one_of(st.sampled_from(["v2", "manifests", "blobs", "docker.io", "a", "", "..", str(DIGEST)]), st.text())
)


@given(PATHS.map("/".join), st.lists(st.text(), max_size=2), st.one_of(st.none(), st.sampled_from(UPSTREAMS)))
def test_any_path_is_a_configured_upstreams_or_an_error_of_ours(
    path: str, namespaces: list[str], default: str | None
) -> None:
    try:
        found = route(unquote(path), *namespaces, default=default)
    except (InvalidInput, NotFound):
        return
    if isinstance(found, ManifestRoute | BlobRoute):
        assert found.upstream in UPSTREAMS
        assert ".." not in found.repository.split("/")
