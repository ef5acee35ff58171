import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from p2pdist.core.errors import BlobUnknown
from p2pdist.http.server import ClientGone, Limits, Request, Response
from tests.fakes.raw_client import running_server

CONTENT = os.urandom(3_000_000)


@pytest.fixture
def fd() -> Iterator[int]:
    number = os.memfd_create("content")
    os.write(number, CONTENT)
    yield number
    os.close(number)


class Streams:
    """Handlers that stream the content in the parts given, and remember how they ended."""

    def __init__(self, fd: int, *parts: tuple[int, int], length: int | None = None) -> None:
        self.fd = fd
        self.parts = parts
        self.length = sum(count for _, count in parts) if length is None else length
        self.ended = trio.Event()
        self.error: BaseException | None = None

    async def __call__(self, _request: Request, response: Response) -> None:
        try:
            await response.start(200, {"Content-Length": str(self.length)})
            for offset, count in self.parts:
                await response.send_file(self.fd, offset, count)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.ended.set()


async def test_file_runs_of_all_lengths_arrive_in_order(fd: int) -> None:
    parts = [
        (0, 1),
        (1, 0),
        (1, 65_535),
        (65_536, 128 * 1024),
        (196_608, 256 * 1024),
        (7, 256 * 1024 + 1),
        (5, 2_000_000),
        (2_999_999, 1),
    ]
    async with running_server(Streams(fd, *parts)) as server, server.connect() as client:
        for _ in range(2):
            answer = await client.get("/")
            assert answer.complete
            assert answer.body == b"".join(CONTENT[offset : offset + count] for offset, count in parts)


