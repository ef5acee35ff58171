"""Who gets what is here, on an agent whose upstreams give each caller what his own token may read."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from p2pdist.agent.gate import Gate
from p2pdist.core.digest import Digest
from p2pdist.core.errors import BlobUnknown, Denied, P2PDistError, Unavailable
from p2pdist.oci.bearer import BearerToken
from p2pdist.oci.errors import Unauthorized
from p2pdist.oci.reference import Tag
from p2pdist.oci.rights import Access, Asker, Place
from p2pdist.wire.messages import Failed, Join, ManifestIs, ManifestWanted, SizeIs, SizeWanted, Token
from tests.fakes.origin_server import MANIFEST_TYPE, image_manifest
from tests.fakes.rights_registry import RightsRegistry

from .bench import PIECE_BYTES, Bench, Blob, running

UPSTREAM, SECRET, OTHER = "registry.example", "team/secret", "evil/app"
MINE, THEIRS = BearerToken("mine"), BearerToken("theirs")
BLOB = Blob(2 * PIECE_BYTES + 7)
CHALLENGE = 'Bearer realm="https://auth.test/token",service="reg"'
BODY = image_manifest(BLOB.data)


@pytest.fixture
async def bench(root: Path) -> AsyncIterator[Bench]:
    """An agent on mutual TLS, as far as it knows, that holds a private blob and nothing else."""
    async with running(root) as bench:
        bench.access = Access.CLIENT
        bench.control.secure = True
        hold(bench)
        yield bench


def hold(bench: Bench, *, private: bool = True) -> None:
    partial = bench.store.begin(BLOB.digest, BLOB.layout, private=private, upstream=UPSTREAM, repository=SECRET)
    for index in range(BLOB.layout.count):
        partial.write_piece(index, BLOB.piece(index))
    bench.store.save_metainfo(BLOB.digest, BLOB.metainfo)
    partial.commit()


class Asking:
    """One request for the blob."""

    def __init__(self, bench: Bench, repository: str, token: BearerToken | None) -> None:
        self._bench, self._repository, self._token = bench, repository, token
        self.done = trio.Event()
        self.error: P2PDistError | None = None
        self.size_bytes = 0

    async def run(self) -> None:
        try:
            async with self._bench.library.blob(UPSTREAM, self._repository, BLOB.digest, None, self._token) as view:
                self.size_bytes = view.size_bytes
        except P2PDistError as error:
            self.error = error
        finally:
            self.done.set()


def ask(bench: Bench, nursery: trio.Nursery, repository: str = SECRET, token: BearerToken | None = None) -> Asking:
    asking = Asking(bench, repository, token)
    nursery.start_soon(asking.run)
    return asking


async def outcome(asking: Asking) -> P2PDistError | None:
    with trio.fail_after(10):
        await asking.done.wait()
    if asking.error is None:
        assert asking.size_bytes == len(BLOB.data)
    return asking.error


async def answered(bench: Bench, *, yes: bool, private: bool = True, seconds: float = 60.0) -> SizeWanted:
    """The tracker's answer to the agent's question, which is returned."""
    wanted = await bench.line.next(SizeWanted)
    if yes:
        await bench.line.say(SizeIs(wanted.id, len(BLOB.data), private, seconds))
    else:
        await bench.line.say(Failed(wanted.id, "UNAUTHORIZED", 401, "no", CHALLENGE))
    return wanted


def questions(bench: Bench) -> int:
    return sum(isinstance(message, SizeWanted) for message in bench.line.heard)


async def test_a_token_that_the_upstream_takes_gets_what_is_here_and_is_asked_about_once(
    bench: Bench, nursery: trio.Nursery
) -> None:
    asking = [ask(bench, nursery, token=MINE) for _ in range(20)]
    wanted = await answered(bench, yes=True)
    assert (wanted.token, wanted.proof, wanted.there) == (Token("mine"), False, False)
    assert [await outcome(each) for each in asking] == [None] * 20
    assert await outcome(ask(bench, nursery, token=MINE)) is None
    assert questions(bench) == 1


@pytest.mark.parametrize("repository", [SECRET, OTHER])
@pytest.mark.parametrize("token", [None, THEIRS])
async def test_nobody_else_gets_it_whatever_he_calls_it(
    bench: Bench, nursery: trio.Nursery, repository: str, token: BearerToken | None
) -> None:
    mine = ask(bench, nursery, token=MINE)
    await answered(bench, yes=True)
    assert await outcome(mine) is None
    asking = ask(bench, nursery, repository, token)
    wanted = await answered(bench, yes=False)
    assert wanted.repository == repository
    error = await outcome(asking)
    assert isinstance(error, Unauthorized)
    assert str(error.challenge) == CHALLENGE


async def test_a_yes_counts_as_long_as_the_tracker_says(bench: Bench, nursery: trio.Nursery) -> None:
    for _ in range(2):
        asking = ask(bench, nursery, token=MINE)
        await answered(bench, yes=True, seconds=0.0)
        assert await outcome(asking) is None
    assert questions(bench) == 2


async def test_what_is_everybodys_needs_no_token_and_no_further_question(bench: Bench, nursery: trio.Nursery) -> None:
    asking = ask(bench, nursery)
    await answered(bench, yes=True, private=False)
    assert await outcome(asking) is None
    for repository in (SECRET, OTHER):
        assert await outcome(ask(bench, nursery, repository, MINE)) is None
    assert questions(bench) == 1


async def test_a_no_ends_what_was_open_and_it_is_private_from_then_on(bench: Bench, nursery: trio.Nursery) -> None:
    bench.store.annotate(BLOB.digest, private=False, upstream=UPSTREAM, repository=SECRET)
    gate: Gate = bench.library._gate
    asker = Asker(Place(UPSTREAM, SECRET))
    gate.rights.opened(asker.place, 0.0)
    asking = ask(bench, nursery)
    await answered(bench, yes=False)
    assert isinstance(await outcome(asking), Unauthorized)
    assert not gate.rights.is_open(asker.place, stale=True)
    record = bench.store.record
    await bench.until(lambda: (found := record(BLOB.digest)) is not None and found.private)


async def test_without_certificates_no_token_travels_and_nobody_is_told_to_bring_one(
    bench: Bench, nursery: trio.Nursery
) -> None:
    bench.control.secure = False
    asking = ask(bench, nursery, token=MINE)
    wanted = await answered(bench, yes=False)
    assert wanted.token is None
    error = await outcome(asking)
    assert isinstance(error, Denied)
    assert not isinstance(error, Unauthorized)


@pytest.mark.parametrize("access", [Access.ANONYMOUS, Access.FLEET])
async def test_where_tokens_are_not_used_none_is_sent(bench: Bench, nursery: trio.Nursery, access: Access) -> None:
    bench.access = access
    asking = ask(bench, nursery, token=MINE)
    if access is Access.ANONYMOUS:
        assert (await answered(bench, yes=False)).token is None
        assert await outcome(asking) is not None
    else:
        assert await outcome(asking) is None
        assert questions(bench) == 0


async def test_a_pull_of_somebody_elses_is_joined_only_by_who_has_the_right(root: Path, nursery: trio.Nursery) -> None:
    async with running(root) as bench:
        bench.access = Access.CLIENT
        bench.control.secure = True
        mine = ask(bench, nursery, token=MINE)
        join = await bench.line.next(Join)
        assert join.token == Token("mine")
        same, theirs, guess = (
            ask(bench, nursery, token=MINE),
            ask(bench, nursery, token=THEIRS),
            ask(bench, nursery, OTHER),
        )
        for _ in range(2):
            await answered(bench, yes=False)
        assert isinstance(await outcome(theirs), Unauthorized)
        assert isinstance(await outcome(guess), Unauthorized)
        assert not same.done.is_set()
        await bench.line.say(BLOB.plan(join.id, private=False))
        assert [await outcome(each) for each in (mine, same)] == [None, None]
        assert questions(bench) == 2


async def test_what_the_tracker_refuses_fails_with_the_challenge(root: Path, nursery: trio.Nursery) -> None:
    async with running(root) as bench:
        bench.access = Access.CLIENT
        bench.control.secure = True
        asking = ask(bench, nursery)
        join = await bench.line.next(Join)
        assert join.token is None
        await bench.line.say(Failed(join.id, "UNAUTHORIZED", 401, "no", CHALLENGE))
        assert isinstance(await outcome(asking), Unauthorized)


async def test_a_manifest_is_kept_for_those_who_may_read_it(bench: Bench, nursery: trio.Nursery) -> None:
    digest = Digest.of(BODY)
    got: list[object] = []

    async def get(reference: Tag | Digest, token: BearerToken | None) -> None:
        try:
            got.append((await bench.library.manifest(UPSTREAM, SECRET, reference, token)).digest)
        except P2PDistError as error:
            got.append(type(error))

    nursery.start_soon(get, Tag("1"), MINE)
    wanted = await bench.line.next(ManifestWanted)
    assert wanted.token == Token("mine")
    await bench.line.say(ManifestIs(wanted.id, str(digest), MANIFEST_TYPE, BODY, True, 60.0))
    await bench.until(lambda: bool(got))
    await get(digest, MINE)
    assert got == [digest, digest]
    for token in (None, THEIRS):
        nursery.start_soon(get, digest, token)
        wanted = await bench.line.next(ManifestWanted)
        assert wanted.token == (Token("theirs") if token else None)
        await bench.line.say(Failed(wanted.id, "UNAUTHORIZED", 401, "no", CHALLENGE))
    await bench.until(lambda: len(got) == 4)
    assert got[2:] == [Unauthorized, Unauthorized]
    # The size that it tells of a blob is for them too.
    assert await bench.library.blob_size(UPSTREAM, SECRET, BLOB.digest, MINE) == len(BLOB.data)


# Without the tracker.


async def orphaned(bench: Bench) -> None:
    await bench.tracker.close()
    await bench.line.drop()
    await bench.until(lambda: not bench.control.connected)


async def test_without_the_tracker_grants_end_and_what_was_open_lately_stays(
    bench: Bench, nursery: trio.Nursery
) -> None:
    gate: Gate = bench.library._gate
    place = Place(UPSTREAM, SECRET)
    gate.rights.granted(place, MINE, 0.0)
    await orphaned(bench)
    for token in (None, MINE, THEIRS):
        assert isinstance(await outcome(ask(bench, nursery, token=token)), Unavailable)
    gate.rights.opened(place, 0.0)
    for token in (None, MINE):
        assert await outcome(ask(bench, nursery, token=token)) is None


async def test_without_the_tracker_the_upstream_itself_is_asked(root: Path, nursery: trio.Nursery) -> None:
    with RightsRegistry() as registry:
        registry.put_blob(SECRET, BLOB.data)
        registry.rights = {"mine": {SECRET}, "theirs": {OTHER}}
        async with running(root, origin=registry.url) as bench:
            bench.access = Access.CLIENT
            bench.control.secure = True
            hold(bench)
            await orphaned(bench)
            assert isinstance(await outcome(ask(bench, nursery)), Denied)
            assert isinstance(await outcome(ask(bench, nursery, token=THEIRS)), Denied)
            assert isinstance(await outcome(ask(bench, nursery, OTHER, THEIRS)), BlobUnknown)
            for _ in range(3):
                assert await outcome(ask(bench, nursery, token=MINE)) is None
            assert registry.asked(f"/v2/{SECRET}/blobs/{BLOB.digest}")[-1] == ("HEAD", "mine")
            assert registry.authorizations(f"/v2/{SECRET}/blobs/{BLOB.digest}").count("mine") == 1
