"""Who gets a blob that is here, and how little upstreams are asked about it."""

from collections.abc import Iterator

import pytest
import trio
import trio.testing

from p2pdist.config.addresses import OriginUrl, RegistryHost
from p2pdist.config.schema import Upstream
from p2pdist.core.digest import Digest
from p2pdist.core.errors import BlobUnknown, Denied, NotFound, P2PDistError, Unavailable
from p2pdist.oci import rights as rights_module
from p2pdist.oci.bearer import BearerToken
from p2pdist.oci.rights import Asker, Place
from p2pdist.tracker.gate import Gate, Held
from p2pdist.tracker.origins import Origins
from tests.fakes.origin_server import Reply, image_manifest
from tests.fakes.rights_registry import ANONYMOUS, RightsRegistry
from tests.unit.tracker.bench import metrics

ONE, TWO = "one.example", "two.example"
SECRET, OTHER, ELSEWHERE = Place(ONE, "team/secret"), Place(ONE, "evil/app"), Place(TWO, "evil/app")
LAYER = b"a layer that not everybody may have"
DIGEST = Digest.of(LAYER)
MINE, THEIRS = BearerToken("mine"), BearerToken("theirs")
PRIVATE = Held(SECRET, True, len(LAYER))
WAS_OPEN = Held(SECRET, False, len(LAYER))


@pytest.fixture
def one() -> Iterator[RightsRegistry]:
    with RightsRegistry() as server:
        server.put_blob(SECRET.repository, LAYER)
        server.rights = {"mine": {SECRET.repository}, "theirs": {OTHER.repository}}
        yield server


@pytest.fixture
def two() -> Iterator[RightsRegistry]:
    with RightsRegistry() as server:
        server.public.add(ELSEWHERE.repository)
        yield server


@pytest.fixture
def origins(one: RightsRegistry, two: RightsRegistry) -> Iterator[Origins]:
    upstreams = [
        Upstream(name=RegistryHost(name), origin=OriginUrl(server.url)) for name, server in ((ONE, one), (TWO, two))
    ]
    with Origins(upstreams, metrics()) as origins:
        yield origins


@pytest.fixture
async def gate(origins: Origins, nursery: trio.Nursery) -> Gate:
    return Gate(origins, nursery)


def blob(place: Place) -> str:
    return f"/v2/{place.repository}/blobs/{DIGEST}"


async def refused(gate: Gate, asker: Asker, held: Held | None = PRIVATE, **more: bool) -> P2PDistError:
    with pytest.raises((Denied, NotFound)) as caught:
        await gate.check(asker, DIGEST, held, **more)
    if held is not None:
        assert not gate.admits(asker, DIGEST, held)
    return caught.value


async def test_whoever_may_read_the_home_gets_it(one: RightsRegistry, gate: Gate) -> None:
    asker = Asker(SECRET, MINE)
    assert not gate.admits(asker, DIGEST, PRIVATE)
    assert await gate.check(asker, DIGEST, PRIVATE) == len(LAYER)
    assert gate.admits(asker, DIGEST, PRIVATE)
    assert await gate.check(asker, DIGEST, PRIVATE) == len(LAYER)
    assert one.asked(blob(SECRET)) == [("HEAD", ""), ("HEAD", ANONYMOUS), ("HEAD", "mine")]


@pytest.mark.parametrize("held", [PRIVATE, WAS_OPEN])
async def test_whoever_may_not_read_it_guesses_in_vain(gate: Gate, held: Held) -> None:
    for asker in (Asker(SECRET), Asker(SECRET, THEIRS), Asker(OTHER, THEIRS), Asker(OTHER), Asker(ELSEWHERE)):
        await refused(gate, asker, held)


async def test_a_manifest_that_lists_it_does_not_help(one: RightsRegistry, gate: Gate) -> None:
    one.put_manifest(OTHER.repository, "mine-now", image_manifest(LAYER))
    one.public.add(OTHER.repository)
    assert isinstance(await refused(gate, Asker(OTHER)), BlobUnknown)