async def test_a_file_of_a_disk_arrives_too(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(CONTENT)
    number = os.open(path, os.O_RDONLY)
    try:
        async with running_server(Streams(number, (0, 1000), (1000, 2_999_000))) as server, server.connect() as client:
            assert (await client.get("/")).body == CONTENT
    finally:
        os.close(number)


async def test_without_a_length_the_body_is_chunked(fd: int) -> None:
    async def mixed(_request: Request, response: Response) -> None:
        await response.start(200, {})
        await response.write(b"")
        await response.write(memoryview(b"begin"))
        await response.send_file(fd, 10, 300_000)
        await response.write(bytearray(b"end"))

    expected = b"begin" + CONTENT[10:300_010] + b"end"
    async with running_server(mixed) as server, server.connect() as client:
        answer = await client.get("/")
        assert answer.headers["transfer-encoding"] == "chunked"
        assert answer.body == expected
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        received = b""
        while data := await client.stream.receive_some():
            received += data
        assert received.partition(b"\r\n\r\n")[2] == expected


async def test_head_of_a_stream_sends_no_body(fd: int) -> None:
    async with running_server(Streams(fd, (0, 1000))) as server, server.connect() as client:
        answer = await client.get("/", method="HEAD")
        assert (answer.headers["content-length"], answer.body, answer.complete) == ("1000", b"", True)
        assert (await client.get("/")).body == CONTENT[:1000]


async def test_less_than_declared_ends_at_once_by_fin_after_every_byte_that_was_sent(fd: int) -> None:
    handler = Streams(fd, (0, 2_000_000), length=2_000_001)
    async with running_server(handler, Limits(linger_seconds=3600)) as server, server.connect() as client:
        answer = await client.get("/")
        assert (answer.status, answer.complete) == (200, False)
        assert answer.body == CONTENT[:2_000_000]
        assert await client.ending() == "fin"


async def test_an_error_after_the_header_ends_by_fin_even_with_unread_requests_behind_it(fd: int) -> None:
    async def fail(_request: Request, response: Response) -> None:
        await response.start(200, {"Content-Length": "1000"})
        await response.write(b"abc")
        raise BlobUnknown("gone")

    async with running_server(fail) as server, server.connect() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n" * 20)
        answer = await client.answer()
        assert (answer.body, answer.complete) == (b"abc", False)
        assert await client.ending() == "fin"


async def test_abandon_ends_by_fin_and_nothing_can_follow(fd: int) -> None:
    seen: list[str] = []

    async def give_up(_request: Request, response: Response) -> None:
        await response.start(200, {"Content-Length": "1000"})
        await response.write(b"abc")
        response.abandon()
        try:
            await response.write(b"more")
        except Exception as error:
            seen.append(type(error).__name__)

    async with running_server(give_up) as server, server.connect() as client:
        answer = await client.get("/")
        assert (answer.body, answer.complete) == (b"abc", False)
        assert await client.ending() == "fin"
    assert seen == ["LocalProtocolError"]


async def test_a_file_that_is_too_short_is_a_bug_that_ends_by_fin(fd: int, caplog: pytest.LogCaptureFixture) -> None:
    async with running_server(Streams(fd, (2_900_000, 200_000))) as server, server.connect() as client:
        answer = await client.get("/")
        assert (answer.body, answer.complete) == (CONTENT[2_900_000:], False)
        assert await client.ending() == "fin"
    assert "ends before it" in caplog.records[0].__dict__["fields"]["traceback"]


async def test_a_slow_client_gets_everything_and_holds_no_thread(fd: int) -> None:
    handler = Streams(fd, (0, 3_000_000))
    async with (
        running_server(handler, Limits(send_threads=1, stall_seconds=30)) as server,
        server.connect(receive_buffer=4096) as slow,
        server.connect() as quick,
    ):
        await slow.request("/")
        await slow.stream.receive_some(1)
        for _ in range(3):
            assert (await quick.get("/")).body == CONTENT
        received = 1
        while received < 3_000_000:
            received += len(await slow.stream.receive_some(50_000))


async def test_a_client_that_takes_nothing_is_given_up(fd: int) -> None:
    handler = Streams(fd, *[(0, 3_000_000)] * 4)
    limits = Limits(stall_seconds=0.05, linger_seconds=0.01)
    async with running_server(handler, limits) as server, server.connect(receive_buffer=4096) as client:
        await client.request("/")
        await handler.ended.wait()
    assert isinstance(handler.error, ClientGone)
    assert "no byte" in str(handler.error)


async def test_a_client_that_takes_little_at_a_time_is_not_given_up(fd: int) -> None:
    handler = Streams(fd, *[(0, 3_000_000)] * 3)
    limits = Limits(stall_seconds=0.2)
    async with running_server(handler, limits) as server, server.connect(receive_buffer=4096) as client:
        await client.request("/")
        received = 0
        for _ in range(20):
            received += len(await client.stream.receive_some(20_000))
            await trio.sleep(0.05)
        while received < 9_000_000:
            received += len(await client.stream.receive_some(1_000_000))
    assert handler.error is None


@pytest.mark.parametrize("how", ["reset", "fin"])
async def test_a_client_that_hangs_up_while_it_is_sent_to_is_noticed(fd: int, how: str) -> None:
    handler = Streams(fd, *[(0, 3_000_000)] * 20)
    async with running_server(handler) as server, server.connect(receive_buffer=65536) as client:
        await client.request("/")
        await client.stream.receive_some(1)
        if how == "reset":
            client.reset()
        else:
            await client.stream.aclose()
        await handler.ended.wait()
    assert isinstance(handler.error, ClientGone | trio.Cancelled)


@pytest.mark.parametrize("how", ["reset", "fin", "shutdown"])
async def test_a_client_that_hangs_up_while_the_handler_waits_ends_the_wait(how: str) -> None:
    entered, ended = trio.Event(), trio.Event()

    async def wait(_request: Request, response: Response) -> None:
        await response.start(200, {"Content-Length": "10"})
        entered.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with running_server(wait, Limits(half_close_seconds=0.01)) as server, server.connect() as client:
        await client.request("/")
        await entered.wait()
        if how == "reset":
            client.reset()
        elif how == "fin":
            await client.stream.aclose()
        else:
            client.stream.socket.shutdown(socket.SHUT_WR)
        await ended.wait()


async def test_the_wait_after_a_body_is_watched_too() -> None:
    entered, ended = trio.Event(), trio.Event()

    async def wait(request: Request, _response: Response) -> None:
        await request.body(100)
        entered.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with running_server(wait) as server, server.connect() as client:
        await client.request("/", "Content-Length: 3", method="POST", body=b"abc")
        await entered.wait()
        client.reset()
        await ended.wait()


async def test_a_half_closed_client_is_served_as_long_as_it_takes(fd: int) -> None:
    handler = Streams(fd, *[(0, 3_000_000)] * 3)
    limits = Limits(half_close_seconds=0.001)
    async with running_server(handler, limits) as server, server.connect(receive_buffer=65536) as client:
        await client.request("/")
        await client.stream.send_eof()
        answer = await client.answer()
        assert (answer.complete, answer.body) == (True, CONTENT * 3)


async def test_what_a_client_sends_ahead_while_it_is_answered_waits_its_turn() -> None:
    entered, leave = trio.Event(), trio.Event()

    async def wait(request: Request, response: Response) -> None:
        if request.path == "/1":
            entered.set()
            await leave.wait()
        await response.send(200, {}, request.path.encode())

    async with running_server(wait) as server, server.connect() as client:
        await client.request("/1")
        await entered.wait()
        for number in range(2, 2000):
            await client.request(f"/{number}")
        leave.set()
        for number in range(1, 2000):
            assert (await client.answer()).body == f"/{number}".encode()


async def test_a_client_that_sends_without_end_while_it_is_answered_is_not_read_without_end() -> None:
    leave = trio.Event()

    async def wait(_request: Request, response: Response) -> None:
        await leave.wait()
        await response.send(200, {"Connection": "close"})

    sent_bytes, most_bytes = 0, 100_000_000
    async with running_server(wait) as server, server.connect() as client:
        await client.request("/")
        while sent_bytes < most_bytes:
            with trio.move_on_after(0.2) as scope:
                sent_bytes += await client.stream.socket.send(bytes(100_000))
            if scope.cancelled_caught:
                break
        leave.set()
        assert sent_bytes < most_bytes
        assert (await client.answer()).status == 200


async def passes(request: Request, response: Response) -> None:
    """Read the body as one that is passed on, and say in how many parts it came."""
    parts = []
    while part := await request.some_of_body():
        parts.append(part)
    assert await request.some_of_body() == b""
    await response.send(200, {"X-Parts": str(len(parts)), "X-Longest": str(max(map(len, parts), default=0))}, parts[-1])


async def test_a_body_is_handed_over_while_it_comes() -> None:
    async with running_server(passes) as server, server.connect() as client:
        await client.request("/", "Content-Length: 8", method="PUT", body=b"one")
        await trio.testing.wait_all_tasks_blocked(0.02)
        await client.send(b"-last")
        answer = await client.answer("PUT")
        assert (answer.status, answer.headers["x-parts"], answer.body) == (200, "2", b"-last")
        await client.request("/", "Transfer-Encoding: chunked", "Expect: 100-continue", method="PUT")
        assert await client.stream.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"2\r\nab\r\n0\r\n\r\n")
        assert (await client.answer("PUT")).body == b"ab"


async def test_a_large_body_comes_in_parts_of_bounded_size() -> None:
    async with running_server(passes) as server, server.connect() as client:
        await client.request("/", f"Content-Length: {len(CONTENT)}", method="PUT", body=CONTENT)
        answer = await client.answer("PUT")
        assert int(answer.headers["x-longest"]) < 256 * 1024 + 16 * 1024
        assert int(answer.headers["x-parts"]) >= len(CONTENT) // (256 * 1024 + 16 * 1024)


async def test_a_body_that_stops_coming_is_given_up() -> None:
    async with running_server(passes, Limits(body_seconds=0.02)) as server, server.connect() as client:
        await client.request("/", "Content-Length: 8", method="PUT", body=b"one")
        assert (await client.answer("PUT")).status == 408
        assert await client.ending() == "fin"


async def test_a_body_that_is_cut_is_an_error_of_the_request() -> None:
    async with running_server(passes) as server, server.connect() as client:
        await client.request("/", "Content-Length: 8", method="PUT", body=b"one")
        await client.stream.send_eof()
        assert (await client.answer("PUT")).status == 400
