"""Parts of blobs through the library: passed through from an origin that the test plays, or read from a pull."""

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from p2pdist.agent.content import BlobView
from p2pdist.agent.passage import Source
from p2pdist.agent.slices import FIRST_SLICE_BYTES
from p2pdist.agent.views import Parts
from p2pdist.core.errors import P2PDistError
from p2pdist.http.ranges import RangeNotSatisfiable, parse_ranges
from p2pdist.wire.messages import Failed, Join, Left, SizeIs, SizeWanted
from tests.fakes.origin_server import OriginServer, Reply, basic_guard, cut, oci_error

from .bench import PIECE_BYTES, Bench, Blob, running

UPSTREAM, REPOSITORY = "registry.example", "library/app"
MIB = 1 << 20
BLOB = Blob(4 * MIB + 4711)
PATH = f"/v2/{REPOSITORY}/blobs/{BLOB.digest}"


class Lazy:
    """A request for parts of a blob, read as the shim does it."""

    def __init__(self, bench: Bench, field: str, nursery: trio.Nursery, blob: Blob = BLOB) -> None:
        self.received = bytearray()
        self.error: P2PDistError | None = None
        self.view: BlobView | None = None
        self.done = trio.Event()
        self.scope = trio.CancelScope()
        self.go_on = trio.Event()
        self.go_on.set()
        nursery.start_soon(self._read, bench, field, blob)

    async def _read(self, bench: Bench, field: str, blob: Blob) -> None:
        ranges = parse_ranges(field)
        assert ranges is not None
        with self.scope:
            try:
                async with bench.library.blob(UPSTREAM, REPOSITORY, blob.digest, ranges) as self.view:
                    for part in ranges.resolve(self.view.size_bytes) or []:
                        at = part.start
                        while at < part.end:
                            end = min(part.end, await self.view.available(at))
                            self.received += os.pread(self.view.fd, end - at, at)
                            at = end
                            await self.go_on.wait()
            except P2PDistError as error:
                self.error = error
        self.done.set()

    async def finished(self) -> bytes:
        with trio.fail_after(15):
            await self.done.wait()
        if self.error is not None:
            raise self.error
        return bytes(self.received)


@asynccontextmanager
async def agent(root: Path, blob: Blob = BLOB) -> AsyncIterator[tuple[Bench, OriginServer, trio.Nursery]]:
    """An agent that knows the size of `blob`, which the origin has."""
    with OriginServer() as origin:
        origin.put_blob(REPOSITORY, blob.data)
        async with running(root, origin=origin.url) as bench, trio.open_nursery() as nursery:
            nursery.start_soon(tell_sizes, bench, len(blob.data))
            yield bench, origin, nursery
            await bench.until(lambda: open_files(root) == 0)
            nursery.cancel_scope.cancel()


async def tell_sizes(bench: Bench, size_bytes: int) -> None:
    while True:
        with trio.fail_after(60):
            wanted = await endless(bench)
        await bench.line.say(SizeIs(wanted.id, size_bytes))


async def endless(bench: Bench) -> SizeWanted:
    while True:
        try:
            return await bench.line.next(SizeWanted)
        except trio.TooSlowError:
            continue


