"""Private images by the callers' own tokens: who has a right gets every byte, at one copy; who hasn't gets none.

A real docker-registry with a real token server, real agents, and a real libtorrent as the peer that doesn't belong.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from p2pdist.core.digest import Digest
from p2pdist.core.metainfo import Metainfo, file_name
from p2pdist.core.pieces import PieceLayout, PieceSet, piece_hash
from p2pdist.swarm import Endpoint, Swarm, SwarmSettings
from p2pdist.wire.messages import Failed, Join, Left, RelayPlan, SwarmPlan, Token
from simulations.processes import poll_until
from tests.conftest import Figure
from tests.swarm.blobs import FilePartial
from tests.system.callers import Caller, Insider
from tests.system.daemons import Agent
from tests.system.fetches import at_once, pull_at_once
from tests.system.fleet import UPSTREAM, Fleet, upstream
from tests.system.images import Content, Image, image, layer
from tests.system.registries import ACCOUNT, Registry
from tests.system.tokens import LEEWAY_SECONDS, Account

PRIVATE, PUBLIC, EVIL = "team/app", "library/open", "evil/app"
OWNER, STRANGER = Account("owner", "the owner's password"), Account("stranger", "the stranger's password")
RECHECK_SECONDS = 2.0
FOREIGN_SECONDS = 4.0
TAG = "1"


class Scene(NamedTuple):
    registry: Registry
    fleet: Fleet
    private: Image
    public: Image
    secrets: list[str]

    @property
    def holder(self) -> Agent:
        return self.fleet.agents[0]

    def owner(self) -> Caller:
        return Caller(OWNER)

    def keep(self, caller: Caller) -> Caller:
        """Have `caller`'s token looked for at the end."""
        self.secrets.append(caller.token)
        return caller


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, require_program: Callable[[str], str]) -> Iterator[Scene]:
    require_program("docker-registry")
    directory = tmp_path_factory.mktemp("rights")
    with Registry(directory / "registry", auth="token", public=(PUBLIC,)) as registry:
        registry.tokens.others = {OWNER: {PRIVATE}, STRANGER: {EVIL}}
        private = image(layer(2_000_000, "private"), layer(400_000, "private, too"))
        public = image(layer(2_000_000, "public"))
        for content, repository in ((private, PRIVATE), (public, PUBLIC), (image(layer(1000, "evil")), EVIL)):
            registry.push(content, repository, TAG)
        settings = upstream(registry, recheck=f"{RECHECK_SECONDS:g}s")
        with Fleet(directory / "fleet", [settings], agents=3) as fleet:
            yield Scene(registry, fleet, private, public, [OWNER.password, STRANGER.password, ACCOUNT.password])


def requests(scene: Scene, repository: str) -> list[tuple[str, str, int]]:
    """What the registry was asked of a repository: method, the path's end, and its answer."""
    return [
        (one.method, one.path.partition(repository)[2], one.status)
        for one in scene.registry.meter.answered()
        if f"/v2/{repository}/" in one.path
    ]


def test_a_public_image_takes_no_credentials_and_no_request_more_than_it_must(scene: Scene) -> None:
    pull_at_once(scene.fleet.agents, PUBLIC, TAG, scene.public)
    blobs = {blob.digest: blob for blob in scene.public.blobs}
    assert sorted(requests(scene, PUBLIC)) == sorted(
        [("GET", f"/manifests/{TAG}", 401), ("GET", f"/manifests/{TAG}", 200)]
        + [("GET", f"/blobs/{digest}", 200) for digest in blobs]
    )
    assert [request.account for request in scene.registry.tokens.requests] == [""]


