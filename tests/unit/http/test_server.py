import logging
from collections.abc import Callable

import pytest
import trio

from p2pdist.core.errors import Denied, Unavailable
from p2pdist.http.server import Limits, Request, Response
from tests.fakes.raw_client import RawClient, running_server


async def echo(request: Request, response: Response) -> None:
    body = await request.body(limit_bytes=100_000)
    headers = {"X-Path": request.path, "X-Accept": request.headers.get("accept") or "-", "X-Peer": request.peer}
    await response.send(200, headers, body or request.method.encode())


async def test_answers_follow_each_other_on_one_connection() -> None:
    async with running_server(echo) as server, server.connect() as client:
        for _ in range(3):
            answer = await client.get("/a%20b?x=1")
            assert (answer.status, answer.body, answer.complete) == (200, b"GET", True)
            assert answer.headers["content-length"] == "3"
            assert answer.headers["x-path"] == "/a b"
            assert answer.headers["x-peer"] == f"127.0.0.1:{client.stream.socket.getsockname()[1]}"
            assert answer.headers["date"].endswith("GMT")


async def test_header_lines_of_one_name_are_merged() -> None:
    async with running_server(echo) as server, server.connect() as client:
        answer = await client.get("/", "Accept: a/b", "ACCEPT: c/d", "accept: e/f;q=0.1")
        assert answer.headers["x-accept"] == "a/b, c/d, e/f;q=0.1"


async def test_head_has_the_length_and_no_body() -> None:
    async with running_server(echo) as server, server.connect() as client:
        answer = await client.get("/", method="HEAD")
        assert (answer.status, answer.headers["content-length"], answer.body) == (200, "4", b"")
        assert (await client.get("/")).body == b"GET"


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with running_server(echo) as server, server.connect() as client:
        await client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: t\r\n\r\n" % number for number in range(50)))
        assert [(await client.answer()).headers["x-path"] for _ in range(50)] == [f"/{number}" for number in range(50)]


async def test_a_request_may_come_byte_by_byte() -> None:
    async with running_server(echo) as server, server.connect() as client:
        for byte in b"POST /slow HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc":
            await client.send(bytes([byte]))
        assert (await client.answer()).body == b"abc"


@pytest.mark.parametrize(
    "ending", [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"]
)
async def test_the_connection_ends_when_the_client_wants_it(ending: bytes) -> None:
    async with running_server(echo) as server, server.connect() as client:
        await client.send(ending)
        answer = await client.answer()
        assert (answer.status, answer.body, answer.headers["connection"]) == (200, b"GET", "close")
        assert await client.ending() == "fin"


async def test_a_client_that_closes_its_sending_side_gets_its_answer() -> None:
    async with running_server(echo) as server, server.connect() as client:
        await client.request("/half")
        await client.stream.send_eof()
        assert (await client.answer()).headers["x-path"] == "/half"
        assert await client.ending() == "fin"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: t\r\nbad header\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET /%ff HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        (b"CONNECT host:443 HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        (b"GET /" + b"a" * 70_000, 431),
        (b"GET / HTTP/1.1\r\nHost: t\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", 431),
    ],
)  # fmt: skip
async def test_a_malformed_request_is_refused_in_plain_text_and_without_a_reset(data: bytes, status: int) -> None:
    async with running_server(echo) as server, server.connect() as client:
        await client.send(data)
        answer = await client.answer()
        assert (answer.status, answer.complete, answer.headers["connection"]) == (status, True, "close")
        assert answer.headers["content-type"].startswith("text/plain")
        assert answer.body.endswith(b"\n")
        assert await client.ending() == "fin"


async def test_a_header_of_many_ranges_is_read() -> None:
    async with running_server(echo) as server, server.connect() as client:
        ranges = ",".join(f"{number}0000-{number}9999" for number in range(300))
        assert (await client.get("/", f"Range: bytes={ranges}")).status == 200


async def test_a_header_that_doesnt_end_is_given_up() -> None:
    async with running_server(echo, Limits(header_seconds=0.02)) as server, server.connect() as client:
        await client.send(b"GET / HTTP/1.1\r\n")
        assert (await client.answer()).status == 408
        assert await client.ending() == "fin"


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with running_server(echo, Limits(idle_seconds=0.02)) as server, server.connect() as client:
        assert (await client.get("/")).status == 200
        assert await client.stream.receive_some() == b""


@pytest.mark.parametrize("framing", ["Content-Length: 5", "Transfer-Encoding: chunked"])
async def test_a_client_that_waits_is_told_to_continue(framing: str) -> None:
    async with running_server(echo) as server, server.connect() as client:
        await client.request("/", framing, "Expect: 100-continue", method="POST")
        assert await client.stream.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hello" if "Length" in framing else b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")
        answer = await client.answer("POST")
        assert (answer.status, answer.body) == (200, b"hello")
        assert (await client.get("/")).body == b"GET"