def open_files(root: Path) -> int:
    """How many of the files through which parts are passed are open."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith(f"{root}/part-")
        except FileNotFoundError:
            continue
    return found


def asked(origin: OriginServer, path: str = PATH) -> list[tuple[int, int]]:
    """The ranges that the origin was asked for."""
    found = []
    for seen in origin.seen(path):
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", seen.headers.get("range", ""))
        assert match is not None, seen
        found.append((int(match[1]), int(match[2]) + 1))
    return found


async def test_a_part_of_a_blob_that_nobody_pulls_is_that_part_at_the_origin_too(root: Path) -> None:
    async with agent(root) as (bench, origin, nursery):
        assert await Lazy(bench, "bytes=1000-1999", nursery).finished() == BLOB.data[1000:2000]
        assert await Lazy(bench, "bytes=-77", nursery).finished() == BLOB.data[-77:]
        assert asked(origin) == [(1000, 2000), (len(BLOB.data) - 77, len(BLOB.data))]
        assert bench.library.origin_bytes == 1077
        assert bench.value("passed_bytes_total") == bench.value("received_bytes_total", source="origin") == 1077
        assert not bench.store.has(BLOB.digest)
        assert not bench.library.pulls
        assert not any(isinstance(message, Join) for message in bench.line.heard)


async def test_many_parts_in_any_order_are_fetched_once(root: Path) -> None:
    spans = [(at, at + 500) for at in range(3_900_000, 0, -130_000)]
    field = "bytes=" + ",".join(f"{start}-{end - 1}" for start, end in spans)
    async with agent(root) as (bench, origin, nursery):
        readers = [Lazy(bench, field, nursery) for _ in range(20)]
        for reader in readers:
            assert await reader.finished() == b"".join(BLOB.data[start:end] for start, end in spans)
        assert sorted(asked(origin)) == sorted(spans)


async def test_who_hangs_up_leaves_the_rest_at_the_origin(root: Path) -> None:
    blob = Blob(24 * MIB, seed=2)
    async with agent(root, blob) as (bench, origin, nursery):
        reader = Lazy(bench, "bytes=4096-", nursery, blob)
        reader.go_on = trio.Event()
        await bench.until(lambda: bool(reader.received))
        reader.scope.cancel()
        await reader.done.wait()
        assert bytes(reader.received) == blob.data[4096 : 4096 + len(reader.received)]
        await bench.until(lambda: open_files(root) == 0)
        assert min(asked(origin, f"/v2/{REPOSITORY}/blobs/{blob.digest}"))[0] == 4096
        assert bench.library.origin_bytes <= 2 * MIB
        assert not bench.library.pulls


async def test_who_resumes_reads_from_the_origin_until_a_pull_has_overtaken_him(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pdist.agent.views.PROBE_BYTES", 1)
    async with agent(root) as (bench, origin, nursery):
        reader = Lazy(bench, "bytes=100000-", nursery)
        reader.go_on = trio.Event()
        bench.dealer.open(BLOB, bench.relay_port)
        join = await bench.line.next(Join)
        await bench.line.say(BLOB.plan(join.id))
        bench.dealer.deal(BLOB, range(BLOB.layout.count))
        await bench.until(lambda: bench.store.has(BLOB.digest))
        reader.go_on.set()
        assert await reader.finished() == BLOB.data[100_000:]
        assert bench.library.origin_bytes <= FIRST_SLICE_BYTES + MIB
        assert min(asked(origin))[0] == 100_000


async def test_a_pull_that_only_somebody_reads_from_ends_with_him(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pdist.agent.views.PROBE_BYTES", 1)
    async with agent(root) as (bench, _, nursery):
        reader = Lazy(bench, "bytes=0-", nursery)
        reader.go_on = trio.Event()
        bench.dealer.open(BLOB, bench.relay_port)
        join = await bench.line.next(Join)
        await bench.line.say(BLOB.plan(join.id))
        bench.dealer.deal(BLOB, range(3))
        await bench.until(lambda: any(pull.received_bytes == 3 * PIECE_BYTES for pull in bench.library.pulls))
        reader.scope.cancel()
        assert "nobody reads" in (await bench.line.next(Left)).reason
        await bench.until(lambda: not bench.library.pulls and bench.relays.live == 0)
        await bench.until(lambda: bench.value("pulls_total", outcome="abandoned", source="relay") == 1)
        # Whoever wants it now has it pulled anew.
        again = Lazy(bench, f"bytes=0-{len(BLOB.data) - 1}", nursery)
        bench.dealer.open(BLOB, bench.relay_port, 8)
        join = await bench.line.next(Join)
        await bench.line.say(BLOB.plan(join.id, 8))
        bench.dealer.deal(BLOB, range(BLOB.layout.count), 8)
        assert await again.finished() == BLOB.data
        await bench.until(lambda: bench.store.has(BLOB.digest))


async def test_a_pull_that_is_called_off_ends_before_the_next_one_begins(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pdist.agent.views.PROBE_BYTES", 1)
    async with agent(root) as (bench, _, nursery):
        first = Lazy(bench, "bytes=0-", nursery)
        first.go_on = trio.Event()
        await bench.line.next(Join)
        first.scope.cancel()
        await first.done.wait()
        pull = bench.library.want(Source(UPSTREAM, REPOSITORY, BLOB.digest))
        bench.dealer.open(BLOB, bench.relay_port)
        join = await bench.line.next(Join)
        await bench.line.say(BLOB.plan(join.id))
        bench.dealer.deal(BLOB, range(BLOB.layout.count))
        with trio.fail_after(10):
            await pull.ended.wait()
        assert pull.error is None
        assert bench.store.has(BLOB.digest)


async def test_who_asks_for_most_of_a_blob_has_it_pulled(root: Path) -> None:
    async with agent(root) as (bench, origin, nursery):
        third = len(BLOB.data) // 3
        first = Lazy(bench, f"bytes=0-{third - 1}", nursery)
        assert await first.finished() == BLOB.data[:third]
        second = Lazy(bench, f"bytes={third}-{2 * third - 1}", nursery)
        bench.dealer.open(BLOB, bench.relay_port)
        join = await bench.line.next(Join)
        await bench.line.say(BLOB.plan(join.id))
        bench.dealer.deal(BLOB, range(BLOB.layout.count))
        assert await second.finished() == BLOB.data[third : 2 * third]
        await bench.until(lambda: bench.store.has(BLOB.digest))
        assert sum(end - start for start, end in asked(origin)) == third
        assert await Lazy(bench, "bytes=5-9", nursery).finished() == BLOB.data[5:10]


async def test_a_part_of_a_blob_that_arrives_is_waited_for_a_moment_and_then_passed_through(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pdist.agent.views.AHEAD_SECONDS", 0.2)
    async with agent(root) as (bench, origin, nursery):
        bench.library.want(Source(UPSTREAM, REPOSITORY, BLOB.digest))
        bench.dealer.open(BLOB, bench.relay_port)
        join = await bench.line.next(Join)
        await bench.line.say(BLOB.plan(join.id))
        bench.dealer.deal(BLOB, range(4))
        field = f"bytes=0-99,{3 * MIB}-{3 * MIB + 9},{2 * MIB}-{2 * MIB + 9}"
        reader = Lazy(bench, field, nursery)
        expected = BLOB.data[:100] + BLOB.data[3 * MIB : 3 * MIB + 10] + BLOB.data[2 * MIB : 2 * MIB + 10]
        assert await reader.finished() == expected
        assert sorted(asked(origin)) == [(2 * MIB, 2 * MIB + 10), (3 * MIB, 3 * MIB + 10)]
        bench.dealer.deal(BLOB, range(4, BLOB.layout.count))
        await bench.until(lambda: bench.store.has(BLOB.digest))


async def test_open_ended_ranges_of_a_blob_that_arrives_wait_for_it(root: Path) -> None:
    async with agent(root) as (bench, origin, nursery):
        pull = bench.library.want(Source(UPSTREAM, REPOSITORY, BLOB.digest))
        bench.dealer.open(BLOB, bench.relay_port)
        join = await bench.line.next(Join)
        await bench.line.say(BLOB.plan(join.id))
        readers = [Lazy(bench, f"bytes={at * MIB}-", nursery) for at in range(4)]
        await bench.until(lambda: all(reader.view for reader in readers))
        assert not any(isinstance(reader.view, Parts) for reader in readers)
        readers[1].scope.cancel()
        bench.dealer.deal(BLOB, range(BLOB.layout.count))
        for at in (0, 2, 3):
            assert await readers[at].finished() == BLOB.data[at * MIB :]
        await pull.ended.wait()
        assert pull.error is None
        assert origin.seen(PATH) == []


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda seen, good: Reply(200, good.headers, BLOB.data), id="ranges ignored"),
        pytest.param(lambda seen, good: oci_error(503, "UNAVAILABLE", Retry_After="100"), id="503"),
        pytest.param([lambda seen, good: oci_error(404, "BLOB_UNKNOWN")] * 2, id="404"),
        pytest.param(lambda seen, good: replace(good, hang_after=-1), id="hangs"),
        pytest.param(lambda seen, good: replace(good, hang_after=1000), id="hangs in the middle"),
        pytest.param(
            lambda seen, good: Reply(
                206, good.headers | {"Content-Range": "bytes 100000-299999/5555555"}, b"x" * 200000
            ),
            id="another size",
        ),
    ],
)
async def test_what_the_origin_wont_give_as_a_part_comes_by_a_pull_in_the_same_request(
    root: Path, monkeypatch: pytest.MonkeyPatch, wrong: object
) -> None:
    monkeypatch.setattr("p2pdist.agent.passage.PATIENCE_SECONDS", 0.3)
    async with agent(root) as (bench, origin, nursery):
        steps = wrong if isinstance(wrong, list) else [wrong]
        origin.script(PATH, *steps)
        reader = Lazy(bench, "bytes=100000-299999", nursery)
        bench.dealer.open(BLOB, bench.relay_port)
        join = await bench.line.next(Join)
        await bench.line.say(BLOB.plan(join.id))
        bench.dealer.deal(BLOB, range(BLOB.layout.count))
        assert await reader.finished() == BLOB.data[100_000:300_000]
        await bench.until(lambda: bench.store.has(BLOB.digest))
        assert len(origin.seen(PATH)) == len(steps)


async def test_a_part_whose_connection_breaks_goes_on_where_it_broke(root: Path) -> None:
    async with agent(root) as (bench, origin, nursery):
        origin.script(PATH, cut(70_000))
        assert await Lazy(bench, "bytes=1000-199999", nursery).finished() == BLOB.data[1000:200_000]
        assert min(asked(origin))[0] == 1000
        assert len(asked(origin)) == 2


async def test_when_neither_origin_nor_tracker_gives_it_the_error_comes_before_any_byte(root: Path) -> None:
    async with agent(root) as (bench, origin, nursery):
        origin.guard = basic_guard("me", "secret")
        reader = Lazy(bench, "bytes=0-99", nursery)
        join = await bench.line.next(Join)
        await bench.line.say(Failed(join.id, "DENIED", 403, "not you"))
        with pytest.raises(P2PDistError, match="not you"):
            await reader.finished()
        assert not reader.received
        # The origin is not asked for parts of this blob again.
        requests = len(origin.requests)
        Lazy(bench, "bytes=0-99", nursery)
        await bench.line.next(Join)
        assert len(origin.requests) == requests


async def test_an_origin_that_has_no_time_isnt_asked_for_parts_for_a_while(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pdist.agent.passage.SHUNNED_SECONDS", 0.5)
    async with agent(root) as (bench, origin, nursery):
        origin.script(PATH, oci_error(503, "UNAVAILABLE", Retry_After="100"))
        first = Lazy(bench, "bytes=0-99", nursery)
        join = await bench.line.next(Join)
        await bench.line.say(Failed(join.id, "BLOB_UNKNOWN", 404, "no"))
        with pytest.raises(P2PDistError, match="no"):
            await first.finished()
        await trio.sleep(0.5)
        assert await Lazy(bench, "bytes=0-99", nursery).finished() == BLOB.data[:100]


async def test_a_part_outside_and_a_part_of_what_is_unknown(root: Path) -> None:
    async with agent(root) as (bench, origin, nursery):
        with pytest.raises(RangeNotSatisfiable):
            await Lazy(bench, f"bytes={len(BLOB.data)}-", nursery).finished()
        assert origin.seen(PATH) == []


async def test_the_size_is_the_origins_word_when_there_is_no_tracker(root: Path) -> None:
    async with agent(root) as (bench, origin, nursery):
        await bench.tracker.close()
        await bench.line.drop()
        await bench.until(lambda: not bench.control.connected)
        assert await Lazy(bench, "bytes=-10", nursery).finished() == BLOB.data[-10:]
        assert [seen.method for seen in origin.seen(PATH)] == ["HEAD", "GET"]
