"""Joins and what comes of them: a real tracker and relay, hosts over the wire, an origin that misbehaves on demand."""

import base64
import errno
import json
import os
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pdist.config.addresses import OriginUrl, RegistryHost
from p2pdist.config.schema import Store, Upstream
from p2pdist.config.values import ByteCount
from p2pdist.core.digest import Digest
from p2pdist.core.metainfo import Metainfo
from p2pdist.core.pieces import PieceLayout, PieceSet, piece_hash
from p2pdist.oci.origin import OriginClient
from p2pdist.relay.notices import TransferFailed
from p2pdist.store.errors import StoreFull
from p2pdist.telemetry.metrics import JoinAnswer
from p2pdist.tracker import epochs, origins, relaying
from p2pdist.tracker.main import Tracker
from p2pdist.tracker.supply import Pipeline
from p2pdist.wire.messages import (
    Deal,
    Dealt,
    Distrusted,
    Ended,
    Epoch,
    Expect,
    Failed,
    Fill,
    HeldBlob,
    Inventory,
    Join,
    Lacking,
    Left,
    Message,
    RelayPlan,
    RingInfo,
    SwarmPlan,
    members_bitmap,
)
from tests.fakes.origin_server import OriginServer, Reply, Seen, basic_guard, cut, oci_error
from tests.unit.tracker.bench import REGISTRY, REPOSITORY, Host, config_of, host_on, relay_hosts, tracker_with

DATA = random.Random(5).randbytes((3 << 20) + 77)
DIGEST = Digest.of(DATA)
LAYOUT = PieceLayout.for_size(len(DATA))
PATH = f"/v2/{REPOSITORY}/blobs/{DIGEST}"


@pytest.fixture
def origin() -> Iterator[OriginServer]:
    with OriginServer() as server:
        server.put_blob(REPOSITORY, DATA)
        yield server


@pytest.fixture
async def tracker(origin: OriginServer, tmp_path: Path) -> AsyncIterator[Tracker]:
    async with tracker_with(config_of(tmp_path, origin.url)) as tracker:
        yield tracker


@asynccontextmanager
async def scripted(tracker: Tracker, names: str) -> AsyncIterator[list[Host]]:
    """Hosts that speak but can't be reached by a relay."""
    with ExitStack() as stack:
        hosts = [stack.enter_context(host_on(tracker, name)) for name in names]
        async with trio.open_nursery() as nursery:
            for host in hosts:
                await host.join_fleet(nursery, relay_port=1)
            yield hosts
            nursery.cancel_scope.cancel()


