import pytest

from p2pdist.agent import sizes
from p2pdist.agent.sizes import Sizes
from p2pdist.core.digest import Digest
from p2pdist.oci.descriptor import Descriptor


def blob(data: bytes) -> Descriptor:
    return Descriptor("application/x", Digest.of(data), len(data))


def test_each_repository_has_what_its_own_manifests_name() -> None:
    known = Sizes()
    known.learn("docker.io", "library/app", (blob(b"layer"),))
    assert known.get("docker.io", "library/app", blob(b"layer").digest) == 5
    assert known.get("docker.io", "library/other", blob(b"layer").digest) is None
    assert known.get("quay.io", "library/app", blob(b"layer").digest) is None
    assert known.get("docker.io", "library/app", blob(b"other").digest) is None


def test_what_was_named_longest_ago_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "_REMEMBERED", 2)
    known = Sizes()
    known.learn("docker.io", "a", (blob(b"1"), blob(b"2")))
    known.learn("docker.io", "a", (blob(b"1"), blob(b"3")))
    assert [known.get("docker.io", "a", blob(data).digest) for data in (b"1", b"2", b"3")] == [1, None, 1]
