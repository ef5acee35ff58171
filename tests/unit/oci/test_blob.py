"""The bytes of a blob: ranges, connections that break, wrong lengths, and calls that are cancelled."""

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pdist.core.digest import Digest
from p2pdist.core.errors import BlobUnknown, InvalidInput, P2PDistError, ProtocolError, StoreError, Unavailable
from p2pdist.http.client import ConnectionBroken
from p2pdist.http.proxies import Proxies
from p2pdist.oci.blob_stream import Pace
from p2pdist.oci.origin import FetchedBlob, OriginClient, Upstream
from tests.fakes.origin_server import OriginServer, Reply, Seen, Step, cut, oci_error

REPOSITORY = "library/app"
DATA = random.Random(1).randbytes(700_001)
DIGEST = Digest.of(DATA)
PATH = f"/v2/{REPOSITORY}/blobs/{DIGEST}"


@pytest.fixture
def server() -> Iterator[OriginServer]:
    with OriginServer() as server:
        server.put_blob(REPOSITORY, DATA)
        yield server


@pytest.fixture
def origin(server: OriginServer) -> Iterator[OriginClient]:
    with OriginClient(Upstream("docker.io", server.url), timeout_seconds=0.5, proxies=Proxies()) as origin:
        yield origin


class Receiver:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.sizes: list[int] = []
        self.threads: set[int] = set()

    def __call__(self, view: memoryview) -> None:
        self.data += view
        self.threads.add(threading.get_ident())

    async def fetch(self, origin: OriginClient, offset: int = 0, end: int | None = None) -> FetchedBlob:
        return await origin.blob(REPOSITORY, DIGEST, self, on_size=self.sizes.append, offset=offset, end=end)


async def test_a_whole_blob(server: OriginServer, origin: OriginClient) -> None:
    receiver = Receiver()
    fetched = await receiver.fetch(origin)
    assert receiver.data == DATA
    assert receiver.sizes == [len(DATA)]
    assert threading.get_ident() not in receiver.threads
    assert fetched == FetchedBlob(
        size=len(DATA), private=False, requests=1, received_bytes=len(DATA), honours_ranges=True
    )


async def test_an_empty_blob(server: OriginServer, origin: OriginClient) -> None:
    sizes: list[int] = []
    empty = server.put_blob(REPOSITORY, b"")
    assert (await origin.blob(REPOSITORY, empty, sizes.extend, on_size=sizes.append)).size == 0
    assert sizes == [0]


@pytest.mark.parametrize(
    ("offset", "end"),
    [(0, 1), (0, len(DATA)), (5, None), (5, 300_000), (len(DATA) - 1, None), (7, len(DATA) + 100)],
)
@pytest.mark.parametrize("honoured", [True, False])
async def test_a_part(server: OriginServer, origin: OriginClient, offset: int, end: int | None, honoured: bool) -> None:
    if not honoured:
        server.put(PATH, Reply(body=DATA))
    receiver = Receiver()
    fetched = await receiver.fetch(origin, offset, end)
    assert receiver.data == DATA[offset:end]
    assert receiver.sizes == [len(DATA)]
    assert fetched.size == len(DATA)
    assert fetched.honours_ranges is honoured


async def test_a_part_that_isnt_one(origin: OriginClient) -> None:
    for offset, end in ((-1, None), (5, 5), (5, 4)):
        with pytest.raises(InvalidInput, match="no range"):
            await Receiver().fetch(origin, offset, end)
    with pytest.raises(ProtocolError, match="416"):
        await Receiver().fetch(origin, len(DATA))


async def test_a_connection_that_breaks_is_resumed_where_it_broke(server: OriginServer, origin: OriginClient) -> None:
    server.script(PATH, cut(100_000), cut(1), cut(200_000))
    receiver = Receiver()
    fetched = await receiver.fetch(origin)
    assert receiver.data == DATA
    assert receiver.sizes == [len(DATA)]
    assert (fetched.requests, fetched.received_bytes) == (4, len(DATA))
    headers = [seen.headers for seen in server.seen(PATH)]
    assert [sent.get("range") for sent in headers] == [None, "bytes=100000-", "bytes=100001-", "bytes=300001-"]
    assert [sent.get("if-range") for sent in headers] == [None, *[f'"{DIGEST}"'] * 3]