class Gate:
    """An origin that sends the start of the blob (half of it, or nothing), and the rest when it is opened."""

    def __init__(self, origin: OriginServer, start: bool = True) -> None:
        self._open = threading.Event()
        self._reached = threading.Event()
        if start:
            origin.script(PATH, cut(len(DATA) // 2))
        origin.script(PATH, self._wait)

    async def reached(self) -> None:
        """Wait until the fetch stands before the gate."""
        await until(self._reached.is_set)

    def _wait(self, _: Seen, good: Reply) -> Reply:
        self._reached.set()
        assert self._open.wait(10)
        return good

    def open(self) -> None:
        self._open.set()


def left_behind(directory: Path) -> list[str]:
    return [path.name for path in (directory / "blobs").iterdir()]


def tracker_of(host: Host) -> str:
    assert host.greeting is not None
    return host.greeting.tracker


def members_of(message: RelayPlan | Epoch) -> list[bytes]:
    return [info.members for info in message.rings]


def wish(id_: int = 1, **changes: Any) -> Join:
    fields: dict[str, Any] = {"id": id_, "upstream": REGISTRY, "repository": REPOSITORY, "digest": str(DIGEST)}
    return Join(**fields | changes)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what no message tells."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - there is no event for it
            await trio.sleep(0.005)


# Cold: from the origin, by relay.


async def test_simultaneous_joins_share_an_epoch_and_one_fetch(
    origin: OriginServer, tracker: Tracker, tmp_path: Path
) -> None:
    async with relay_hosts(tracker, "abc") as hosts:
        for host in hosts:
            await host.say(wish())
        plans = [await host.expect(RelayPlan) for host in hosts]
        ((ring,),) = {plan.rings for plan in plans}
        assert ring == RingInfo(ring.epoch, b"\x07", tracker_of(hosts[0]))
        assert {(plan.id, plan.private) for plan in plans} == {(1, False)}
        assert {plan.generation for plan in plans} == {plans[0].generation}
        for host, plan in zip(hosts, plans, strict=True):
            assert await host.finish(plan) == DATA
        for host in hosts:
            assert await host.expect(Ended) == Ended(plans[0].generation)
    assert len(origin.seen(PATH)) == 1
    assert tracker._store.has(DIGEST)
    assert tracker._metrics.joins.labels(JoinAnswer.RELAY)._value.get() == 3
    assert tracker._metrics.generations_live._value.get() == 0


async def test_a_cold_relay_sends_nothing_twice(tracker: Tracker) -> None:
    async with relay_hosts(tracker, "abc") as hosts:
        for host in hosts:
            await host.say(wish())
        plans = [await host.expect(RelayPlan) for host in hosts]
        for host, plan in zip(hosts, plans, strict=True):
            assert await host.finish(plan) == DATA
        for host in hosts:
            await host.expect(Ended)
        counts = [host.counts[plans[0].generation] for host in hosts]
        await until(lambda: sum(count.dealt_bytes + count.relayed_bytes for count in counts) == 3 * len(DATA))
        assert sum(count.dealt_bytes for count in counts) == len(DATA)
        assert sum(count.duplicate_bytes for count in counts) == 0
        # The tracker deals, and nobody else has to.
        assert not [message for host in hosts for message in host.messages if isinstance(message, Deal | Fill)]


async def test_who_joins_in_the_middle_is_filled(origin: OriginServer, tracker: Tracker) -> None:
    gate = Gate(origin)
    async with relay_hosts(tracker, "ab") as (early, late):
        await early.say(wish())
        plan = await early.expect(RelayPlan)
        await gate.reached()
        await until(lambda: early.files[plan.digest].has(0))
        await late.say(wish(2))
        second = await late.expect(RelayPlan)
        assert (second.generation, members_of(second)) == (plan.generation, [b"\x03"])
        assert second.rings[0].epoch > plan.rings[0].epoch
        assert (await early.expect(Epoch)).rings == second.rings
        fill = await early.expect(Fill)
        dealt = [*PieceSet.from_bytes(LAYOUT.count, fill.pieces)]
        assert dealt == [*range(len(dealt))]
        assert 0 < len(dealt) <= LAYOUT.count // 2
        assert (fill.ring.members, fill.ring.dealer) == (members_bitmap([1]), early.node)
        gate.open()
        assert await late.finish(second) == DATA
        assert await early.finish(plan) == DATA
        assert await early.expect(Dealt) == Dealt(plan.generation)
        await late.expect(Ended)


async def test_what_a_newcomer_holds_is_not_filled(origin: OriginServer, tracker: Tracker) -> None:
    gate = Gate(origin)
    async with relay_hosts(tracker, "a") as (early,), scripted(tracker, "b") as (late,):
        await early.say(wish())
        plan = await early.expect(RelayPlan)
        await gate.reached()
        await until(lambda: early.files[plan.digest].has(0))
        held = PieceSet(LAYOUT.count, range(1, LAYOUT.count)).to_bytes()
        await late.say(wish(piece_bytes=LAYOUT.piece_bytes, held=held))
        await late.expect(RelayPlan)
        assert [*PieceSet.from_bytes(LAYOUT.count, (await early.expect(Fill)).pieces)] == [0]
        gate.open()
        assert await early.finish(plan) == DATA


async def test_a_broken_connection_to_the_origin_is_resumed(origin: OriginServer, tracker: Tracker) -> None:
    origin.script(PATH, cut(700_001), cut(2_000_000))
    async with relay_hosts(tracker, "a") as (host,):
        assert await host.get(DIGEST) == DATA
    assert len(origin.seen(PATH)) == 3


async def test_an_empty_blob_is_a_blob(origin: OriginServer, tracker: Tracker) -> None:
    digest = origin.put_blob(REPOSITORY, b"")
    async with relay_hosts(tracker, "ab") as hosts:
        for host in hosts:
            assert await host.get(digest) == b""
            await host.expect(Ended)
    assert tracker._store.has(digest)


@pytest.mark.parametrize(
    ("reply", "code", "status"),
    [
        (oci_error(404, "BLOB_UNKNOWN"), "BLOB_UNKNOWN", 404),
        (oci_error(401, "UNAUTHORIZED"), "DENIED", 403),
        (oci_error(403, "DENIED"), "DENIED", 403),
        (oci_error(500, "UNKNOWN"), "UNAVAILABLE", 503),
        (oci_error(429, "TOOMANYREQUESTS", Retry_After="3600"), "UNAVAILABLE", 503),
        (Reply(302, {"Location": PATH}), "UNKNOWN", 502),
        (Reply(hang_after=-1), "UNAVAILABLE", 503),
        (Reply(cut_after=-1), "UNAVAILABLE", 503),
    ],
)
async def test_an_origin_that_gives_nothing_is_told_to_all_who_wait(
    origin: OriginServer, tmp_path: Path, reply: Reply, code: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origins, "OriginClient", partial(OriginClient, timeout_seconds=0.2, answer_seconds=0.5))
    origin.script(PATH, *[reply] * 20)
    async with tracker_with(config_of(tmp_path, origin.url)) as tracker, scripted(tracker, "ab") as hosts:
        for host in hosts:
            await host.say(wish(3))
        for host in hosts:
            failed = await host.expect(Failed)
            assert (failed.id, failed.code, failed.status) == (3, code, status)
            assert str(DIGEST) in failed.message
        assert left_behind(tmp_path) == []
        assert tracker._store.partial(DIGEST) is None


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ([cut(1 << 20), *[oci_error(404, "BLOB_UNKNOWN")] * 2], "BLOB_UNKNOWN"),
        ([cut(1 << 20), *[cut(0)] * 20], "UNAVAILABLE"),
        ([lambda _, good: replace(good, hang_after=1 << 20), *[Reply(hang_after=-1)] * 3], "UNAVAILABLE"),
        ([lambda _, good: replace(good, body=good.body[:-1] + b"!")], "DIGEST_INVALID"),
        ([cut(1 << 20), lambda _, good: replace(good, headers={"Content-Range": "bytes 0-1/2"})], "UNKNOWN"),
    ],
)
async def test_an_origin_that_fails_in_the_middle_ends_the_generation(
    origin: OriginServer, tmp_path: Path, steps: list[Any], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origins, "OriginClient", partial(OriginClient, timeout_seconds=0.2, answer_seconds=0.5))
    origin.script(PATH, *steps)
    async with tracker_with(config_of(tmp_path, origin.url)) as tracker, relay_hosts(tracker, "ab") as hosts:
        for host in hosts:
            await host.say(wish())
        for host in hosts:
            # It may fail before there was time for an epoch.
            end = await host.expect(Message, lambda message: isinstance(message, Ended | Failed))
            assert isinstance(end, Ended | Failed)
            assert end.code == code
        assert left_behind(tmp_path) == []
        assert tracker._store.record(DIGEST) is None
        assert [entry.digest for entry in tracker._store.quarantined()] == [DIGEST] * (code == "DIGEST_INVALID")
        # The next one who asks gets it.
        origin._scripts.clear()
        assert await hosts[0].get(DIGEST, 2) == DATA


