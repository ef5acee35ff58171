"""Blobs that agents hold: they deal, the tracker only signs. Zones, guests and silent members over the wire, too."""

import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from p2pdist.config.addresses import Address
from p2pdist.config.schema import TrackerRelay
from p2pdist.config.values import Zone
from p2pdist.core.digest import Digest
from p2pdist.core.pieces import PieceLayout, PieceSet
from p2pdist.relay.transfer import Counts
from p2pdist.tracker import relaying as relaying_module
from p2pdist.tracker.main import Tracker
from p2pdist.wire.messages import (
    Beat,
    Began,
    Deal,
    Dealt,
    Ended,
    Epoch,
    Fill,
    HeldBlob,
    Inventory,
    Join,
    Lacking,
    Left,
    Message,
    Probe,
    RelayPlan,
    Silent,
    Supply,
    members_bitmap,
    slots_of,
)
from tests.fakes.origin_server import OriginServer
from tests.unit.tracker.bench import REGISTRY, REPOSITORY, Host, RelayHost, config_of, relay_hosts, tracker_with
from tests.unit.tracker.test_distribution import Gate, scripted, until

DATA = random.Random(5).randbytes((3 << 20) + 77)
DIGEST = Digest.of(DATA)
LAYOUT = PieceLayout.for_size(len(DATA))
EVERYTHING = PieceSet(LAYOUT.count, range(LAYOUT.count))
HELD = Inventory((HeldBlob(str(DIGEST), len(DATA)),))


@pytest.fixture
def origin() -> Iterator[OriginServer]:
    with OriginServer() as server:
        server.put_blob(REPOSITORY, DATA)
        yield server


@pytest.fixture
async def tracker(origin: OriginServer, tmp_path: Path) -> AsyncIterator[Tracker]:
    """It has dealt the blob once, and nobody in the fleet holds it."""
    async with tracker_with(config_of(tmp_path, origin.url)) as tracker:
        async with relay_hosts(tracker, "z") as (host,):
            assert await host.get(DIGEST) == DATA
            await host.expect(Ended)
        assert sent_by(tracker) == len(DATA)
        yield tracker
        # Whatever else happens: nothing more of it comes from the origin.
        assert len(origin.seen(f"/v2/{REPOSITORY}/blobs/{DIGEST}")) == 1


def sent_by(tracker: Tracker) -> float:
    """How many bytes the tracker has dealt so far, of generations that have ended."""
    return tracker._metrics.dealt_bytes._value.get()


def wish(id_: int = 1, **changes: int) -> Join:
    return Join(id_, REGISTRY, REPOSITORY, str(DIGEST), **changes)


def holds(host: RelayHost) -> None:
    """Give a host the blob behind everybody's back."""
    file = host.file(DIGEST, LAYOUT)
    for index in range(LAYOUT.count):
        start = LAYOUT.offset(index)
        file.write_piece(index, DATA[start : start + LAYOUT.length(index)])


async def all_hold(tracker: Tracker, *hosts: Host) -> None:
    for host in hosts:
        if isinstance(host, RelayHost):
            holds(host)
        await host.say(HELD)
    await until(lambda: len(tracker._fleet.holders(DIGEST)) == len(hosts))


def passed_on(counts: list[Counts]) -> int:
    return sum(count.relayed_bytes for count in counts)


async def heard_by_now(host: Host) -> list[Message]:
    """All that was said to a host before the answer to this question."""
    await host.say(Lacking(4711, b""))
    await host.expect(Ended, lambda ended: ended.generation == 4711)
    return host.messages


@pytest.mark.parametrize(("holders", "wanting"), [("a", "b"), ("ab", "c"), ("a", "bcd"), ("abcd", "ef")])
async def test_holders_deal_and_the_tracker_sends_nothing(tracker: Tracker, holders: str, wanting: str) -> None:
    async with relay_hosts(tracker, holders + wanting) as hosts:
        having, others = hosts[: len(holders)], hosts[len(holders) :]
        await all_hold(tracker, *having)
        for host in others:
            await host.say(wish())
        plans = [await host.expect(RelayPlan) for host in others]
        for host, plan in zip(others, plans, strict=True):
            assert await host.finish(plan) == DATA
        (number,) = {plan.generation for plan in plans}
        for host in others:
            assert await host.expect(Ended) == Ended(number)
            # The relay's thread counts a piece after it has written it.
            counts = host.counts[number]
            await until(lambda counts=counts: counts.relayed_bytes == len(DATA))
            assert (counts.dealt_bytes, counts.duplicate_bytes) == (0, 0)
        supplied = [host for host in having if number in host.counts]
        assert supplied
        for host in supplied:
            assert (await host.expect(Supply)).generation == number
            assert await host.expect(Ended) == Ended(number)
        # Each ring got one copy from holders; members passed it on, or nobody had to.
        assert sum(host.counts[number].sent_bytes for host in [*supplied, *others]) == len(DATA) * len(wanting)
    assert sent_by(tracker) == len(DATA)


