import os
import socket
import threading
from collections.abc import Iterator

import pytest

from p2pdist.http.sending import _sendfile_while_taken, is_hangup

SIZE_BYTES = 3_000_000
CONTENT = os.urandom(SIZE_BYTES)


@pytest.fixture
def fd() -> Iterator[int]:
    number = os.memfd_create("content")
    os.write(number, CONTENT)
    yield number
    os.close(number)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def test_one_stay_sends_all_to_a_client_that_takes_it(fd: int, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    taken = bytearray()

    def take() -> None:
        while len(taken) < SIZE_BYTES - 5:
            taken.extend(theirs.recv(100_000))

    client = threading.Thread(target=take)
    client.start()
    assert _sendfile_while_taken(ours.fileno(), fd, 5, SIZE_BYTES - 5) == SIZE_BYTES - 5
    client.join()
    assert taken == CONTENT[5:]


def test_a_client_that_takes_nothing_ends_the_stay(fd: int, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    sent = _sendfile_while_taken(ours.fileno(), fd, 0, SIZE_BYTES)
    assert 0 < sent < SIZE_BYTES
    ours.close()
    taken = b""
    while data := theirs.recv(1_000_000):
        taken += data
    assert taken == CONTENT[:sent]


def test_a_client_that_went_away_is_an_error(fd: int, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.close()
    with pytest.raises(OSError, match="Broken pipe") as caught:
        _sendfile_while_taken(ours.fileno(), fd, 0, SIZE_BYTES)
    assert is_hangup(caught.value)


def test_a_file_that_ends_before_is_an_error(fd: int, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    with pytest.raises(OSError, match="ends before it"):
        _sendfile_while_taken(ours.fileno(), fd, SIZE_BYTES - 10, 20)
