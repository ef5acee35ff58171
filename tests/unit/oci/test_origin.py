"""Tags, manifests and blobs from a well-behaved origin and from one that answers wrongly."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest

from p2pdist.core.digest import Digest
from p2pdist.core.errors import BlobUnknown, Denied, ManifestUnknown, P2PDistError, ProtocolError, Unavailable
from p2pdist.http.proxies import Proxies
from p2pdist.oci.descriptor import Descriptor
from p2pdist.oci.errors import ManifestInvalid, NameInvalid
from p2pdist.oci.manifest import MANIFEST_MEDIA_TYPES, MAX_MANIFEST_BYTES, Manifest
from p2pdist.oci.origin import OriginClient, Upstream
from p2pdist.oci.reference import Tag
from tests.fakes.origin_server import MANIFEST_TYPE, OriginServer, Reply, image_manifest, oci_error

REPOSITORY = "library/app"
BODY = image_manifest(b"layer")
DIGEST = Digest.of(BODY)
BY_TAG = f"/v2/{REPOSITORY}/manifests/1"
BY_DIGEST = f"/v2/{REPOSITORY}/manifests/{DIGEST}"
GOOD = {"Content-Type": MANIFEST_TYPE, "Docker-Content-Digest": str(DIGEST)}


@pytest.fixture
def server() -> Iterator[OriginServer]:
    with OriginServer() as server:
        server.put_manifest(REPOSITORY, "1", BODY)
        yield server


@pytest.fixture
def origin(server: OriginServer) -> Iterator[OriginClient]:
    with client(server) as origin:
        yield origin


def client(server: OriginServer, **options: float) -> AbstractContextManager[OriginClient]:
    return OriginClient(Upstream("docker.io", server.url), proxies=Proxies(), **options)


async def test_a_tag_is_resolved_by_head(server: OriginServer, origin: OriginClient) -> None:
    assert await origin.resolve(REPOSITORY, "1") == Descriptor(MANIFEST_TYPE, DIGEST, len(BODY))
    assert [(seen.method, seen.path) for seen in server.requests] == [("HEAD", BY_TAG)]
    accepted = server.requests[0].headers["accept"].split(", ")
    assert sorted(accepted) == sorted((*MANIFEST_MEDIA_TYPES, "*/*;q=0.1"))


@pytest.mark.parametrize(
    "head",
    [
        Reply(405),
        Reply(501),
        Reply(400),
        Reply(200, {"Content-Type": MANIFEST_TYPE}, BODY),
        Reply(200, {"Docker-Content-Digest": str(DIGEST)}, BODY),
        Reply(200, GOOD, announced=-1),
    ],
)
async def test_a_head_that_doesnt_say_is_followed_by_get(
    server: OriginServer, origin: OriginClient, head: Reply
) -> None:
    server.script(BY_TAG, head)
    assert await origin.resolve(REPOSITORY, Tag("1")) == Descriptor(MANIFEST_TYPE, DIGEST, len(BODY))
    assert [seen.method for seen in server.requests] == ["HEAD", "GET"]


@pytest.mark.parametrize("target", [Tag("1"), DIGEST])
async def test_a_manifest_comes_with_its_digest_and_type(origin: OriginClient, target: Tag | Digest) -> None:
    fetched = await origin.manifest(REPOSITORY, target)
    assert (fetched.digest, fetched.media_type, fetched.body, fetched.private) == (DIGEST, MANIFEST_TYPE, BODY, False)
    manifest = fetched.parse()
    assert isinstance(manifest, Manifest)
    assert manifest.blobs[1].digest == Digest.of(b"layer")


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "application/json"}])
async def test_a_manifest_without_fields_says_itself_what_it_is(
    server: OriginServer, origin: OriginClient, headers: dict[str, str]
) -> None:
    server.script(BY_TAG, Reply(200, headers, BODY))
    fetched = await origin.manifest(REPOSITORY, Tag("1"))
    assert (fetched.digest, fetched.media_type) == (DIGEST, MANIFEST_TYPE)


async def test_a_manifest_of_another_algorithm(server: OriginServer, origin: OriginClient) -> None:
    digest = Digest.of(BODY, "sha512")
    server.put(f"/v2/{REPOSITORY}/manifests/{digest}", Reply(200, GOOD, BODY))
    assert (await origin.manifest(REPOSITORY, digest)).digest == digest


def bad(**changes: object) -> Reply:
    return replace(Reply(200, GOOD, BODY), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "reply", "error", "why"),
    [
        (BY_TAG, oci_error(404, "MANIFEST_UNKNOWN", "gone"), ManifestUnknown, "404.*MANIFEST_UNKNOWN: gone"),
        (BY_TAG, oci_error(404, "NAME_UNKNOWN"), ManifestUnknown, "404.*NAME_UNKNOWN"),
        (BY_TAG, oci_error(403, "DENIED"), Denied, "403.*DENIED.*docker.io"),
        (BY_TAG, oci_error(401, "UNAUTHORIZED", WWW_Authenticate="Basic realm=x"), Denied, "credentials_file"),
        (BY_TAG, oci_error(401, "UNAUTHORIZED", WWW_Authenticate="Digest realm=x"), Denied, "digest"),
        (BY_TAG, oci_error(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="'), ProtocolError, "WWW-Authenticate"),
        (BY_TAG, Reply(401), Denied, "Bearer and Basic"),
        (BY_TAG, Reply(500, body=b"<html>" + b"x" * 100_000), Unavailable, "answers 500; try later"),
        (BY_TAG, Reply(502), Unavailable, "502"),
        (BY_TAG, Reply(418), ProtocolError, "418"),
        (BY_TAG, Reply(204), ProtocolError, "204"),
        (BY_TAG, oci_error(429, "TOOMANYREQUESTS", Retry_After="3600"), Unavailable, "3600 s"),
        (BY_TAG, oci_error(503, "UNAVAILABLE", Retry_After="Fri, 31 Dec 2999 23:59:59 GMT"), Unavailable, "no time"),
        (BY_TAG, bad(body=BODY + b" "), ManifestInvalid, "asked for was"),
        (BY_TAG, bad(body=b"<html>", headers={"Content-Type": "text/html"}), ManifestInvalid, "isn't valid"),
        (BY_TAG, bad(headers={"Content-Type": "text/html"}), ManifestInvalid, "text/html"),
        (BY_TAG, bad(headers=GOOD | {"Docker-Content-Digest": "sha256:12"}), ManifestInvalid, "Docker-Content-Digest"),
        (BY_TAG, bad(body=b" " * (MAX_MANIFEST_BYTES + 1)), ProtocolError, "longer than the limit"),
        (BY_TAG, bad(announced=1 << 40), ProtocolError, "longer than the limit"),
        (BY_TAG, bad(cut_after=10), Unavailable, "cut after 10"),
        (BY_TAG, bad(cut_after=-1), Unavailable, "broke"),
        (BY_TAG, bad(announced=len(BODY) + 1), Unavailable, "cut"),
        (BY_TAG, bad(announced=len(BODY) - 1), ManifestInvalid, "asked for was"),
        (BY_TAG, bad(hang_after=-1), Unavailable, "in time"),
        (BY_TAG, bad(hang_after=10), Unavailable, "in time"),
        (BY_TAG, Reply(raw=b"220 mail.example ESMTP\r\n"), ProtocolError, "HTTP"),
        (BY_DIGEST, bad(body=image_manifest(b"x"), headers={}), ManifestInvalid, "asked for was"),
        (BY_DIGEST, bad(headers=GOOD | {"Docker-Content-Digest": str(Digest.of(b""))}), ManifestInvalid, "asked for"),
    ],
)
async def test_a_bad_answer_is_a_clear_error(
    server: OriginServer, path: str, reply: Reply, error: type[P2PDistError], why: str
) -> None:
    server.put(path, reply)
    target = Tag("1") if path == BY_TAG else DIGEST
    with client(server, timeout_seconds=0.3) as origin, pytest.raises(error, match=why) as caught:
        await origin.manifest(REPOSITORY, target)
    assert type(caught.value).oci_code == error.oci_code
    assert str(caught.value).startswith(f"manifest {target} of docker.io/library/app: ")
    assert str(caught.value).count("manifest 1 of") <= 1


async def test_an_origin_that_isnt_there(server: OriginServer) -> None:
    with OriginClient(Upstream("docker.io", "http://127.0.0.1:1")) as origin:
        for call in (origin.resolve(REPOSITORY, "1"), origin.blob_size(REPOSITORY, DIGEST)):
            with pytest.raises(Unavailable, match=r"docker\.io/library/app: no connection to 127\.0\.0\.1:1"):
                await call


async def test_names_are_checked_before_anything_is_sent(server: OriginServer, origin: OriginClient) -> None:
    with pytest.raises(NameInvalid):
        await origin.resolve("../etc", "1")
    with pytest.raises(NameInvalid):
        await origin.resolve(REPOSITORY, "a/b")
    assert server.requests == []


async def test_patience_with_an_origin_that_asks_for_time(server: OriginServer, origin: OriginClient) -> None:
    server.script(BY_TAG, oci_error(429, "TOOMANYREQUESTS", Retry_After="0"), Reply(503, {"Retry-After": "0"}))
    assert (await origin.manifest(REPOSITORY, Tag("1"))).body == BODY
    assert len(server.requests) == 3


async def test_patience_ends(server: OriginServer) -> None:
    server.put(BY_TAG, Reply(503))
    with client(server, max_wait_seconds=0.5) as origin, pytest.raises(Unavailable, match="no time for us"):
        await origin.manifest(REPOSITORY, Tag("1"))
    server.put(BY_TAG, Reply(503, {"Retry-After": "0"}))
    with client(server) as origin, pytest.raises(Unavailable, match="no time for us"):
        await origin.manifest(REPOSITORY, Tag("1"))
    assert len(server.requests) == 1 + 7


async def test_a_drip_of_headers_is_ended(server: OriginServer) -> None:
    server.put(BY_TAG, Reply(drips=True))
    with client(server, answer_seconds=0.3) as origin, pytest.raises(Unavailable, match="no whole answer within"):
        await origin.manifest(REPOSITORY, Tag("1"))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(server: OriginServer, origin: OriginClient, status: int) -> None:
    with OriginServer() as elsewhere:
        elsewhere.put("/x", Reply(200, GOOD, BODY))
        server.put("/moved", Reply(status, {"Location": f"{elsewhere.url}/x?signature=1"}))
        server.put(BY_TAG, Reply(status, {"Location": "/moved"}))
        assert (await origin.manifest(REPOSITORY, Tag("1"))).digest == DIGEST
        assert elsewhere.requests[0].target == "/x?signature=1"


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply(307, {"Location": BY_TAG}), "circle.*1 -> .*1$"),
        (Reply(307), "doesn't say where"),
        (Reply(307, {"Location": "ftp://x/"}), "isn't an http"),
        (Reply(307, {"Location": "http://user:pass@x/"}), "password"),
        (Reply(304), "304"),
    ],
)
async def test_bad_redirects(server: OriginServer, origin: OriginClient, reply: Reply, why: str) -> None:
    server.put(BY_TAG, reply)
    with pytest.raises(ProtocolError, match=why):
        await origin.manifest(REPOSITORY, Tag("1"))


async def test_a_circle_over_two_hosts_and_a_long_way(server: OriginServer, origin: OriginClient) -> None:
    with OriginServer() as elsewhere:
        elsewhere.put("/x", Reply(302, {"Location": server.url + BY_TAG}))
        server.put(BY_TAG, Reply(302, {"Location": f"{elsewhere.url}/x"}))
        with pytest.raises(ProtocolError, match="circle"):
            await origin.manifest(REPOSITORY, Tag("1"))
    for number in range(10):
        server.put(f"/{number}", Reply(302, {"Location": f"/{number + 1}"}))
    server.put(BY_TAG, Reply(302, {"Location": "/0"}))
    with pytest.raises(ProtocolError, match="more than 5 redirects"):
        await origin.manifest(REPOSITORY, Tag("1"))


async def test_an_index_passes(server: OriginServer, origin: OriginClient) -> None:
    index = json.dumps(
        {"schemaVersion": 2, "manifests": [{"mediaType": MANIFEST_TYPE, "digest": str(DIGEST), "size": 1}]}
    )
    kind = "application/vnd.oci.image.index.v1+json"
    server.put_manifest(REPOSITORY, "all", index.encode(), kind)
    assert (await origin.resolve(REPOSITORY, "all")).media_type == kind
    fetched = await origin.manifest(REPOSITORY, Tag("all"))
    assert [child.digest for child in fetched.parse().manifests] == [DIGEST]


async def test_the_size_of_a_blob(server: OriginServer, origin: OriginClient) -> None:
    digest = server.put_blob(REPOSITORY, b"x" * 1000)
    assert await origin.blob_size(REPOSITORY, digest) == 1000
    with pytest.raises(BlobUnknown, match="blob sha256:"):
        await origin.blob_size(REPOSITORY, Digest.of(b"other"))
    assert {seen.method for seen in server.requests} == {"HEAD"}


async def test_an_origin_below_a_path(server: OriginServer) -> None:
    server.put("/mirror/hub" + BY_TAG, Reply(200, GOOD, BODY))
    with OriginClient(Upstream("docker.io", f"{server.url}/mirror/hub/"), proxies=Proxies()) as origin:
        assert (await origin.manifest(REPOSITORY, Tag("1"))).digest == DIGEST