async def test_a_part_is_resumed_within_its_end(server: OriginServer, origin: OriginClient) -> None:
    server.script(PATH, cut(1000))
    receiver = Receiver()
    await receiver.fetch(origin, 10, 5000)
    assert receiver.data == DATA[10:5000]
    assert [seen.headers["range"] for seen in server.seen(PATH)] == ["bytes=10-4999", "bytes=1010-4999"]


async def test_a_stall_is_resumed(server: OriginServer, origin: OriginClient) -> None:
    server.script(PATH, lambda _, good: replace(good, hang_after=123_456))
    receiver = Receiver()
    fetched = await receiver.fetch(origin)
    assert receiver.data == DATA
    assert fetched.received_bytes == len(DATA)


async def test_a_chunked_body_has_its_size_asked_for(server: OriginServer, origin: OriginClient) -> None:
    server.script(PATH, Reply(body=DATA, chunked=True))
    receiver = Receiver()
    fetched = await receiver.fetch(origin)
    assert receiver.data == DATA
    assert fetched.requests == 2


@pytest.mark.parametrize("step", [Reply(body=DATA, chunked=True, cut_after=90_000), Reply(body=DATA, announced=-1)])
async def test_bodies_of_unknown_length(server: OriginServer, origin: OriginClient, step: Reply) -> None:
    server.put(PATH, replace(step, cut_after=None, announced=None, chunked=False))
    server.script(PATH, step)
    receiver = Receiver()
    await receiver.fetch(origin)
    assert receiver.data == DATA
    assert receiver.sizes == [len(DATA)]


async def test_an_origin_without_ranges_costs_the_bytes_again(server: OriginServer, origin: OriginClient) -> None:
    server.put(PATH, Reply(headers={"Accept-Ranges": "none"}, body=DATA))
    server.script(PATH, cut(400_000), cut(500_000))
    receiver = Receiver()
    fetched = await receiver.fetch(origin)
    assert receiver.data == DATA
    assert not fetched.honours_ranges
    assert fetched.received_bytes == 900_000 + len(DATA)


async def test_a_changed_etag_starts_again_and_gives_no_byte_twice(server: OriginServer, origin: OriginClient) -> None:
    server.script(PATH, lambda _, good: replace(good, headers={"ETag": '"other"'}, cut_after=1000))
    receiver = Receiver()
    await receiver.fetch(origin)
    assert receiver.data == DATA
    assert server.seen(PATH)[1].headers["if-range"] == '"other"'


async def test_a_weak_etag_isnt_used(server: OriginServer, origin: OriginClient) -> None:
    server.script(PATH, lambda _, good: replace(good, headers={"ETag": 'W/"x"'}, cut_after=1000))
    await Receiver().fetch(origin)
    assert "if-range" not in server.seen(PATH)[1].headers


async def test_no_progress_ends_it_and_what_came_stays(server: OriginServer, origin: OriginClient) -> None:
    server.script(PATH, cut(1000), cut(0), cut(0), cut(0))
    receiver = Receiver()
    with pytest.raises(Unavailable, match=f"blob {DIGEST} of docker.io/library/app: .*cut after 0 of"):
        await receiver.fetch(origin)
    assert receiver.data == DATA[:1000]


async def test_a_connection_that_brings_nothing_is_given_another(server: OriginServer, origin: OriginClient) -> None:
    server.script(PATH, cut(0), cut(1000), cut(0), oci_error(404, "BLOB_UNKNOWN"))
    receiver = Receiver()
    await receiver.fetch(origin)
    assert receiver.data == DATA


async def test_a_byte_an_attempt_ends_too(server: OriginServer, origin: OriginClient) -> None:
    server.script(PATH, *[cut(1)] * 100)
    receiver = Receiver()
    with pytest.raises(Unavailable, match="broke 16 times"):
        await receiver.fetch(origin)
    assert receiver.data == DATA[:16]


async def test_a_short_range_is_continued(server: OriginServer, origin: OriginClient) -> None:
    part = {"Content-Range": f"bytes 10-999/{len(DATA)}"}
    server.script(PATH, Reply(206, part, DATA[10:1000]))
    receiver = Receiver()
    await receiver.fetch(origin, 10)
    assert receiver.data == DATA[10:]


