"""What a registry must answer to those who pull (OCI distribution spec, "Pull"), as checks for any registry.

The embedded registry must pass them because Debian's docker-registry does: see test_registry.py and
tests/system/test_registry_conformance.py. Speaks plain http.client; knows nothing of p2pdist.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPMessage
from typing import Any

ACCEPTED = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.v2",
        "docker.distribution.manifest.list.v2",
    )
)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def codes(self) -> list[str]:
        return [error["code"] for error in json.loads(self.body)["errors"]]


@dataclass(frozen=True)
class Subject:
    """A registry under test and what it was given: an index under a tag, a manifest that it lists, a blob of that."""

    host: str
    port: int
    repository: str
    tag: str
    index_type: str
    index: bytes
    manifest_type: str
    manifest: bytes
    blob: bytes

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None) -> Answer:
        connection = HTTPConnection(self.host, self.port, timeout=10)
        try:
            connection.request(method, path, headers={"Accept": ACCEPTED} | (headers or {}))
            response = connection.getresponse()
            # docker-registry 2.8 announces the whole blob's length with a 416, so its body isn't waited for.
            body = b"" if response.status == 416 else response.read()
            return Answer(response.status, response.headers, body)
        finally:
            connection.close()

    def manifest_path(self, reference: str) -> str:
        return f"/v2/{self.repository}/manifests/{reference}"

    def blob_path(self, digest: str = "") -> str:
        return f"/v2/{self.repository}/blobs/{digest or sha256(self.blob)}"

    def part(self, spec: str) -> Answer:
        return self.ask("GET", self.blob_path(), {"Range": spec})


def sha256(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


CHECKS: list[Callable[[Subject], None]] = []


def check(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
    CHECKS.append(function)
    return function


def assert_manifest(answer: Answer, body: bytes, media_type: str, sent: bytes) -> None:
    assert answer.status == 200
    assert answer.headers["Content-Type"] == media_type
    assert answer.headers["Docker-Content-Digest"] == sha256(body)
    assert answer.headers["Content-Length"] == str(len(body))
    assert answer.headers["Content-Encoding"] is None
    assert answer.body == sent


@check
def the_base_says_which_api(subject: Subject) -> None:
    answer = subject.ask("GET", "/v2/")
    assert answer.status == 200
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert json.loads(answer.body) == {}


@check
def an_index_by_tag(subject: Subject) -> None:
    path = subject.manifest_path(subject.tag)
    assert_manifest(subject.ask("GET", path), subject.index, subject.index_type, subject.index)
    assert_manifest(subject.ask("HEAD", path), subject.index, subject.index_type, b"")


@check
def manifests_by_digest(subject: Subject) -> None:
    for body, media_type in ((subject.index, subject.index_type), (subject.manifest, subject.manifest_type)):
        path = subject.manifest_path(sha256(body))
        assert_manifest(subject.ask("GET", path), body, media_type, body)
        assert_manifest(subject.ask("HEAD", path), body, media_type, b"")


@check
def a_blob(subject: Subject) -> None:
    for method, sent in (("GET", subject.blob), ("HEAD", b"")):
        answer = subject.ask(method, subject.blob_path())
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Content-Length"] == str(len(subject.blob))
        assert answer.headers["Docker-Content-Digest"] == sha256(subject.blob)
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert answer.headers["Content-Encoding"] is None
        assert answer.body == sent


@check
def a_part_of_a_blob_in_each_of_the_three_forms(subject: Subject) -> None:
    size = len(subject.blob)
    for spec, start, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        (f"bytes=100-{size + 5}", 100, size),
        ("bytes=1000-", 1000, size),
        (f"bytes={size - 1}-", size - 1, size),
        ("bytes=-10", size - 10, size),
    ):
        answer = subject.part(spec)
        assert answer.status == 206, spec
        assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{size}", spec
        assert answer.headers["Content-Length"] == str(end - start), spec
        assert answer.body == subject.blob[start:end], spec


@check
def a_part_behind_the_end(subject: Subject) -> None:
    answer = subject.part(f"bytes={len(subject.blob)}-")
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(subject.blob)}"


@check
def the_tags(subject: Subject) -> None:
    answer = subject.ask("GET", f"/v2/{subject.repository}/tags/list")
    assert answer.status == 200
    assert json.loads(answer.body) == {"name": subject.repository, "tags": [subject.tag]}


@check
def what_is_unknown(subject: Subject) -> None:
    nothing = sha256(b"nothing")
    cases: list[tuple[str, set[str]]] = [
        (subject.manifest_path("no-such-tag"), {"MANIFEST_UNKNOWN"}),
        (subject.manifest_path(nothing), {"MANIFEST_UNKNOWN"}),
        (subject.blob_path(nothing), {"BLOB_UNKNOWN"}),
        (f"/v2/no/such/manifests/{subject.tag}", {"MANIFEST_UNKNOWN", "NAME_UNKNOWN"}),
        (f"/v2/no/such/blobs/{sha256(subject.blob)}", {"BLOB_UNKNOWN", "NAME_UNKNOWN"}),
        ("/v2/no/such/tags/list", {"NAME_UNKNOWN"}),
    ]
    for path, codes in cases:
        answer = subject.ask("GET", path)
        assert answer.status == 404, path
        assert set(answer.codes) <= codes, path
        assert subject.ask("HEAD", path).status in (404, 405), path


@check
def what_is_no_digest(subject: Subject) -> None:
    for text in ("sha256:abc", "sha256:" + "z" * 64, "sha256:" + "A" * 64, "md5:" + "0" * 32):
        answer = subject.ask("GET", subject.blob_path(text))
        assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"]), text


@check
def several_answers_on_one_connection(subject: Subject) -> None:
    connection = HTTPConnection(subject.host, subject.port, timeout=10)
    try:
        for _ in range(3):
            connection.request("GET", subject.blob_path())
            assert connection.getresponse().read() == subject.blob
            connection.request("HEAD", subject.manifest_path(subject.tag), headers={"Accept": ACCEPTED})
            assert connection.getresponse().read() == b""
            connection.request("GET", subject.blob_path(sha256(b"nothing")))
            assert connection.getresponse().read() != b""
    finally:
        connection.close()


def example(host: str, port: int) -> tuple[Subject, list[Any]]:
    """A subject, and what must be put into its registry: (media type, body, reference) of the manifests, in order."""
    index_type, manifest_type, _, _ = ACCEPTED.split(", ")
    blob = hashlib.shake_128(b"blob").digest(100_000)
    layer = {
        "mediaType": "application/vnd.oci.image.layer.v1.tar",
        "digest": sha256(blob),
        "size": len(blob),
    }
    config = layer | {"mediaType": "application/vnd.oci.image.config.v1+json"}
    manifest = json.dumps(
        {"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": [layer]}
    ).encode()
    listed = {"mediaType": manifest_type, "digest": sha256(manifest), "size": len(manifest)}
    platform = {"platform": {"os": "linux", "architecture": "amd64"}}
    index = json.dumps({"schemaVersion": 2, "mediaType": index_type, "manifests": [listed | platform]}).encode()
    subject = Subject(host, port, "team/app", "1.0", index_type, index, manifest_type, manifest, blob)
    return subject, [(manifest_type, manifest, sha256(manifest)), (index_type, index, "1.0")]
