"""What goes over one data connection in which order: a socket pair and a file."""

import os
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from p2pdist.core.digest import Digest
from p2pdist.core.pieces import PieceLayout, PieceSet
from p2pdist.relay.connection import BUFFER_BYTES, Connection, ConnectionEnded
from p2pdist.relay.frames import Kind, PieceFrame, encode_tag
from p2pdist.relay.transfer import Outgoing, Transfer, TransferSpec

PIECE_BYTES = 32 * 1024
LAYOUT = PieceLayout(4 * PIECE_BYTES, PIECE_BYTES)


class File:
    """A blob's file in memory."""

    layout = LAYOUT

    def __init__(self) -> None:
        self.fd = os.memfd_create("blob")
        os.truncate(self.fd, LAYOUT.size_bytes)
        self.pieces = PieceSet(LAYOUT.count)

    def has(self, index: int) -> bool:
        return True

    def write_piece(self, index: int, data: bytes | bytearray | memoryview) -> bool:
        raise AssertionError("nobody writes here")


@pytest.fixture
def transfer() -> Iterator[Transfer]:
    file = File()
    transfer = Transfer.begin(TransferSpec(1, Digest.of(b"x"), LAYOUT, file))
    yield transfer
    transfer.end()
    os.close(file.fd)


@pytest.fixture
def ends() -> Iterator[tuple[Connection, Connection]]:
    listener = socket.create_server(("127.0.0.1", 0))
    with closing(listener), closing(socket.create_connection(listener.getsockname())) as near:
        far, _ = listener.accept()
        with closing(far):
            buffer = memoryview(bytearray(BUFFER_BYTES))
            yield Connection(near, buffer, lambda outgoing: None), Connection(far, buffer, lambda outgoing: None)


def outgoing(transfer: Transfer, piece: int) -> Outgoing:
    return Outgoing(transfer, PieceFrame(1, 1, piece, 0, 0, 0, piece, False, bytes(32), b"vouch"), "peer")


def kinds(connection: Connection, count: int) -> list[Kind]:
    found: list[Kind] = []
    while len(found) < count:
        found += [prefix.kind for prefix, _, _ in connection.read()]
    return found


def test_a_patient_frame_alone_stays(ends: tuple[Connection, Connection]) -> None:
    near, far = ends
    near.queue_patient(encode_tag(Kind.ACK, 1))
    assert not near.has_output
    assert not near.write()
    assert list(far.read()) == []
    near.hurry()
    assert near.has_output
    assert not near.write()
    assert kinds(far, 1) == [Kind.ACK]


def test_a_patient_frame_goes_with_the_next_piece_behind_what_is_urgent(
    ends: tuple[Connection, Connection], transfer: Transfer
) -> None:
    near, far = ends
    near.queue_patient(encode_tag(Kind.ACK, 1))
    near.queue_piece(outgoing(transfer, 2))
    near.queue_control(encode_tag(Kind.CREDIT, 3))
    assert not near.write()
    assert kinds(far, 3) == [Kind.CREDIT, Kind.ACK, Kind.PIECE]


def test_the_mark_of_a_ping_is_behind_it(ends: tuple[Connection, Connection]) -> None:
    near, _ = ends
    near.queue_patient(encode_tag(Kind.ACK, 1))
    near.queue_control(encode_tag(Kind.PING, 0))
    mark = near.mark_bytes
    near.write()
    assert near.sent_bytes >= mark == len(encode_tag(Kind.PING, 0))


def test_who_hung_up_is_told_of(ends: tuple[Connection, Connection]) -> None:
    near, far = ends
    near.close()
    with pytest.raises(ConnectionEnded, match="closed by the peer"):
        list(far.read())