async def test_a_wrong_length_in_a_manifest_spoils_only_the_wish_that_has_it(
    origin: OriginServer, tracker: Tracker
) -> None:
    async with scripted(tracker, "abc") as (wrong, right, unsure):
        await wrong.say(wish(size_bytes=5))
        await right.say(wish(size_bytes=len(DATA)))
        await unsure.say(wish())
        failed = await wrong.expect(Failed)
        assert f"gives {DIGEST} 5 bytes, the registry {len(DATA)}" in failed.message
        assert (await right.expect(RelayPlan)).size_bytes == len(DATA)
        await unsure.expect(RelayPlan)


async def test_a_repository_that_lacks_a_blob_does_not_speak_for_another(
    origin: OriginServer, tracker: Tracker
) -> None:
    async with relay_hosts(tracker, "ab") as (poor, rich):
        origin.script(f"/v2/poor/repo/blobs/{DIGEST}", oci_error(404, "BLOB_UNKNOWN"))
        await poor.say(wish(repository="poor/repo"))
        await rich.say(wish())
        assert (await poor.expect(Failed)).code == "BLOB_UNKNOWN"
        assert await rich.finish(await rich.expect(RelayPlan)) == DATA


async def test_two_repositories_share_one_fetch_of_a_digest(origin: OriginServer, tracker: Tracker) -> None:
    origin.put_blob("other/repo", DATA)
    gate = Gate(origin)
    async with relay_hosts(tracker, "ab") as (one, other):
        await one.say(wish())
        await one.expect(RelayPlan, lambda plan: one.generations.get(plan.generation) is not None)
        await other.say(wish(repository="other/repo"))
        plan = await other.expect(RelayPlan)
        gate.open()
        assert await other.finish(plan) == DATA
    assert origin.seen(f"/v2/other/repo/blobs/{DIGEST}") == []


