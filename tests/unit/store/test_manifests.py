import sqlite3
from pathlib import Path

import pytest

from p2pdist.core.digest import Digest
from p2pdist.core.errors import DigestInvalid, InvalidInput
from p2pdist.store import BlobStore, StoredManifest

TYPE = "application/vnd.oci.image.manifest.v1+json"


def put(store: BlobStore, body: bytes) -> Digest:
    digest = Digest.of(body)
    store.put_manifest(digest, TYPE, body, "docker.io", "library/app")
    return digest


def test_a_manifest_comes_back_byte_for_byte_after_a_restart(root: Path) -> None:
    body = b'{"layers": []}\n'
    digest = Digest.of(body, "sha512")
    with BlobStore.open(root) as store:
        assert store.manifest(digest) is None
        store.put_manifest(digest, TYPE, body, "docker.io", "library/app", private=True)
    with BlobStore.open(root) as store:
        assert store.manifest(digest) == StoredManifest(digest, TYPE, body, "docker.io", "library/app", True)


def test_putting_it_again_replaces_what_is_said_about_it(store: BlobStore) -> None:
    digest = put(store, b"{}")
    store.put_manifest(digest, "text/plain", b"{}", "ghcr.io", "other")
    assert store.manifest(digest) == StoredManifest(digest, "text/plain", b"{}", "ghcr.io", "other", False)


def test_a_body_with_another_digest_is_refused(store: BlobStore) -> None:
    digest = Digest.of(b"{}")
    with pytest.raises(DigestInvalid, match=str(digest)):
        store.put_manifest(digest, TYPE, b"{ }", "docker.io", "library/app")
    assert store.manifest(digest) is None


def test_a_body_over_four_mebibytes_is_refused(store: BlobStore) -> None:
    put(store, bytes(4 * 1024 * 1024))
    with pytest.raises(InvalidInput, match="4194305 bytes"):
        put(store, bytes(4 * 1024 * 1024 + 1))


def test_a_damaged_body_is_never_given_out(root: Path) -> None:
    with BlobStore.open(root) as store:
        digest = put(store, b"{}")
    db = sqlite3.connect(root / "catalogue.sqlite", isolation_level=None)
    db.execute("UPDATE manifests SET body = x'5b5d'")
    db.close()
    with BlobStore.open(root) as store:
        assert store.manifest(digest) is None
        put(store, b"{}")
        found = store.manifest(digest)
        assert found is not None
        assert found.body == b"{}"


def test_those_used_longest_ago_go_when_there_are_too_many(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pdist.store.catalogue.MANIFESTS_BYTES", 30)
    times = iter(range(100))
    with BlobStore.open(root, clock=lambda: float(next(times))) as store:
        a, b, c = (put(store, bytes([65 + number]) * 10) for number in range(3))
        assert store.manifest(a) is not None
        d = put(store, b"D" * 10)
        assert [store.manifest(digest) is not None for digest in (a, b, c, d)] == [True, False, True, True]


def test_blob_and_manifest_of_one_digest_do_not_meet(store: BlobStore) -> None:
    digest = put(store, b"{}")
    assert not store.has(digest)
    assert not store.remove(digest)
    assert store.manifest(digest) is not None