def test_whoever_may_read_a_private_image_pulls_it_everywhere_and_the_registry_sends_it_once(scene: Scene) -> None:
    sent = scene.registry.meter.total_blob_bytes()
    owners = [scene.owner() for _ in scene.fleet.agents]

    def pull(caller: Caller, agent: Agent) -> Callable[[], None]:
        return lambda: caller.pull(agent, PRIVATE, TAG, scene.private)

    at_once([pull(caller, agent) for caller, agent in zip(owners, scene.fleet.agents, strict=True)])
    assert scene.registry.meter.total_blob_bytes() - sent == scene.private.blob_bytes
    assert len({scene.keep(caller).token for caller in owners}) == len(owners)
    late = scene.fleet.add_agent()
    scene.owner().pull(late, PRIVATE, TAG, scene.private)
    assert scene.registry.meter.total_blob_bytes() - sent == scene.private.blob_bytes
    assert [agent.received().swarm for agent in scene.fleet.agents] == [0] * 4
    assert [agent.received().origin for agent in scene.fleet.agents] == [0] * 4


def test_the_challenge_is_the_registrys_own(scene: Scene) -> None:
    for method in ("GET", "HEAD"):
        answer = Caller().ask(scene.holder, f"/v2/{PRIVATE}/manifests/{TAG}", method)
        assert answer.status == 401
        said = f'Bearer realm="{scene.registry.token_url}",service="registry.test",scope="repository:{PRIVATE}:pull"'
        assert answer.headers["www-authenticate"] == said


# Those who have no right.


def expired(scene: Scene) -> Caller:
    """Somebody whose token was good a moment ago, when he got everything."""
    caller = scene.keep(Caller(token=scene.registry.tokens.pull_token(PRIVATE, 4 - LEEWAY_SECONDS)))
    caller.pull(scene.holder, PRIVATE, TAG, scene.private)
    poll_until(lambda: caller.manifest(scene.holder, PRIVATE, TAG).status == 401, "the token has expired", 15)
    return caller


def revoked(scene: Scene) -> Caller:
    """Somebody whose token the registry has taken back since he got everything."""
    caller = scene.owner()
    caller.pull(scene.holder, PRIVATE, TAG, scene.private)
    token = scene.keep(caller).token
    scene.registry.meter.revoked.add(f"Bearer {token}")
    shown = Caller(token=token)
    started = time.monotonic()
    digest = scene.private.manifest.digest
    poll_until(lambda: shown.manifest(scene.holder, PRIVATE, digest).status == 401, "the token counts no more", 15)
    assert time.monotonic() - started < RECHECK_SECONDS + 2
    return shown


WHO: dict[str, tuple[Callable[[Scene], Caller], str]] = {
    "another user of the host": (lambda _: Caller(), PRIVATE),
    "another account": (lambda _: Caller(STRANGER), PRIVATE),
    "a digest guessed under a public name": (lambda _: Caller(), PUBLIC),
    "a digest guessed under one's own name": (lambda _: Caller(STRANGER), EVIL),
    "a token for another repository": (lambda scene: Caller(token=scene.registry.tokens.pull_token(EVIL)), PRIVATE),
    "a forged token": (lambda _: Caller(token="eyJhbGciOiJub25lIn0.e30."), PRIVATE),
    "an expired token": (expired, PRIVATE),
    "a revoked token": (revoked, PRIVATE),
}


@pytest.mark.parametrize("who", WHO)
def test_without_rights_nobody_gets_a_byte(who: str, scene: Scene, figure: Figure) -> None:
    make, repository = WHO[who]
    caller = make(scene)
    sent = scene.registry.meter.total_blob_bytes()
    given = 0
    for agent in scene.fleet.agents:
        paths = [f"/v2/{repository}/blobs/{blob.digest}" for blob in scene.private.blobs]
        paths += [f"/v2/{repository}/manifests/{scene.private.manifest.digest}"]
        paths += [f"/v2/{PRIVATE}/manifests/{TAG}"] if repository == PRIVATE else []
        for path in paths:
            for method, headers in (("GET", {}), ("HEAD", {}), ("GET", {"Range": "bytes=0-1023"})):
                answer = caller.ask(agent, path, method, **headers)
                assert answer.status in (401, 404), f"{who}: {method} {path}: {answer}"
                whole = (*scene.private.blobs, scene.private.manifest)
                given += sum(map(answer.gives, whole))
                assert not answer.headers.get("content-range")
    assert given == 0
    assert scene.registry.meter.total_blob_bytes() == sent
    figure(f"private bytes given to {who}", given, "", at_most=0)