@pytest.mark.parametrize("held", [b"\xff", b"\xff" * 5000])
async def test_a_bitmap_that_does_not_fit_is_refused_alone(tracker: Tracker, held: bytes) -> None:
    async with scripted(tracker, "ab") as (wrong, right):
        await wrong.say(wish(piece_bytes=LAYOUT.piece_bytes, held=held))
        await right.say(wish())
        assert "bitmap" in (await wrong.expect(Failed)).message
        assert members_of(await right.expect(RelayPlan)) == [members_bitmap([1])]


async def test_a_private_blob_does_not_travel_without_certificates(origin: OriginServer, tmp_path: Path) -> None:
    origin.guard = basic_guard("user", "secret")
    auth = base64.b64encode(b"user:secret").decode()
    credentials = tmp_path / "config.json"
    credentials.write_text(json.dumps({"auths": {REGISTRY: {"auth": auth}}}))
    upstream = Upstream(
        name=RegistryHost(REGISTRY), origin=OriginUrl(origin.url), access="fleet", credentials_file=credentials
    )
    config = config_of(tmp_path / "state", upstream=(upstream,))
    async with tracker_with(config) as tracker, scripted(tracker, "a") as (host,):
        await host.say(wish())
        failed = await host.expect(Failed)
        assert (failed.code, failed.status) == ("DENIED", 403)
        assert "private blobs travel only between agents with certificates" in failed.message
        assert left_behind(tmp_path / "state") == []


async def test_a_store_that_is_full_is_said(origin: OriginServer, tmp_path: Path) -> None:
    config = config_of(tmp_path, origin.url, store=Store(quota=ByteCount(1000)))
    async with tracker_with(config) as tracker, scripted(tracker, "a") as (host,):
        await host.say(wish())
        assert (await host.expect(Failed)).status == StoreFull.http_status
        assert left_behind(tmp_path) == []


