"""Kinds of content that are rare: an empty blob, digests of sha512. They are relayed like all others."""

from collections.abc import Callable, Iterator

import pytest

from tests.system.fetches import get
from tests.system.fleet import UPSTREAM, Fleet, open_fleet
from tests.system.registries import Registry

REPOSITORY = "library/kinds"
CONTENT = {"nothing": b"", "one byte": b"x", "several pieces": b"0123456789" * 100_000}


@pytest.fixture(scope="module")
def origin_and_fleet(
    tmp_path_factory: pytest.TempPathFactory, require_program: Callable[[str], str]
) -> Iterator[tuple[Registry, Fleet]]:
    require_program("docker-registry")
    with open_fleet(tmp_path_factory.mktemp("kinds"), agents=2) as both:
        yield both


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("what", CONTENT)
def test_a_blob(what: str, algorithm: str, origin_and_fleet: tuple[Registry, Fleet]) -> None:
    registry, fleet = origin_and_fleet
    data = CONTENT[what] + (b"" if algorithm == "sha512" or not CONTENT[what] else b"!")
    digest = registry.upload(data, REPOSITORY, algorithm)
    path = f"/v2/{REPOSITORY}/blobs/{digest}?ns={UPSTREAM}"
    before = registry.meter.requests("GET", digest)
    status, headers, _ = get(fleet.agents[0], path, "HEAD")
    assert (status, headers["content-length"], headers["docker-content-digest"]) == (200, str(len(data)), digest)
    assert registry.meter.requests("GET", digest) == before
    for agent in fleet.agents:
        status, headers, body = get(agent, path)
        assert (status, body, headers["docker-content-digest"]) == (200, data, digest)
    assert registry.meter.requests("GET", digest) == before + 1