def test_a_certificate_of_the_fleet_is_no_right(scene: Scene) -> None:
    stolen = scene.fleet.agents[-1]
    node = stolen.status()["node_id"]
    stolen.stop()
    digest = scene.private.layers[0].digest
    with Insider(scene.fleet.tracker, stolen, node, 1) as insider:
        for id_, token in enumerate((None, scene.registry.tokens.pull_token(EVIL), "forged")):
            shown = Token(token) if token else None
            for repository in (PRIVATE, PUBLIC, EVIL):
                insider.say(Join(id_, UPSTREAM, repository, digest, token=shown))
                answer = insider.hear(Failed, RelayPlan, SwarmPlan)
                assert isinstance(answer, Failed)
                assert answer.status in (401, 404)
    stolen.start()
    stolen.wait_ready()


# A libtorrent that knows the info-hash.


def metainfo_of(blob: Content) -> Metainfo:
    layout = PieceLayout.for_size(blob.size_bytes)
    pieces = [blob.data[layout.offset(index) :][: layout.length(index)] for index in range(layout.count)]
    return Metainfo(Digest.parse(blob.digest), layout, tuple(piece_hash(layout, piece) for piece in pieces))


async def swarmed_bytes(
    scene: Scene, insider: Insider, swarm: Swarm, blob: Content, join: Join, directory: Path
) -> int:
    """What a foreign libtorrent gets of a blob from all agents, having told the tracker that it wants it so."""
    metainfo = metainfo_of(blob)
    path = directory / file_name(metainfo.digest)
    partial = FilePartial(metainfo, path, PieceSet(metainfo.layout.count))
    with path.open("wb") as file:
        file.truncate(blob.size_bytes)
    insider.say(join)
    plan = await trio.to_thread.run_sync(insider.hear, RelayPlan, SwarmPlan)
    addresses = [agent.settings["swarm"]["listen"][0].rpartition(":") for agent in scene.fleet.agents]
    peers = [Endpoint(host, int(port)) for host, _, port in addresses]
    async with swarm.pull(partial, metainfo, peers) as pull:
        with trio.move_on_after(FOREIGN_SECONDS):
            await pull.wait_finished()
        received = pull.received_bytes
    if isinstance(plan, RelayPlan):
        insider.say(Left(plan.generation, "enough"))
    return received


def test_a_foreign_libtorrent_that_knows_the_info_hash_gets_nothing(
    scene: Scene, tmp_path: Path, figure: Figure
) -> None:
    """It even comes from a member's address, and the same peer gets a public blob in the same way."""
    stolen = scene.fleet.agents[-1]
    node = stolen.status()["node_id"]
    stolen.stop()
    token = scene.registry.tokens.pull_token(PRIVATE)
    scene.secrets.append(token)

    async def attack() -> tuple[int, int]:
        async with Swarm.open(SwarmSettings(listen=(Endpoint("127.0.0.1", 0),))) as swarm:
            swarm.allow_peers({"127.0.0.1"})
            with Insider(scene.fleet.tracker, stolen, node, swarm.addresses[0].port) as insider:
                public, private = scene.public.layers[0], scene.private.layers[0]
                join = Join(1, UPSTREAM, PUBLIC, public.digest, fruitless=1)
                open_bytes = await swarmed_bytes(scene, insider, swarm, public, join, tmp_path)
                join = Join(2, UPSTREAM, PRIVATE, private.digest, fruitless=1, token=Token(token))
                return open_bytes, await swarmed_bytes(scene, insider, swarm, private, join, tmp_path)

    open_bytes, private_bytes = trio.run(attack)
    assert open_bytes == scene.public.layers[0].size_bytes
    assert private_bytes == 0
    figure("private bytes given to a foreign libtorrent peer", private_bytes, "", at_most=0)
    stolen.start()
    stolen.wait_ready()


def test_no_token_and_no_password_is_written_anywhere(scene: Scene) -> None:
    looked_at = 0
    secrets = [secret.encode() for secret in scene.secrets if secret]
    assert len(secrets) > 3
    for file in scene.fleet.directory.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            looked_at += 1
            assert not [secret for secret in secrets if secret in data], f"{file} has a secret"
    assert looked_at > 10
