"""Tags of an upstream that is down: what they were, where the operator wants that, and not for too long."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from p2pdist.config.addresses import OriginUrl, RegistryHost
from p2pdist.config.schema import Upstream
from p2pdist.config.values import Seconds
from p2pdist.core.digest import Digest
from p2pdist.core.errors import Denied, ManifestUnknown, P2PDistError, Unavailable
from p2pdist.oci.reference import Tag
from p2pdist.oci.rights import Asker, Place
from p2pdist.store import BlobStore
from p2pdist.telemetry.metrics import ManifestOutcome, TrackerMetrics
from p2pdist.tracker import manifests as module
from p2pdist.tracker.manifests import Manifests
from p2pdist.tracker.origins import Origins
from tests.fakes.origin_server import OriginServer, Reply, image_manifest, oci_error
from tests.unit.tracker.bench import REGISTRY, REPOSITORY, metrics

BODY = image_manifest(b"layer")
PATH = f"/v2/{REPOSITORY}/manifests/1.0"
ASKER = Asker(Place(REGISTRY, REPOSITORY))
DOWN = oci_error(500, "UNKNOWN")


@pytest.fixture
def origin() -> Iterator[OriginServer]:
    with OriginServer() as server:
        server.put_manifest(REPOSITORY, "1.0", BODY)
        yield server


class Bench:
    """Manifests over a store that outlives them, and a clock of the test for the age of tags."""

    def __init__(self, directory: Path, origin: OriginServer, stale_if_error: float) -> None:
        self.upstream = Upstream(
            name=RegistryHost(REGISTRY), origin=OriginUrl(origin.url), stale_if_error=Seconds(stale_if_error)
        )
        self.directory = directory
        self.now = 1e9
        self.counts: TrackerMetrics = metrics()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Manifests]:
        async with trio.open_nursery() as nursery:
            with BlobStore.open(self.directory) as store, Origins([self.upstream], self.counts) as origins:
                manifests = Manifests(origins, store, nursery, self.counts)
                manifests._last_known._clock = lambda: self.now
                yield manifests
            nursery.cancel_scope.cancel()

    def stale(self) -> float:
        return float(self.counts.manifests.labels(ManifestOutcome.STALE)._value.get())


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_tag_is_what_it_was_while_its_upstream_is_down(
    origin: OriginServer, tmp_path: Path, restarted: bool
) -> None:
    bench = Bench(tmp_path, origin, 3600)
    async with bench.running() as manifests:
        assert (await manifests.get(ASKER, Tag("1.0"))).body == BODY
        origin.put(PATH, DOWN)
        if not restarted:
            bench.now += 3600
            assert (await manifests.get(ASKER, Tag("1.0"))).digest == Digest.of(BODY)
            bench.now += 1
            with pytest.raises(Unavailable):
                await manifests.get(ASKER, Tag("1.0"))
    if restarted:
        async with bench.running() as manifests:
            assert (await manifests.get(ASKER, Tag("1.0"))).body == BODY
    assert bench.stale() == 1


async def test_what_the_upstream_says_later_counts(origin: OriginServer, tmp_path: Path) -> None:
    bench = Bench(tmp_path, origin, 3600)
    newer = image_manifest(b"newer")
    async with bench.running() as manifests:
        await manifests.get(ASKER, Tag("1.0"))
        origin.put_manifest(REPOSITORY, "1.0", newer)
        await manifests.get(ASKER, Tag("1.0"))
        origin.script(PATH, DOWN)
        assert (await manifests.get(ASKER, Tag("1.0"))).body == newer
        with pytest.raises(ManifestUnknown):
            await manifests.get(ASKER, Tag("other"))
        origin.put(PATH.replace("1.0", "other"), DOWN)
        with pytest.raises(Unavailable):
            await manifests.get(ASKER, Tag("other"))


@pytest.mark.parametrize(("status", "error"), [(404, ManifestUnknown), (403, Denied)])
async def test_what_the_upstream_has_taken_back_isnt_given_later(
    origin: OriginServer, tmp_path: Path, status: int, error: type[P2PDistError]
) -> None:
    bench = Bench(tmp_path, origin, 3600)
    async with bench.running() as manifests:
        await manifests.get(ASKER, Tag("1.0"))
        origin.put(PATH, oci_error(status, "UNKNOWN"))
        with pytest.raises(error):
            await manifests.get(ASKER, Tag("1.0"))
    origin.put(PATH, DOWN)
    async with bench.running() as manifests:
        with pytest.raises(Unavailable):
            await manifests.get(ASKER, Tag("1.0"))


async def test_without_the_operators_word_nothing_is_remembered(origin: OriginServer, tmp_path: Path) -> None:
    bench = Bench(tmp_path, origin, 0)
    async with bench.running() as manifests:
        await manifests.get(ASKER, Tag("1.0"))
        assert manifests._store.tag(REGISTRY, REPOSITORY, "1.0") is None
        origin.put(PATH, DOWN)
        with pytest.raises(Unavailable):
            await manifests.get(ASKER, Tag("1.0"))


async def test_an_upstream_that_hangs_is_down(
    origin: OriginServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)
    bench = Bench(tmp_path, origin, 3600)
    origin.put(PATH, Reply(body=BODY, hang_after=-1))
    async with bench.running() as manifests:
        with pytest.raises(Unavailable, match=r"within 0\.2 s"):
            await manifests.get(ASKER, Tag("1.0"))


def test_the_tags_that_were_confirmed_last_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pdist.store.catalogue.TAG_ROWS", 2)
    with BlobStore.open(tmp_path) as store:
        for at_seconds, tag in ((3.0, "a"), (1.0, "b"), (2.0, "c")):
            store.put_tag(REGISTRY, REPOSITORY, tag, Digest.of(BODY), at_seconds)
        kept = [store.tag(REGISTRY, REPOSITORY, tag) for tag in "abc"]
    assert [one.at_seconds if one else None for one in kept] == [3.0, None, 2.0]
