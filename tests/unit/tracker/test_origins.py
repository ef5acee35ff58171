"""With whose rights upstreams are asked, and what is learnt from their answers."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from p2pdist.config.addresses import OriginUrl, RegistryHost
from p2pdist.config.schema import Upstream
from p2pdist.core.digest import Digest
from p2pdist.core.errors import BlobUnknown, Denied, NotFound, P2PDistError
from p2pdist.oci.bearer import BearerToken
from p2pdist.oci.errors import Unauthorized
from p2pdist.oci.reference import Tag
from p2pdist.oci.rights import Access, Asker, Place
from p2pdist.tracker.origins import Origins
from tests.fakes.origin_server import cut, image_manifest
from tests.fakes.rights_registry import ANONYMOUS, RightsRegistry
from tests.unit.tracker.bench import REGISTRY, metrics

PUBLIC, SECRET = Place(REGISTRY, "library/app"), Place(REGISTRY, "team/secret")
LAYER = b"a layer of the image"
DIGEST = Digest.of(LAYER)
BODY = image_manifest(LAYER)
ONE = Tag("1")
MINE, THEIRS = BearerToken("mine"), BearerToken("theirs")


@pytest.fixture
def registry() -> Iterator[RightsRegistry]:
    with RightsRegistry() as server:
        for place in (PUBLIC, SECRET):
            server.put_manifest(place.repository, "1", BODY)
            server.put_blob(place.repository, LAYER)
        server.public.add(PUBLIC.repository)
        server.rights = {"mine": {SECRET.repository}}
        yield server


@contextmanager
def origins_of(registry: RightsRegistry, access: str = "client", *, takes_tokens: bool = True) -> Iterator[Origins]:
    upstream = Upstream(name=RegistryHost(REGISTRY), origin=OriginUrl(registry.url), access=access)  # type: ignore[arg-type]
    with Origins([upstream], metrics(), takes_tokens=takes_tokens) as origins:
        yield origins


@pytest.fixture
def origins(registry: RightsRegistry) -> Iterator[Origins]:
    with origins_of(registry) as origins:
        yield origins


def path(place: Place, what: str = "manifests/1") -> str:
    return f"/v2/{place.repository}/{what}"


async def test_what_everybody_may_have_takes_nobodys_token(registry: RightsRegistry, origins: Origins) -> None:
    for token in (None, MINE, THEIRS):
        assert not (await origins.manifest(Asker(PUBLIC, token), ONE)).private
    assert set(registry.authorizations(path(PUBLIC))) == {"", ANONYMOUS}
    assert origins.rights.is_open(PUBLIC)


async def test_what_is_not_everybodys_takes_the_callers_token(registry: RightsRegistry, origins: Origins) -> None:
    shut: list[Place] = []
    origins.on_shut = shut.append
    assert (await origins.manifest(Asker(SECRET, MINE), ONE)).private
    assert registry.authorizations(path(SECRET)) == ["", ANONYMOUS, "mine"]
    assert shut == [SECRET]
    assert origins.rights.may_read(Asker(SECRET, MINE))
    assert not origins.rights.may_read(Asker(SECRET, THEIRS))
    assert not origins.rights.may_read(Asker(SECRET))


async def test_that_it_is_not_everybodys_is_asked_once(registry: RightsRegistry, origins: Origins) -> None:
    for _ in range(3):
        with pytest.raises(Unauthorized) as caught:
            await origins.manifest(Asker(SECRET), ONE)
        assert caught.value.challenge.parameters == {
            "realm": f"{registry.url}/token",
            "service": "registry",
            "scope": f"repository:{SECRET.repository}:pull",
        }
    assert registry.authorizations(path(SECRET)) == ["", ANONYMOUS]
    assert (await origins.manifest(Asker(SECRET, MINE), ONE)).private
    assert registry.authorizations(path(SECRET)) == ["", ANONYMOUS, "mine"]


async def test_a_token_that_is_refused_loses_what_it_had(registry: RightsRegistry, origins: Origins) -> None:
    await origins.manifest(Asker(SECRET, MINE), ONE)
    registry.rights.clear()
    with pytest.raises(Unauthorized):
        await origins.manifest(Asker(SECRET, MINE), ONE)
    assert not origins.rights.may_read(Asker(SECRET, MINE))


async def test_what_is_hidden_from_the_anonymous_is_there_for_a_token(
    registry: RightsRegistry, origins: Origins
) -> None:
    registry.hides = True
    with pytest.raises(NotFound):
        await origins.manifest(Asker(SECRET), ONE)
    assert (await origins.manifest(Asker(SECRET, MINE), ONE)).private
    with pytest.raises(NotFound):
        await origins.manifest(Asker(SECRET, THEIRS), ONE)


async def test_a_blob_is_private_before_its_first_byte_and_its_right_is_known_then(
    registry: RightsRegistry, origins: Origins
) -> None:
    events: list[object] = []

    def on_size(size_bytes: int) -> None:
        events.append(origins.rights.may_have(Asker(SECRET, MINE), DIGEST, SECRET))

    await origins.blob(
        Asker(SECRET, MINE),
        DIGEST,
        lambda data: events.append(bytes(data)),
        on_size=on_size,
        on_private=lambda: events.append("private"),
    )
    assert events == ["private", True, LAYER]
    assert origins.rights.size_in(SECRET, DIGEST) == len(LAYER)
    events.clear()
    await origins.blob(Asker(PUBLIC, MINE), DIGEST, lambda data: events.append(bytes(data)))
    assert events == [LAYER]
    assert "mine" not in registry.authorizations(path(PUBLIC, f"blobs/{DIGEST}"))


async def test_a_refusal_in_the_middle_of_a_blob_does_not_begin_it_anew(
    registry: RightsRegistry, origins: Origins
) -> None:
    blob = path(PUBLIC, f"blobs/{DIGEST}")
    registry.rights = {"mine": {PUBLIC.repository}}
    registry.script(blob, cut(4), lambda seen, good: good)
    received = bytearray()

    def sink(data: memoryview) -> None:
        received.extend(data)
        registry.public.clear()

    with pytest.raises(Denied):
        await origins.blob(Asker(PUBLIC, MINE), DIGEST, sink)
    assert received == LAYER[:4]
    assert "mine" not in registry.authorizations(blob)
    assert not origins.rights.is_open(PUBLIC)


@pytest.mark.parametrize(("access", "takes_tokens"), [("anonymous", True), ("client", False), ("fleet", True)])
async def test_where_tokens_are_not_taken_nobody_is_told_to_bring_one(
    registry: RightsRegistry, access: str, takes_tokens: bool
) -> None:
    with origins_of(registry, access, takes_tokens=takes_tokens) as origins:
        for asker in (Asker(SECRET), Asker(SECRET, MINE)):
            with pytest.raises(Denied) as caught:
                await origins.manifest(asker, ONE)
            assert not isinstance(caught.value, Unauthorized)
        assert "mine" not in registry.authorizations(path(SECRET))
        assert not (await origins.manifest(Asker(PUBLIC, MINE), ONE)).private


async def test_who_wants_a_password_gets_no_token(registry: RightsRegistry, origins: Origins) -> None:
    registry.basic = True
    with pytest.raises(Denied) as caught:
        await origins.manifest(Asker(SECRET), ONE)
    assert not isinstance(caught.value, Unauthorized)


async def test_a_size_says_that_the_blob_is_there(registry: RightsRegistry, origins: Origins) -> None:
    assert await origins.blob_size(Asker(SECRET, MINE), DIGEST) == len(LAYER)
    with pytest.raises(BlobUnknown):
        await origins.blob_size(Asker(PUBLIC), Digest.of(b"not there"))
    assert origins.rights.size_in(PUBLIC, Digest.of(b"not there")) is None


def test_an_upstream_that_is_not_configured_gives_nobody_anything(origins: Origins) -> None:
    assert origins.access("gone.example") is Access.CLIENT
    assert not origins.rights.is_open(Place("gone.example", "app"))


async def test_no_error_shows_a_token(registry: RightsRegistry, origins: Origins) -> None:
    secret = BearerToken("eyJhbGciOiJub25lIn0.very-secret.sig")
    with pytest.raises(P2PDistError) as caught:
        await origins.manifest(Asker(SECRET, secret), ONE)
    assert "very-secret" not in f"{caught.value} {caught.value!r} {Asker(SECRET, secret)!r}"
