"""Heads of HTTP messages, in whatever parts they come."""

import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.emulation.heads import MAX_HEAD_BYTES, BadMessage, parse_head, read_head

RESPONSE = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 12\r\nX-Odd:\r\n\r\n"


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    near.settimeout(10)
    with near, far:
        yield near, far


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(1, len(RESPONSE)), max_size=5), body=st.binary(max_size=40))
def test_a_head_in_parts_leaves_the_body(cuts: list[int], body: bytes) -> None:
    near, far = socket.socketpair()
    with near, far:
        ends = sorted({*cuts, len(RESPONSE)})

        def send() -> None:
            for start, end in zip([0, *ends], ends, strict=False):
                far.sendall(RESPONSE[start:end])
            far.sendall(body)
            far.shutdown(socket.SHUT_WR)

        sending = threading.Thread(target=send)
        sending.start()
        assert read_head(near) == RESPONSE
        sending.join()
        received = b""
        while part := near.recv(100):
            received += part
        assert received == body


def test_two_heads_follow_each_other(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    far.sendall(RESPONSE + RESPONSE)
    far.close()
    assert [read_head(near), read_head(near), read_head(near)] == [RESPONSE, RESPONSE, b""]


def test_a_head_that_ends_early_or_never(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    far.sendall(RESPONSE[:-1])
    far.shutdown(socket.SHUT_WR)
    with pytest.raises(BadMessage, match="ended within a head"):
        read_head(near)


def test_a_head_without_end(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair

    def send() -> None:
        try:
            far.sendall(bytes(2 * MAX_HEAD_BYTES))
        except ConnectionError:
            return

    sending = threading.Thread(target=send)
    sending.start()
    with pytest.raises(BadMessage, match="more than"):
        read_head(near)
    near.close()
    sending.join()


def test_the_parts_of_a_head() -> None:
    head = parse_head(RESPONSE)
    assert (head.status, head.body_bytes, head.lasting) == (206, 12, True)
    assert head.fields == {"content-length": "12", "x-odd": ""}
    assert parse_head(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").lasting is False
    assert parse_head(b"HTTP/1.0 200 OK\r\n\r\n").lasting is False
    request = parse_head(b"GET /v2/ HTTP/1.1\r\n\r\n")
    assert (request.words, request.body_bytes, request.lasting) == (("GET", "/v2/", "HTTP/1.1"), None, True)


@given(st.binary(max_size=200))
def test_anything_else_is_a_bad_message(data: bytes) -> None:
    try:
        head = parse_head(data)
    except BadMessage:
        return
    assert any(word.startswith("HTTP/1.") for word in head.words)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\r\n",
        b"GET /\r\n\r\n",
        b"HTTP/1.1 fine\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    ],
)
def test_bad_messages(head: bytes) -> None:
    with pytest.raises(BadMessage):
        parse_head(head)
