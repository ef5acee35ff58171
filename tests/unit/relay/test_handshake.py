"""Two ends of a handshake, as scripts of frames."""

import pytest

from p2pdist.core.errors import ProtocolError
from p2pdist.relay.frames import PREFIX_BYTES, Kind, read_prefix
from p2pdist.relay.handshake import Handshake

OLD, NEW = b"o" * 32, b"n" * 32


def everybody(_: str) -> bool:
    return True


def exchange(left: Handshake, right: Handshake) -> None:
    """Let both ends talk until neither has anything to say."""
    waiting = [(right, left.hello()), (left, right.hello())]
    while waiting:
        receiver, frame = waiting.pop(0)
        prefix = read_prefix(bytearray(frame), 0)
        answer = receiver.receive(prefix.kind, memoryview(frame)[PREFIX_BYTES:])
        if answer:
            waiting.append((left if receiver is right else right, answer))


def test_both_ends_learn_who_the_other_is() -> None:
    left, right = Handshake("a", [NEW], True, everybody), Handshake("b", [NEW], False, everybody)
    exchange(left, right)
    assert (left.peer, right.peer) == ("b", "a")


def test_an_older_secret_is_still_good_while_it_is_listed() -> None:
    left, right = Handshake("a", [OLD, NEW], True, everybody), Handshake("b", [NEW, OLD], False, everybody)
    exchange(left, right)
    assert (left.peer, right.peer) == ("b", "a")


def test_a_wrong_secret_is_refused() -> None:
    left, right = Handshake("a", [OLD], True, everybody), Handshake("b", [NEW], False, everybody)
    with pytest.raises(ProtocolError, match="doesn't know the relay secret"):
        exchange(left, right)
    assert left.peer is None
    assert right.peer is None


def test_a_node_without_lease_is_refused() -> None:
    left, right = Handshake("a", [NEW], True, everybody), Handshake("b", [NEW], False, lambda node: node != "a")
    with pytest.raises(ProtocolError, match="holds no lease"):
        exchange(left, right)


def test_a_reflected_proof_is_refused() -> None:
    """Sending a node's own frames back to it must not make it believe that somebody knows the secret."""
    node = Handshake("a", [NEW], False, everybody)
    hello = node.hello()
    proof = node.receive(Kind.HELLO, memoryview(hello)[PREFIX_BYTES:])
    with pytest.raises(ProtocolError, match="doesn't know the relay secret"):
        node.receive(Kind.PROOF, memoryview(proof)[PREFIX_BYTES:])


def test_frames_in_the_wrong_order_are_refused() -> None:
    node = Handshake("a", [NEW], False, everybody)
    with pytest.raises(ProtocolError, match="before the handshake was done"):
        node.receive(Kind.PROOF, memoryview(b"x" * 32))
    with pytest.raises(ProtocolError, match="before the handshake was done"):
        node.receive(Kind.PIECE, memoryview(b""))