async def test_the_tracker_signs_and_says_nothing_else(tracker: Tracker) -> None:
    async with scripted(tracker, "hb") as (holder, wanting):
        await all_hold(tracker, holder)
        await wanting.say(wish())
        plan = await wanting.expect(RelayPlan)
        (ring,) = plan.rings
        assert (ring.dealer, ring.members) == (holder.node, members_bitmap([slot_of(tracker, wanting)]))
        assert (await wanting.expect(Dealt)).generation == plan.generation
        supply = await holder.expect(Supply)
        assert (supply.generation, supply.digest, supply.private) == (plan.generation, str(DIGEST), False)
        assert len(supply.signatures) == -(-LAYOUT.count // 64)
        deal = await holder.expect(Deal)
        assert (deal.generation, deal.ring, deal.pieces) == (plan.generation, ring, EVERYTHING.to_bytes())
        assert not deal.by_offer
        assert tracker._relay._reactor._transfers == {}


def slot_of(tracker: Tracker, host: Host) -> int:
    (slot,) = tracker._fleet.slots([host.node])
    return slot


async def test_who_comes_while_holders_deal_is_filled_with_what_they_had_dealt(tracker: Tracker) -> None:
    async with scripted(tracker, "hbc") as (holder, first, second):
        await all_hold(tracker, holder)
        await first.say(wish())
        plan = await first.expect(RelayPlan)
        one = await holder.expect(Deal)
        await second.say(wish())
        (ring,) = (await second.expect(RelayPlan)).rings
        assert await first.expect(Epoch) == Epoch(plan.generation, (ring,))
        other = await holder.expect(Deal)
        assert (other.share, other.ring, other.pieces) == (one.share, ring, one.pieces)
        assert slots_of(ring.members) == sorted(slot_of(tracker, host) for host in (first, second))
        nothing, some = PieceSet(LAYOUT.count), PieceSet(LAYOUT.count, [0, 4, 5])
        await holder.say(Began(plan.generation, one.ring.epoch, nothing.to_bytes()))
        await holder.say(Began(plan.generation, ring.epoch, some.to_bytes()))
        ((filling,),) = [(await second.expect(Epoch)).rings]
        assert slots_of(filling.members) == [slot_of(tracker, second)]
        dealer = next(host for host in (holder, first) if host.node == filling.dealer)
        assert await dealer.expect(Fill) == Fill(plan.generation, filling, some.to_bytes())


async def test_a_bitmap_of_what_was_dealt_that_does_not_fit_ends_its_connection(tracker: Tracker) -> None:
    async with scripted(tracker, "hbx") as (holder, wanting, stranger):
        await all_hold(tracker, holder)
        await wanting.say(wish())
        plan = await wanting.expect(RelayPlan)
        epoch = (await holder.expect(Deal)).ring.epoch
        # Who doesn't deal isn't even listened to.
        await stranger.say(Began(plan.generation, epoch, b"\xff"))
        await heard_by_now(stranger)
        await holder.say(Began(plan.generation, epoch, b"\xff"))
        assert await holder.is_hung_up_on()
        assert not wanting.ended.is_set()


@pytest.mark.parametrize("wanting", ["b", "bc"])
async def test_a_holder_that_disappears_in_the_middle_is_replaced(tracker: Tracker, wanting: str) -> None:
    """Guests by fills or members of a ring: what it hadn't dealt, the other holder deals, by offer."""
    async with scripted(tracker, "x") as (mute,), relay_hosts(tracker, "a" + wanting) as (holder, *others):
        await all_hold(tracker, mute, holder)
        for host in others:
            await host.say(wish())
        plans = [await host.expect(RelayPlan) for host in others]
        lost = await mute.expect(Message, lambda message: isinstance(message, Deal | Fill))
        assert isinstance(lost, Deal | Fill)
        await mute.close()
        again = await holder.expect(
            Message,
            lambda message: isinstance(message, Deal | Fill) and message.by_offer and message.pieces == lost.pieces,
        )
        assert isinstance(again, Deal | Fill)
        for host, plan in zip(others, plans, strict=True):
            assert await host.finish(plan) == DATA
        for host, plan in zip(others, plans, strict=True):
            assert await host.expect(Ended) == Ended(plan.generation)
    assert sent_by(tracker) == len(DATA)


async def test_a_holder_that_dies_while_it_deals_is_replaced(tracker: Tracker) -> None:
    async with relay_hosts(tracker, "abcd") as (first, second, *others):
        await all_hold(tracker, first, second)
        for host in others:
            await host.say(wish())
        plans = [await host.expect(RelayPlan) for host in others]
        await first.expect(Supply)
        first.vanish()
        for host, plan in zip(others, plans, strict=True):
            assert await host.finish(plan) == DATA
            assert host.counts[plan.generation].dealt_bytes == 0
    assert sent_by(tracker) == len(DATA)


async def test_a_holder_that_cannot_deal_is_replaced(tracker: Tracker) -> None:
    async with scripted(tracker, "x") as (unable,), relay_hosts(tracker, "ab") as (holder, wanting):
        await all_hold(tracker, unable, holder)
        await wanting.say(wish())
        plan = await wanting.expect(RelayPlan)
        await unable.say(Left((await unable.expect(Supply)).generation, "the blob isn't here"))
        assert await wanting.finish(plan) == DATA
    assert sent_by(tracker) == len(DATA)


async def test_when_the_last_holder_is_gone_the_members_get_another_way(tracker: Tracker) -> None:
    async with scripted(tracker, "x") as (mute,), relay_hosts(tracker, "b") as (wanting,):
        await all_hold(tracker, mute)
        await wanting.say(wish())
        plan = await wanting.expect(RelayPlan)
        await mute.expect(Deal)
        await mute.close()
        await wanting.expect(Dealt)
        await wanting.say(Lacking(plan.generation, EVERYTHING.to_bytes()))
        assert await wanting.expect(Ended) == Ended(plan.generation)
        assert await wanting.get(DIGEST, 2) == DATA
        await wanting.expect(Ended)
    assert sent_by(tracker) == 2 * len(DATA)


async def test_whoever_comes_when_everything_was_dealt_is_a_guest(tracker: Tracker) -> None:
    async with relay_hosts(tracker, "axb") as (done, idle, late):
        for host in (done, idle):
            await host.say(wish())
        plans = [await host.expect(RelayPlan) for host in (done, idle)]
        for host in (done, idle):
            await host.expect(Dealt)
        await done.finish(plans[0])
        before = len([message for message in await heard_by_now(idle) if isinstance(message, Epoch)])
        await late.say(wish())
        plan = await late.expect(RelayPlan)
        assert (plan.generation, plan.rings) == (plans[0].generation, ())
        (slot,) = {tuple(slots_of(info.members)) for info in (await late.expect(Epoch)).rings}
        assert slot == (slot_of(tracker, late),)
        assert await late.finish(plan) == DATA
        assert late.counts[plan.generation].dealt_bytes == 0
        assert len([message for message in await heard_by_now(idle) if isinstance(message, Epoch)]) == before


@pytest.mark.parametrize("home", ["west", "east"])
async def test_each_zone_gets_one_copy_and_the_tracker_deals_to_its_own(
    origin: OriginServer, tmp_path: Path, home: str
) -> None:
    """Where its zone isn't configured, the tracker is at home where most agents are."""
    gate = Gate(origin, start=False)
    zone = Zone(f"{home}/1") if home == "east" else None
    relay = TrackerRelay(listen=(Address("127.0.0.1:0"),), zone=zone)
    async with (
        tracker_with(config_of(tmp_path, origin.url, relay=relay)) as tracker,
        relay_hosts(tracker, "ab", "east/1") as east,
        relay_hosts(tracker, "cde", "west/1") as west,
    ):
        hosts = [*east, *west]
        for host in hosts:
            await host.say(wish())
        await until(lambda: len([*tracker._distribution.waiting()]) == len(hosts))
        gate.open()
        plans = {host.name: await host.expect(RelayPlan) for host in hosts}
        for host in hosts:
            on_ring = {slot for info in plans[host.name].rings for slot in slots_of(info.members)}
            assert on_ring == {slot_of(tracker, each) for each in (east if host in east else west)}
        for host in hosts:
            assert await host.finish(plans[host.name]) == DATA
        for host in hosts:
            await host.expect(Ended)
        near, far = (east, west) if home == "east" else (west, east)
        near_counts, far_counts = ([count for host in zone for count in host.counts.values()] for zone in (near, far))
        await until(lambda: passed_on(near_counts) == len(DATA) * (len(near) - 1))
        await until(lambda: passed_on(far_counts) == len(DATA) * len(far))
        assert sum(count.dealt_bytes for count in near_counts) == sent_by(tracker) == len(DATA)
        assert sum(count.dealt_bytes for count in far_counts) == 0
        # One copy for each member of its own but the first, and one for the other zone.
        assert sum(count.sent_bytes for count in near_counts) == len(DATA) * len(near)
        assert sum(count.sent_bytes for count in far_counts) == len(DATA) * (len(far) - 1)


async def test_a_fleet_may_be_dealt_one_copy_whatever_its_zones(origin: OriginServer, tmp_path: Path) -> None:
    gate = Gate(origin, start=False)
    relay = TrackerRelay(listen=(Address("127.0.0.1:0"),), copy_per="fleet")
    async with (
        tracker_with(config_of(tmp_path, origin.url, relay=relay)) as tracker,
        relay_hosts(tracker, "a", "east") as east,
        relay_hosts(tracker, "b", "west") as west,
    ):
        hosts = [*east, *west]
        for host in hosts:
            await host.say(wish())
        await until(lambda: len([*tracker._distribution.waiting()]) == 2)
        gate.open()
        plans = [await host.expect(RelayPlan) for host in hosts]
        ((ring,),) = {plan.rings for plan in plans}
        assert slots_of(ring.members) == [0, 1]
        for host, plan in zip(hosts, plans, strict=True):
            assert await host.finish(plan) == DATA


async def test_a_member_that_answers_no_probe_is_left_out_until_it_speaks(
    origin: OriginServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(origin)
    async with (
        tracker_with(config_of(tmp_path, origin.url)) as tracker,
        scripted(tracker, "abc") as (one, other, mute),
    ):
        for host in (one, other, mute):
            await host.say(wish())
            await host.expect(RelayPlan)
        everybody = [slot_of(tracker, host) for host in (one, other, mute)]
        for host in (one, other):
            (await heard_by_now(host)).clear()
        relaying = tracker._distribution.relaying
        # What an agent misses may be the fault of a link between two.
        await one.say(Silent(mute.node), Silent("nobody"))
        await mute.expect(Probe)
        await mute.say(Beat())
        await until(lambda: not relaying._probes)
        assert not relaying.is_silent(mute.node)
        monkeypatch.setattr(relaying_module, "PROBE_SECONDS", 0.05)
        await one.say(Silent(mute.node))
        await other.say(Silent(mute.node))
        await mute.expect(Probe)
        for host in (one, other):
            await host.expect(Epoch, lambda epoch: slots_of(epoch.rings[0].members) == everybody[:2])
        assert relaying.is_silent(mute.node)
        await mute.say(Beat())
        for host in (one, other, mute):
            await host.expect(Epoch, lambda epoch: slots_of(epoch.rings[0].members) == everybody)
        assert not relaying.is_silent(mute.node)
        gate.open()


async def test_a_holder_that_gives_nothing_is_silent_and_not_asked_again(tracker: Tracker) -> None:
    async with scripted(tracker, "x") as (mute,), relay_hosts(tracker, "abc") as (holder, first, second):
        await all_hold(tracker, mute, holder)
        await first.say(wish())
        plan = await first.expect(RelayPlan)
        lost = await mute.expect(Fill)
        file = first.files[str(DIGEST)]
        await until(lambda: len(file.pieces.missing()) == len([*PieceSet.from_bytes(LAYOUT.count, lost.pieces)]))
        await first.say(Lacking(plan.generation, lost.pieces))
        await mute.expect(Probe)
        assert await first.finish(plan) == DATA
        await until(lambda: tracker._distribution.relaying.is_silent(mute.node))
        assert tracker._distribution.relaying.is_silent(mute.node)
        await first.expect(Ended)
        mute.messages.clear()
        assert await second.get(DIGEST) == DATA
        await second.expect(Ended)
        assert not [message for message in mute.messages if isinstance(message, Supply | Deal | Fill)]
        await mute.say(Beat())
        await until(lambda: not tracker._distribution.relaying.is_silent(mute.node))
    assert sent_by(tracker) == len(DATA)