async def test_a_body_that_nobody_reads_ends_the_connection_but_not_the_answer() -> None:
    async def refuse(_request: Request, response: Response) -> None:
        await response.send(405, {}, b"no")

    async with running_server(refuse) as server, server.connect() as client:
        await client.request("/", "Content-Length: 1000000", method="PUT", body=bytes(500_000))
        answer = await client.answer("PUT")
        assert (answer.status, answer.body, answer.headers["connection"]) == (405, b"no", "close")
        assert await client.ending() == "fin"


async def test_a_body_beyond_the_limit_is_refused() -> None:
    async with running_server(echo) as server, server.connect() as client:
        await client.request("/", "Content-Length: 100001", method="PUT", body=bytes(100_001))
        assert (await client.answer("PUT")).status == 413
        assert await client.ending() == "fin"


async def test_a_body_that_doesnt_end_is_given_up() -> None:
    async with running_server(echo, Limits(body_seconds=0.02)) as server, server.connect() as client:
        await client.request("/", "Content-Length: 10", method="PUT", body=b"12345")
        assert (await client.answer("PUT")).status == 408


@pytest.mark.parametrize(("error", "status"), [(Denied("not you"), 403), (Unavailable("later"), 503)])
async def test_an_error_of_ours_becomes_its_status(error: Exception, status: int) -> None:
    async def fail(_request: Request, _response: Response) -> None:
        raise error

    async with running_server(fail) as server, server.connect() as client:
        for _ in range(2):
            answer = await client.get("/")
            assert (answer.status, answer.body) == (status, f"{error}\n".encode())


async def returns_nothing(_request: Request, _response: Response) -> None:
    pass


async def divides_by_zero(_request: Request, _response: Response) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("handler", [returns_nothing, divides_by_zero])
async def test_a_bug_is_logged_and_answered(handler: Callable[..., object], caplog: pytest.LogCaptureFixture) -> None:
    async with running_server(handler) as server, server.connect() as client:  # type: ignore[arg-type]
        for _ in range(2):
            assert (await client.get("/which")).status == 500
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.ERROR]
    assert caplog.messages == ["request_failed_by_bug"] * 2
    assert caplog.records[0].__dict__["fields"]["target"] == "/which"


async def test_when_all_places_are_taken_the_longest_idle_connection_makes_room() -> None:
    async with running_server(echo, Limits(connections=2)) as server, server.connect() as first:
        assert (await first.get("/")).status == 200
        async with server.connect() as second:
            assert (await second.get("/")).status == 200
            async with server.connect() as third:
                answer_soon = await _first_to_end(first, third)
                assert answer_soon == "fin"
                assert (await third.get("/")).status == 200
                assert (await second.get("/")).status == 200


async def _first_to_end(idle: RawClient, newcomer: RawClient) -> str:
    await newcomer.request("/queued")
    ending = await idle.ending()
    await idle.stream.aclose()
    assert (await newcomer.answer()).headers["x-path"] == "/queued"
    return ending


async def test_when_all_are_busy_a_new_connection_waits_for_a_place() -> None:
    entered, leave = trio.Event(), trio.Event()

    async def wait(_request: Request, response: Response) -> None:
        entered.set()
        await leave.wait()
        await response.send(200, {"Connection": "close"})

    async with running_server(wait, Limits(connections=1)) as server, server.connect() as first:
        await first.request("/")
        await entered.wait()
        async with server.connect() as second:
            await second.request("/")
            entered = trio.Event()
            leave.set()
            assert (await first.answer()).status == 200
            await first.stream.aclose()
            assert (await second.answer()).status == 200
            assert entered.is_set()


async def test_stopping_the_server_ends_connections_by_fin() -> None:
    entered = trio.Event()

    async def hang(_request: Request, response: Response) -> None:
        await response.start(200, {"Content-Length": "10"})
        entered.set()
        await trio.sleep_forever()

    async with running_server(hang, Limits(linger_seconds=0.05)) as server, server.connect() as client:
        await client.request("/")
        await entered.wait()
        server.nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            assert (await client.answer()).complete is False
            assert await client.ending() == "fin"


async def test_upgrade_and_absolute_form_are_ordinary_requests() -> None:
    async with running_server(echo) as server, server.connect() as client:
        answer = await client.get("http://elsewhere/x?y", "Upgrade: h2c", "Connection: Upgrade")
        assert (answer.status, answer.headers["x-path"]) == (200, "/x")
        assert (await client.get("/")).status == 200