async def test_another_repository_that_has_it_too_gives_it(one: RightsRegistry, gate: Gate) -> None:
    one.put_blob(OTHER.repository, LAYER)
    for _ in range(2):
        assert await gate.check(Asker(OTHER, THEIRS), DIGEST, PRIVATE) == len(LAYER)
    assert one.asked(blob(OTHER)) == [("HEAD", ""), ("HEAD", ANONYMOUS), ("HEAD", "theirs")]
    await refused(gate, Asker(SECRET, THEIRS))


async def test_another_registry_must_give_the_bytes_not_its_word(two: RightsRegistry, gate: Gate) -> None:
    said = {"Docker-Content-Digest": str(DIGEST), "Content-Type": "application/octet-stream"}
    two.put(blob(ELSEWHERE), Reply(200, said, b"x" * len(LAYER)))
    assert isinstance(await refused(gate, Asker(ELSEWHERE)), BlobUnknown)
    assert isinstance(await refused(gate, Asker(ELSEWHERE), None, proof=True), BlobUnknown)
    two.put_blob(ELSEWHERE.repository, LAYER)
    before = len(two.seen(blob(ELSEWHERE)))
    for _ in range(3):
        assert await gate.check(Asker(ELSEWHERE), DIGEST, PRIVATE) == len(LAYER)
    assert len(two.seen(blob(ELSEWHERE))) == before + 1


async def test_what_was_everybodys_is_asked_once_for_all_who_want_any_of_it(one: RightsRegistry, gate: Gate) -> None:
    one.public.add(SECRET.repository)
    more = Digest.of(b"another layer")
    one.put_blob(SECRET.repository, b"another layer")

    async def ask(asker: Asker, digest: Digest) -> None:
        assert await gate.check(asker, digest, WAS_OPEN) == len(LAYER)

    async with trio.open_nursery() as nursery:
        for asker in (Asker(SECRET), Asker(OTHER), Asker(SECRET, MINE), Asker(ELSEWHERE)):
            for digest in (DIGEST, more):
                nursery.start_soon(ask, asker, digest)
    heads = [seen for seen in one.requests if seen.method == "HEAD" and seen.headers.get("authorization")]
    assert len(heads) == 1


async def test_a_blob_that_the_upstream_threw_away_takes_no_other_with_it(one: RightsRegistry, gate: Gate) -> None:
    gone = Digest.of(b"thrown away by the registry")
    results: dict[Digest, object] = {}

    async def ask(digest: Digest) -> None:
        try:
            results[digest] = await gate.check(Asker(SECRET, MINE), digest, PRIVATE)
        except NotFound as error:
            results[digest] = type(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, gone)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask, DIGEST)
    assert results == {gone: BlobUnknown, DIGEST: len(LAYER)}


async def test_when_the_upstream_cannot_be_asked_what_was_open_lately_stays_so_and_grants_do_not(
    one: RightsRegistry, origins: Origins, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    origins.rights.opened(SECRET, 0)
    origins.rights.granted(SECRET, MINE, 0)
    one.down = True
    assert await gate.check(Asker(SECRET), DIGEST, WAS_OPEN) == len(LAYER)
    monkeypatch.setattr(rights_module, "STALE_SECONDS", 0.0)
    for asker in (Asker(SECRET), Asker(SECRET, MINE)):
        with pytest.raises(Unavailable):
            await gate.check(asker, DIGEST, WAS_OPEN)


async def test_of_what_is_not_here_the_upstream_tells_the_size(one: RightsRegistry, gate: Gate) -> None:
    for _ in range(2):
        assert await gate.check(Asker(SECRET, MINE), DIGEST, None) == len(LAYER)
    assert one.asked(blob(SECRET))[2:] == [("HEAD", "mine")]
    await refused(gate, Asker(SECRET, THEIRS), None)
    await refused(gate, Asker(OTHER, THEIRS), None)
