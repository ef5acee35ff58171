"""What the tracker says of relays, as the relay's thread is told it; the thread itself isn't here."""

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from p2pdist.agent.relays import Relays
from p2pdist.core.errors import InvalidInput, ProtocolError, StoreError, Unavailable
from p2pdist.core.pieces import PieceSet
from p2pdist.relay.dealing import EVERY_ROOT, Lane
from p2pdist.relay.node import RelayNode, Ticket
from p2pdist.relay.notices import DealsDone as DealsAcknowledged
from p2pdist.relay.notices import EpochBegan, PeerLags, PeerSilent, StoodStill, TransferFailed
from p2pdist.relay.spans import Ring
from p2pdist.relay.switchboard import NodeAddress
from p2pdist.relay.transfer import Counts, TransferSpec
from p2pdist.store import BlobStore, PartialBlob
from p2pdist.telemetry.metrics import AgentMetrics
from p2pdist.wire.messages import (
    Beat,
    Began,
    Deal,
    DealsDone,
    Dealt,
    Ended,
    Epoch,
    Fill,
    Lacking,
    Lagging,
    Left,
    Message,
    RelayPlan,
    RingInfo,
    Silent,
    Table,
    members_bitmap,
)

from .bench import NODE, PIECE_BYTES, Blob
from .scripted_tracker import member

BLOB = Blob(3 * PIECE_BYTES)