async def test_a_range_of_unknown_size_has_it_asked_for(server: OriginServer, origin: OriginClient) -> None:
    server.script(PATH, Reply(206, {"Content-Range": f"bytes 10-{len(DATA) - 1}/*"}, DATA[10:]))
    receiver = Receiver()
    assert (await receiver.fetch(origin, 10)).size == len(DATA)
    assert [seen.method for seen in server.requests] == ["GET", "HEAD"]


def part(content_range: str, body: bytes = DATA[10:]) -> Reply:
    return Reply(206, {"Content-Range": content_range}, body)


@pytest.mark.parametrize(
    ("step", "error", "why"),
    [
        (part(f"bytes 9-{len(DATA) - 1}/{len(DATA)}"), ProtocolError, "from 9, asked for were those from 10"),
        (part(f"bytes 10-{len(DATA) - 1}/{len(DATA)}", b"x"), ProtocolError, "1 bytes as a range of"),
        (part("bytes 10-9/5"), ProtocolError, "Content-Range"),
        (part("lines 1-2/3"), ProtocolError, "Content-Range"),
        (Reply(206, body=DATA[10:]), ProtocolError, "Content-Range"),
        (Reply(200, {"Content-Encoding": "gzip"}, DATA), ProtocolError, "Content-Encoding 'gzip'"),
        (oci_error(404, "BLOB_UNKNOWN", "gone"), BlobUnknown, "BLOB_UNKNOWN: gone"),
        (oci_error(500, "UNKNOWN"), Unavailable, "500"),
        (oci_error(429, "TOOMANYREQUESTS", Retry_After="31"), Unavailable, "31 s"),
        (Reply(raw=b"junk\r\n"), ProtocolError, "HTTP"),
    ],
)
async def test_a_bad_answer_is_a_clear_error(
    server: OriginServer, origin: OriginClient, step: Reply, error: type[P2PDistError], why: str
) -> None:
    server.script(PATH, *[step] * 3)
    receiver = Receiver()
    with pytest.raises(error, match=why) as caught:
        await receiver.fetch(origin, 10)
    assert str(caught.value).startswith(f"blob {DIGEST} of docker.io/library/app: ")
    assert not receiver.data


async def test_a_range_that_wasnt_asked_for(server: OriginServer, origin: OriginClient) -> None:
    server.script(PATH, part(f"bytes 0-9/{len(DATA)}", DATA[:10]))
    with pytest.raises(ProtocolError, match="asked for"):
        await Receiver().fetch(origin)


async def test_a_size_that_changes(server: OriginServer, origin: OriginClient) -> None:
    server.script(PATH, cut(1000), part("bytes 1000-1999/2000", DATA[1000:2000]))
    with pytest.raises(ProtocolError, match=f"2000 bytes now, as {len(DATA)} before"):
        await Receiver().fetch(origin)


async def test_a_length_that_is_too_long(server: OriginServer, origin: OriginClient) -> None:
    server.put(PATH, Reply(body=DATA, announced=len(DATA) + 1))
    receiver = Receiver()
    with pytest.raises(Unavailable, match="cut after"):
        await receiver.fetch(origin)
    assert receiver.data == DATA


async def test_a_length_that_is_too_short_is_what_the_caller_sees(server: OriginServer, origin: OriginClient) -> None:
    server.put(PATH, Reply(body=DATA, announced=5))
    receiver = Receiver()
    assert (await receiver.fetch(origin)).size == 5
    assert receiver.data == DATA[:5]


async def test_more_than_was_announced(server: OriginServer, origin: OriginClient) -> None:
    def head_then_more(seen: Seen, good: Reply) -> Reply:
        return Reply(body=DATA[:-1]) if seen.method == "HEAD" else Reply(body=DATA, chunked=True)

    server.script(PATH, head_then_more, head_then_more)
    with pytest.raises(ProtocolError, match="more bytes than it announced"):
        await Receiver().fetch(origin)


@pytest.mark.parametrize("error", [StoreError("the disk is full"), ValueError("ours")])
async def test_what_a_sink_raises_comes_out_unchanged(origin: OriginClient, error: Exception) -> None:
    def fail(_: object) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await origin.blob(REPOSITORY, DIGEST, fail)
    assert caught.value is error
    with pytest.raises(type(error)) as caught:
        await origin.blob(REPOSITORY, DIGEST, lambda _: None, on_size=fail)
    assert caught.value is error


