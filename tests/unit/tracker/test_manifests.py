"""Tags and manifests: one request for all who ask at once, nothing asked twice that has a digest."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from p2pdist.config.addresses import OriginUrl, RegistryHost
from p2pdist.config.schema import Upstream
from p2pdist.core.digest import Digest
from p2pdist.core.errors import Denied, ManifestUnknown, NotFound, P2PDistError, ProtocolError
from p2pdist.oci.errors import ManifestInvalid
from p2pdist.oci.reference import Tag
from p2pdist.oci.rights import Asker, Place
from p2pdist.store import BlobStore, StoredManifest
from p2pdist.telemetry.metrics import ManifestOutcome, OriginOutcome, TrackerMetrics
from p2pdist.tracker.flights import Flights
from p2pdist.tracker.manifests import Manifests
from p2pdist.tracker.origins import Origins
from tests.fakes.origin_server import OriginServer, Reply, image_manifest, oci_error
from tests.unit.tracker.bench import REGISTRY, REPOSITORY, metrics

LAYER = b"a layer of the image"
BODY = image_manifest(LAYER)
TAG_PATH = f"/v2/{REPOSITORY}/manifests/1.0"


class Bench:
    def __init__(self, manifests: Manifests, store: BlobStore, origins: Origins, counts: TrackerMetrics) -> None:
        self.manifests, self.store, self.origins, self.counts = manifests, store, origins, counts

    async def get(self, wanted: Tag | Digest, repository: str = REPOSITORY) -> StoredManifest:
        return await self.manifests.get(Asker(Place(REGISTRY, repository)), wanted)

    async def at_once(self, count: int, wanted: Tag | Digest) -> list[StoredManifest | P2PDistError]:
        results: list[StoredManifest | P2PDistError] = []

        async def one() -> None:
            try:
                results.append(await self.get(wanted))
            except P2PDistError as error:
                results.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(one)
        return results

    def count(self, outcome: ManifestOutcome) -> float:
        return float(self.counts.manifests.labels(outcome)._value.get())


@pytest.fixture
def origin() -> Iterator[OriginServer]:
    with OriginServer() as server:
        server.put_manifest(REPOSITORY, "1.0", BODY)
        server.put_blob(REPOSITORY, LAYER)
        yield server


@pytest.fixture
async def bench(origin: OriginServer, tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Bench]:
    counts = metrics()
    upstream = Upstream(name=RegistryHost(REGISTRY), origin=OriginUrl(origin.url))
    with BlobStore.open(tmp_path) as store, Origins([upstream], counts) as origins:
        yield Bench(Manifests(origins, store, nursery, counts), store, origins, counts)


async def test_simultaneous_questions_are_one_request(origin: OriginServer, bench: Bench) -> None:
    found = await bench.at_once(20, Tag("1.0"))
    assert [one.body for one in found if isinstance(one, StoredManifest)] == [BODY] * 20
    assert len(origin.seen(TAG_PATH)) == 1
    assert (bench.count(ManifestOutcome.FETCHED), bench.count(ManifestOutcome.SHARED)) == (1, 19)


async def test_a_tag_is_asked_for_anew_and_a_digest_is_not(origin: OriginServer, bench: Bench) -> None:
    first = await bench.get(Tag("1.0"))
    newer = image_manifest(b"another layer")
    origin.put_manifest(REPOSITORY, "1.0", newer)
    assert (await bench.get(Tag("1.0"))).body == newer
    assert (await bench.get(first.digest)).body == BODY
    assert origin.seen(f"/v2/{REPOSITORY}/manifests/{first.digest}") == []
    assert bench.count(ManifestOutcome.CACHED) == 1


async def test_what_another_repository_gave_is_asked_of_this_one(origin: OriginServer, bench: Bench) -> None:
    found = await bench.get(Tag("1.0"))
    with pytest.raises(ManifestUnknown):
        await bench.get(found.digest, "another/repository")
    assert len(origin.seen(f"/v2/another/repository/manifests/{found.digest}")) == 1


async def test_errors_are_shared_and_not_remembered(origin: OriginServer, bench: Bench) -> None:
    origin.script(TAG_PATH, oci_error(404, "MANIFEST_UNKNOWN"))
    found = await bench.at_once(5, Tag("1.0"))
    assert [type(one) for one in found] == [ManifestUnknown] * 5
    assert len(origin.seen(TAG_PATH)) == 1
    assert bench.count(ManifestOutcome.UNKNOWN) == 1
    assert (await bench.get(Tag("1.0"))).body == BODY


@pytest.mark.parametrize(
    ("reply", "error", "outcome"),
    [
        (oci_error(403, "DENIED"), Denied, OriginOutcome.DENIED),
        (oci_error(404, "NAME_UNKNOWN"), ManifestUnknown, OriginOutcome.NOT_FOUND),
        (Reply(200, {"Content-Type": "application/json"}, b"no json"), ManifestInvalid, OriginOutcome.FAILED),
        (Reply(302, {"Location": TAG_PATH}), ProtocolError, OriginOutcome.FAILED),
        (Reply(200, {}, b"x" * ((4 << 20) + 1)), ProtocolError, OriginOutcome.FAILED),
    ],
)
async def test_what_an_origin_does_wrong_is_said(
    origin: OriginServer, bench: Bench, reply: Reply, error: type[P2PDistError], outcome: OriginOutcome
) -> None:
    origin.script(TAG_PATH, *[reply] * 30)
    with pytest.raises(error):
        await bench.get(Tag("1.0"))
    assert bench.counts.origin_requests.labels(REGISTRY, outcome)._value.get() == 1


async def test_wrong_bytes_under_a_digest_are_refused(origin: OriginServer, bench: Bench) -> None:
    digest = Digest.of(b"what it should be")
    origin.put(f"/v2/{REPOSITORY}/manifests/{digest}", Reply(200, {}, BODY))
    with pytest.raises(ManifestInvalid, match="digest"):
        await bench.get(digest)
    assert bench.store.manifest(digest) is None


async def test_an_unknown_upstream_is_named(bench: Bench) -> None:
    with pytest.raises(NotFound, match=r"'elsewhere\.example' isn't an upstream of this tracker"):
        await bench.manifests.get(Asker(Place("elsewhere.example", REPOSITORY)), Tag("1.0"))


async def test_a_store_that_cannot_keep_a_manifest_does_not_keep_it_from_those_who_ask(bench: Bench) -> None:
    bench.store.close()
    assert (await bench.get(Tag("1.0"))).body == BODY


async def test_who_hangs_up_does_not_end_the_fetch_for_others(origin: OriginServer, bench: Bench) -> None:
    with trio.move_on_after(0) as gone:
        await bench.get(Tag("1.0"))
    assert gone.cancelled_caught
    assert (await bench.get(Tag("1.0"))).body == BODY
    assert len(origin.seen(TAG_PATH)) == 1


async def test_an_error_that_nobody_expected_is_one_fetch_s(nursery: trio.Nursery) -> None:
    flights: Flights[str, int] = Flights(nursery, "number")

    async def broken() -> int:
        raise ZeroDivisionError

    async def works() -> int:
        return 3

    with pytest.raises(P2PDistError, match="ZeroDivisionError"):
        await flights.get("a", broken)
    assert "a" not in flights
    assert await flights.get("a", works) == 3


def test_what_agents_are_told_of_upstreams() -> None:
    upstream = Upstream(name=RegistryHost("docker.io"))
    with Origins([upstream], metrics()) as origins:
        assert [(info.name, info.origin) for info in origins.infos()] == [("docker.io", "https://registry-1.docker.io")]
        with pytest.raises(NotFound, match=r"it has docker\.io"):
            origins.client("ghcr.io")
    with Origins([], metrics()) as none, pytest.raises(NotFound, match="it has none"):
        none.client("docker.io")