class Thread:
    """Keeps what it is told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.failure: OSError | None = None

    def set_nodes(self, nodes: dict[str, NodeAddress], keep: Iterable[str] = ()) -> None:
        self.nodes = nodes

    def open(self, spec: TransferSpec) -> Ticket:
        if self.failure is not None:
            raise self.failure
        self.told.append(("open", spec.generation))
        return Ticket(Counts(dealt_bytes=5), [None] * spec.layout.count)

    def set_alone(self, alone: bool) -> None:
        self.told.append(("alone", alone))

    def close(self, generation: int) -> None:
        self.told.append(("close", generation))

    def add_ring(self, generation: int, ring: Ring) -> None:
        self.told.append(("ring", generation, ring.epoch, ring.members))

    def start_fill(
        self, generation: int, ring: Ring, indices: Iterable[int], by_offer: bool = False, lane: Lane = EVERY_ROOT
    ) -> None:
        self.told.append(("fill", generation, ring.epoch, ring.members, tuple(indices), by_offer, lane))

    def start_dealing(
        self,
        generation: int,
        share: int,
        ring: Ring,
        pieces: Iterable[int] | None = None,
        by_offer: bool = False,
        lane: Lane = EVERY_ROOT,
    ) -> None:
        assert pieces is not None
        self.told.append(("deal", generation, share, ring.epoch, ring.members, tuple(pieces), by_offer, lane))

    def watch(self, generation: int) -> None:
        self.told.append(("watch", generation))


class Bench:
    def __init__(self, partial: PartialBlob) -> None:
        self.thread = Thread()
        self.said: list[Message] = []
        self.woken = 0
        self.partial = partial
        metrics = AgentMetrics(CollectorRegistry())
        self.relays = Relays(NODE, cast(RelayNode, self.thread), metrics, self.said.append, lambda: None)
        self.relays.table(Table(True, (member(0, NODE), member(1, "one"), member(2, "two"))))

    def wake(self) -> None:
        self.woken += 1


@pytest.fixture
def bench(root: Path) -> Iterator[Bench]:
    with BlobStore.open(root) as store, store.begin(BLOB.digest, BLOB.layout) as partial:
        yield Bench(partial)


def plan(*slots: int, epoch: int = 1, generation: int = 7) -> RelayPlan:
    size = len(BLOB.data)
    return RelayPlan(1, str(BLOB.digest), size, PIECE_BYTES, generation, 4, False, (ring(epoch, *slots),))


def ring(epoch: int, *slots: int, dealer: str = "tracker", leaves: tuple[int, ...] = ()) -> RingInfo:
    return RingInfo(epoch, members_bitmap([*slots]), dealer, members_bitmap([*leaves]))


def test_what_comes_before_we_enter_means_the_table_of_its_time(bench: Bench) -> None:
    relays = bench.relays
    relays.plan(plan(0, 1))
    relays.message(Epoch(7, (ring(2, 0, 1, 2), ring(3, 0, dealer="one"))))
    relays.message(Fill(7, ring(4, 2, dealer=NODE), PieceSet(3, [0, 2]).to_bytes(), lane=1, lanes=2))
    relays.message(Deal(7, 9, ring(5, 1, dealer=NODE), PieceSet(3, [1]).to_bytes(), True, 2, 3))
    relays.message(Dealt(7))
    # One goes, and another gets its slot.
    relays.table(Table(False, (member(1, "three"),), (1,)))
    relays.table(Table(False, (), (2,)))
    membership = relays.enter(plan(0, 1), bench.partial, bench.wake)
    assert membership.dealt
    assert bench.thread.told == [
        ("open", 7),
        ("ring", 7, 1, (NODE, "one")),
        ("ring", 7, 2, (NODE, "one", "two")),
        ("ring", 7, 3, (NODE,)),
        ("fill", 7, 4, ("two",), (0, 2), False, Lane(1, 2)),
        ("deal", 7, 9, 5, ("one",), (1,), True, Lane(2, 3)),
        ("watch", 7),
    ]


def test_a_generation_that_ends_before_we_enter(bench: Bench) -> None:
    bench.relays.plan(plan(0))
    bench.relays.message(Ended(7, "UNAVAILABLE", 503, "no"))
    membership = bench.relays.enter(plan(0), bench.partial, bench.wake)
    assert membership.ended is not None
    assert bench.relays.live == 0
    assert bench.relays.totals().dealt_bytes == 5
    assert bench.thread.told[-1] == ("close", 7)


def test_nothing_is_kept_for_generations_that_we_have_no_part_in_and_little_for_others(bench: Bench) -> None:
    for generation in range(1000):
        bench.relays.message(Epoch(generation, (ring(1, 0),)))
    assert not bench.relays._planned
    bench.relays.plan(plan(0))
    for epoch in range(2, 1000):
        bench.relays.message(Epoch(7, (ring(epoch, 0),)))
    bench.relays.enter(plan(0), bench.partial, bench.wake)
    rings = [told for told in bench.thread.told if told[0] == "ring"]
    assert len(rings) < 300
    assert rings[-1] == ("ring", 7, 999, (NODE,))


@pytest.mark.parametrize(
    "message",
    [
        Epoch(7, (ring(1, 0), ring(2, 0, 9))),
        Epoch(7, (ring(2, 0, leaves=(9,)),)),
        Fill(7, ring(2, 0, 9), PieceSet(3).to_bytes()),
        Fill(7, ring(2, 0), b"too long"),
        Deal(7, 1, ring(2, 0, 9), PieceSet(3).to_bytes()),
        Deal(7, 1, ring(2, 0), b"too long"),
    ],
)
def test_messages_that_mean_nothing(bench: Bench, message: Epoch | Fill | Deal) -> None:
    bench.relays.plan(plan(0))
    with pytest.raises((ProtocolError, InvalidInput)):
        bench.relays.message(message)
    with pytest.raises(ProtocolError, match="slots"):
        bench.relays.plan(plan(8))
    # Not even a part of it.
    bench.relays.enter(plan(0), bench.partial, bench.wake)
    assert bench.thread.told == [("open", 7), ("ring", 7, 1, (NODE,))]


def test_a_plan_that_does_not_fit_the_blob(bench: Bench) -> None:
    other = RelayPlan(1, str(BLOB.digest), 5, PIECE_BYTES, 7, 4, False, (ring(1, 0),))
    bench.relays.plan(other)
    with pytest.raises(ProtocolError, match="here it has"):
        bench.relays.enter(other, bench.partial, bench.wake)
    bench.relays.decline(7, "it doesn't fit")
    assert bench.said == [Left(7, "it doesn't fit")]
    assert not bench.relays._planned


def test_no_descriptor_left(bench: Bench) -> None:
    bench.thread.failure = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    bench.relays.plan(plan(0))
    with pytest.raises(Unavailable, match="LimitNOFILE"):
        bench.relays.enter(plan(0), bench.partial, bench.wake)


def test_a_disk_that_fails_ends_our_part(bench: Bench) -> None:
    bench.relays.plan(plan(0))
    membership = bench.relays.enter(plan(0), bench.partial, bench.wake)
    bench.relays.notice(TransferFailed(7, StoreError("the disk is full")))
    assert isinstance(membership.failure, StoreError)
    assert bench.woken
    assert bench.said == [Left(7, "the disk is full")]
    assert bench.relays.live == 0


def test_after_a_broken_connection_every_generation_is_asked_after(bench: Bench) -> None:
    bench.relays.plan(plan(0))
    membership = bench.relays.enter(plan(0), bench.partial, bench.wake)
    bench.relays.reconnected()
    assert bench.said == [Lacking(7, b"\0")]
    # Joining again in the same generation is a new epoch of the same membership.
    bench.relays.plan(plan(0, 1, epoch=4))
    assert bench.relays.enter(plan(0, 1, epoch=4), bench.partial, bench.wake) is membership
    assert bench.thread.told[-1] == ("ring", 7, 4, (NODE, "one"))
    assert sum(told == ("open", 7) for told in bench.thread.told) == 1


def test_a_guest_has_no_ring_and_takes_part_all_the_same(bench: Bench) -> None:
    guest = RelayPlan(1, str(BLOB.digest), len(BLOB.data), PIECE_BYTES, 7, 4, False, ())
    bench.relays.plan(guest)
    bench.relays.message(Epoch(7, (ring(3, 0, dealer="one"),)))
    bench.relays.enter(guest, bench.partial, bench.wake)
    assert bench.thread.told == [("open", 7), ("ring", 7, 3, (NODE,))]


def test_what_the_relays_thread_says_goes_to_the_tracker(bench: Bench) -> None:
    bench.relays.notice(EpochBegan(7, 3, (0, 2)))
    assert bench.said == []
    bench.relays.plan(plan(0))
    bench.relays.enter(plan(0), bench.partial, bench.wake)
    bench.relays.notice(EpochBegan(7, 3, (0, 2)))
    bench.relays.notice(DealsAcknowledged(7))
    bench.relays.notice(PeerLags("one"))
    bench.relays.notice(PeerSilent("two"))
    bench.relays.notice(StoodStill())
    dealt = PieceSet(3, [0, 2]).to_bytes()
    assert bench.said == [Began(7, 3, dealt), DealsDone(7), Lagging("one"), Silent("two"), Beat()]