async def test_no_descriptor_left_is_an_answer_and_not_the_end(
    origin: OriginServer, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with relay_hosts(tracker, "a") as (host,):
        with monkeypatch.context() as patch:
            patch.setattr(tracker._relay, "open", fails)
            await host.say(wish())
            failed = await host.expect(Failed)
            assert (failed.code, "open files" in failed.message) == ("UNAVAILABLE", True)
            await until(lambda: left_behind(tmp_path) == [])
        assert await host.get(DIGEST, 2) == DATA


async def test_what_nobody_expected_ends_one_fetch(
    origin: OriginServer, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError

    async with relay_hosts(tracker, "a") as (host,):
        gate = Gate(origin)
        await host.say(wish())
        await host.expect(RelayPlan)
        await gate.reached()
        with monkeypatch.context() as patch:
            patch.setattr(Pipeline, "feed", fails)
            gate.open()
            assert "ZeroDivisionError" in (await host.expect(Ended)).message
            assert left_behind(tmp_path) == []
        with monkeypatch.context() as patch:
            patch.setattr(tracker._store, "record", fails)
            await host.say(wish(2))
            assert "ZeroDivisionError" in (await host.expect(Failed)).message
        assert await host.get(DIGEST, 3) == DATA


# Members that come and go.


async def test_a_member_that_is_gone_makes_a_new_epoch(origin: OriginServer, tracker: Tracker) -> None:
    gate = Gate(origin)
    async with scripted(tracker, "x") as (lost,), relay_hosts(tracker, "a") as (host,):
        for one in (lost, host):
            await one.say(wish())
        assert members_of(await host.expect(RelayPlan)) == [members_bitmap([0, 1])]
        await lost.close()
        assert members_of(await host.expect(Epoch)) == [members_bitmap([1])]
        gate.open()
        with trio.fail_after(10):
            await host.files[str(DIGEST)].whole.wait()
        assert host.files[str(DIGEST)].content() == DATA


async def test_a_fetch_that_everybody_left_goes_on_into_the_store(origin: OriginServer, tracker: Tracker) -> None:
    gate = Gate(origin)
    async with scripted(tracker, "ab") as hosts:
        for host in hosts:
            await host.say(wish())
            await host.expect(RelayPlan)
            await host.close()
        gate.open()
        await until(lambda: tracker._store.has(DIGEST))
        await until(lambda: tracker._distribution.relaying.get(DIGEST) is None)
    before = len(origin.seen(PATH))
    async with relay_hosts(tracker, "c") as (host,):
        assert await host.get(DIGEST) == DATA
    assert len(origin.seen(PATH)) == before


async def test_who_hangs_up_before_the_size_is_known_is_not_waited_for(origin: OriginServer, tracker: Tracker) -> None:
    gate = Gate(origin, start=False)
    async with scripted(tracker, "a") as (host,):
        await host.say(wish())
        await until(lambda: bool(origin.requests))
        await host.close()
        gate.open()
        await until(lambda: tracker._store.has(DIGEST))
        await until(lambda: tracker._distribution.relaying.get(DIGEST) is None)


async def test_who_gives_up_leaves_the_others_a_smaller_ring(origin: OriginServer, tracker: Tracker) -> None:
    gate = Gate(origin)
    async with relay_hosts(tracker, "ab") as (one, other):
        for host in (one, other):
            await host.say(wish())
        plan = await one.expect(RelayPlan)
        await one.say(Left(plan.generation, "the disk is full"))
        assert members_of(await other.expect(Epoch)) == [members_bitmap([1])]
        gate.open()
        assert await other.finish(plan) == DATA
        assert (await one.expect(Ended)).generation == plan.generation


async def test_a_member_that_neither_finishes_nor_leaves_does_not_hold_a_generation(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relaying, "END_SECONDS", 0.05)
    monkeypatch.setattr(relaying, "SLOWEST_BYTES_A_SECOND", 1 << 40)
    async with relay_hosts(tracker, "a") as (host,):
        await host.say(wish())
        plan = await host.expect(RelayPlan)
        assert await host.expect(Ended) == Ended(plan.generation)


async def test_a_join_that_meets_the_end_of_a_generation_is_decided_anew(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with relay_hosts(tracker, "ab") as (one, other):
        await one.say(wish())
        plan = await one.expect(RelayPlan)
        await one.expect(Dealt)
        live = tracker._distribution.relaying.get(DIGEST)
        assert live is not None
        monkeypatch.setattr(epochs, "JOIN_WINDOW_SECONDS", 0.2)
        await other.say(wish(2))
        await until(lambda: bool(live.wishes))
        tracker._distribution.relaying._end(live, Ended(plan.generation))
        again = await other.expect(RelayPlan)
        assert again.generation != plan.generation
        assert await other.finish(again) == DATA


async def test_deals_that_reach_nobody_are_given_up(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaying, "STALL_SECONDS", 0.1)
    monkeypatch.setattr(relaying, "CHECK_SECONDS", 0.05)
    async with scripted(tracker, "a") as (host,), trio.open_nursery() as nursery:
        nursery.start_soon(tracker._distribution.relaying.watch_stalls)
        await host.say(wish())
        ended = await host.expect(Ended)
        assert (ended.code, "no agent could be reached" in ended.message) == ("UNAVAILABLE", True)
        nursery.cancel_scope.cancel()


async def test_a_relay_that_cannot_go_on_ends_its_fetch(origin: OriginServer, tracker: Tracker, tmp_path: Path) -> None:
    Gate(origin).open()
    origin.script(PATH, lambda _, good: replace(good, hang_after=1 << 20))
    origin._scripts[PATH].rotate(1)
    async with scripted(tracker, "a") as (host,):
        await host.say(wish())
        plan = await host.expect(RelayPlan)
        tracker._distribution.notice(TransferFailed(plan.generation, StoreFull("the disk is full")))
        ended = await host.expect(Ended)
        assert (ended.status, ended.message) == (507, "the disk is full")
        await until(lambda: left_behind(tmp_path) == [])


async def test_who_lacks_pieces_is_filled(tracker: Tracker) -> None:
    async with relay_hosts(tracker, "ab") as (one, other):
        for host in (one, other):
            await host.say(wish())
        plan = await one.expect(RelayPlan)
        await one.finish(plan)
        await other.say(Lacking(plan.generation, PieceSet(LAYOUT.count, [3, 5]).to_bytes()))
        fill = await one.expect(Fill)
        assert [*PieceSet.from_bytes(LAYOUT.count, fill.pieces)] == [3, 5]
        assert [info.dealer for info in (await other.expect(Epoch)).rings] == [one.node]


async def test_a_complaint_about_what_is_over_is_answered(tracker: Tracker) -> None:
    async with scripted(tracker, "a") as (host,):
        await host.say(Left(4711), Lacking(4711, b""))
        assert (await host.expect(Ended)).generation == 4711


async def test_a_complaint_with_a_wrong_bitmap_ends_its_connection(origin: OriginServer, tracker: Tracker) -> None:
    gate = Gate(origin)
    async with scripted(tracker, "ab") as (liar, honest):
        await honest.say(wish())
        plan = await honest.expect(RelayPlan)
        await liar.say(Lacking(plan.generation, b"\xff"))
        assert await liar.is_hung_up_on()
        assert not honest.ended.is_set()
        gate.open()


# Warm: from the fleet, or from our store.


async def test_what_agents_hold_goes_by_swarm_after_a_fruitless_way(origin: OriginServer, tracker: Tracker) -> None:
    async with relay_hosts(tracker, "a") as (holder,), scripted(tracker, "bc") as (first, second):
        assert await holder.get(DIGEST) == DATA
        await holder.hold(DIGEST)
        await holder.expect(Ended)
        await first.say(wish(8, fruitless=1))
        plan = await first.expect(SwarmPlan)
        assert (plan.id, plan.size_bytes, plan.piece_bytes) == (8, len(DATA), LAYOUT.piece_bytes)
        hashes = tuple(plan.hashes[i : i + 32] for i in range(0, len(plan.hashes), 32))
        assert hashes[0] == piece_hash(LAYOUT, DATA[: LAYOUT.piece_bytes])
        Metainfo(DIGEST, LAYOUT, hashes)
        assert [peer.port for peer in plan.neighbours] == [7502]
        assert (await holder.expect(Expect)).digest == str(DIGEST)
        await second.say(wish(9, fruitless=1))
        assert len((await second.expect(SwarmPlan)).neighbours) == 2
        await first.expect(Expect)
        swarming = tracker._distribution._swarming
        assert swarming.pulls == 2
        await first.say(Inventory((HeldBlob(str(DIGEST), len(DATA)),)))
        await until(lambda: swarming.pulls == 1)
        await second.close()
        await until(lambda: swarming.pulls == 0)
        assert not swarming._pullers
        assert not swarming._pulls
    assert len(origin.seen(PATH)) == 1


async def test_a_restart_keeps_blobs_and_torrents(origin: OriginServer, tmp_path: Path) -> None:
    config = config_of(tmp_path, origin.url)
    async with tracker_with(config) as tracker, relay_hosts(tracker, "a") as (host,):
        await host.get(DIGEST)
        await host.expect(Ended)
    async with tracker_with(config) as tracker, relay_hosts(tracker, "ab") as (one, other):
        assert await one.get(DIGEST) == DATA
        await one.hold(DIGEST)
        await one.expect(Ended)
        await other.say(wish(2, fruitless=1))
        assert (await other.expect(SwarmPlan)).size_bytes == len(DATA)
    # The registry is asked once more: whether everybody may still have what everybody could have.
    assert [seen.method for seen in origin.seen(PATH)] == ["GET", "HEAD"]


async def test_a_blob_that_the_store_has_lost_is_fetched_anew(
    origin: OriginServer, tracker: Tracker, tmp_path: Path
) -> None:
    async with relay_hosts(tracker, "ab") as (one, other):
        await one.get(DIGEST)
        await one.expect(Ended)
        for path in (tmp_path / "blobs").iterdir():
            path.unlink()
        assert await other.get(DIGEST) == DATA
    assert len(origin.seen(PATH)) == 2


async def test_a_damaged_copy_is_found_when_an_agent_complains(
    origin: OriginServer, tracker: Tracker, tmp_path: Path
) -> None:
    async with relay_hosts(tracker, "a") as (host,):
        await host.get(DIGEST)
        await host.expect(Ended)
        await host.say(Distrusted(str(DIGEST), 1, "it had another digest"))
        await until(lambda: tracker._metrics.distrusted._value.get() == 1)
        await until(lambda: not tracker._distribution._verifying)
        assert tracker._store.has(DIGEST)
        (path,) = (tmp_path / "blobs").iterdir()
        path.write_bytes(b"!" + DATA[1:])
        await host.say(Distrusted(str(DIGEST), 1, "it had another digest"))
        await until(lambda: not tracker._store.has(DIGEST))
        assert await host.get(DIGEST, 2) == DATA
    assert len(origin.seen(PATH)) == 2