async def test_cancelling_in_the_middle_ends_the_thread_at_once(server: OriginServer) -> None:
    server.put(PATH, Reply(body=DATA, hang_after=200_000))
    receiver = Receiver()
    with OriginClient(Upstream("docker.io", server.url), timeout_seconds=60, proxies=Proxies()) as origin:
        began = time.monotonic()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receiver.fetch, origin)
            await trio.to_thread.run_sync(server.hanging.wait)
            nursery.cancel_scope.cancel()
        assert time.monotonic() - began < 5
        assert DATA.startswith(receiver.data)


async def test_cancelling_before_an_answer(server: OriginServer) -> None:
    server.put(PATH, Reply(hang_after=-1))
    with OriginClient(Upstream("docker.io", server.url), timeout_seconds=60, proxies=Proxies()) as origin:
        began = time.monotonic()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Receiver().fetch, origin)
            await trio.to_thread.run_sync(server.hanging.wait)
            nursery.cancel_scope.cancel()
        assert time.monotonic() - began < 5


async def test_cancelling_while_the_origin_has_asked_for_time(server: OriginServer, origin: OriginClient) -> None:
    asked = threading.Event()

    def later(_: Seen, __: Reply) -> Reply:
        asked.set()
        return Reply(503, {"Retry-After": "25"})

    server.script(PATH, later)
    began = time.monotonic()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Receiver().fetch, origin)
        await trio.to_thread.run_sync(asked.wait)
        nursery.cancel_scope.cancel()
    assert time.monotonic() - began < 5


async def test_cancelling_while_a_sink_runs_waits_for_it(origin: OriginClient) -> None:
    entered, leave, left = threading.Event(), threading.Event(), threading.Event()

    def slow(_: memoryview) -> None:
        entered.set()
        leave.wait()
        left.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(origin.blob, REPOSITORY, DIGEST, slow)
        await trio.to_thread.run_sync(entered.wait)
        nursery.cancel_scope.cancel()
        leave.set()
    assert left.is_set()


async def test_a_lookup_that_hangs_can_be_cancelled() -> None:
    looked_up, release = trio.Event(), trio.Event()

    class Hanging(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *_: object) -> list[tuple[object, ...]]:  # type: ignore[override]
            looked_up.set()
            await release.wait()
            raise AssertionError

        async def getnameinfo(self, *_: object) -> tuple[str, str]:
            raise AssertionError

    trio.socket.set_custom_hostname_resolver(Hanging())
    with OriginClient(Upstream("docker.io", "http://registry.test"), proxies=Proxies()) as origin:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(origin.resolve, REPOSITORY, "1")
            await looked_up.wait()
            nursery.cancel_scope.cancel()
    assert nursery.cancel_scope.cancelled_caught


async def test_ten_at_once(server: OriginServer, origin: OriginClient) -> None:
    receivers = [Receiver() for _ in range(10)]
    async with trio.open_nursery() as nursery:
        for receiver in receivers:
            nursery.start_soon(receiver.fetch, origin)
    assert all(receiver.data == DATA for receiver in receivers)


def test_a_drip_of_bytes_counts_as_a_stall() -> None:
    pace = Pace()
    for _ in range(59):
        pace.note(1024, 1.0)
    pace.note(1024, 1.0)
    for _ in range(59):
        pace.note(1023, 1.0)
    with pytest.raises(ConnectionBroken, match="within 60 s"):
        pace.note(1023, 1.0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 300_000), max_size=6), st.integers(0, len(DATA) - 1), st.booleans())
def test_wherever_connections_break_every_byte_comes_once(cuts: list[int], offset: int, ranges: bool) -> None:
    with OriginServer() as server, OriginClient(Upstream("docker.io", server.url), proxies=Proxies()) as origin:
        server.put_blob(REPOSITORY, DATA)
        if not ranges:
            server.put(PATH, Reply(body=DATA))
            cuts = [offset + sum(cuts[: number + 1]) for number in range(len(cuts))]
        server.script(PATH, *map(_cut_short, cuts))
        receiver = Receiver()
        trio.run(receiver.fetch, origin, offset)
        assert receiver.data == DATA[offset:]


def _cut_short(after: int) -> Step:
    """Cut, unless the body is shorter."""
    return lambda seen, good: cut(after)(seen, good) if after < len(good.body) else good
