"""Peers that don't belong: garbage on the control port, tokens that give no entry, certificates of another CA."""

import json
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from p2pdist.pki.errors import JoinRefused
from p2pdist.wire.messages import VERSION, Hello, encode
from simulations.processes import poll_until
from tests.system.daemons import Agent, Tracker
from tests.system.fetches import get
from tests.system.fleet import UPSTREAM
from tests.system.places import Place

EXIT_SECONDS = 20
CLOSED_SECONDS = 30
ORIGIN_NOWHERE = {"upstream": [{"name": UPSTREAM, "origin": "http://127.0.0.1:9"}]}


@pytest.fixture
def tracker(tmp_path: Path) -> Iterator[Tracker]:
    """A tracker with its CA, not started."""
    daemon = Tracker(tmp_path, Place(), ORIGIN_NOWHERE)
    daemon.make_pki()
    yield daemon
    daemon.kill()


@pytest.fixture
def started(tracker: Tracker) -> Tracker:
    tracker.start()
    tracker.wait_ready()
    return tracker


@pytest.fixture
def new_agent(tmp_path: Path, tracker: Tracker) -> Iterator[Callable[..., Agent]]:
    made: list[Agent] = []

    def make(token: str, *, ca_hash: str = "") -> Agent:
        join = {"address": tracker.address, "join_token": token, "ca_hash": ca_hash or tracker.ca_hash()}
        made.append(Agent(f"agent-{len(made) + 1}", tmp_path, Place(), {"tracker": join}))
        return made[-1]

    yield make
    for agent in made:
        agent.kill()


def leased(tracker: Tracker) -> float:
    return tracker.metric("p2pdist_tracker_agents_leased")


# The control port.

GARBAGE = {
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: tracker\r\n\r\n",
    "random bytes": bytes(range(256)) * 64,
    "a huge length": b"\xff\xff\xff\xff" + bytes(64),
    "nothing": b"",
}


def read_to_end(connection: socket.socket) -> bytes:
    """What the other end sends until it closes; it must within the time limit of the socket."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        return received
    return received


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_on_the_control_port_ends_only_its_connection(
    what: str, started: Tracker, new_agent: Callable[..., Agent]
) -> None:
    agent = new_agent(started.join_token())
    agent.start()
    agent.wait_ready()
    with socket.create_connection(("127.0.0.1", started.control_port), CLOSED_SECONDS) as connection:
        connection.sendall(GARBAGE[what])
        read_to_end(connection)
    assert started.is_ready()
    assert leased(started) == 1
    assert agent.is_ready()


FRAMES = {
    "not msgpack": b"\x00\x00\x00\x04\xc1\xc1\xc1\xc1",
    "an unknown type": b"\x00\x00\x00\x0a\x91\xa8NoSuchOn",
    "too large": b"\x7f\xff\xff\xff",
    "a field of a wrong type": b"\x00\x00\x00\x0a\x94\xa5Enrol\x01\x02\x03",
}


def unverifying() -> ssl.SSLContext:
    """A client that believes every tracker, as a host without a certificate must at first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.mark.parametrize("what", FRAMES)
def test_a_bad_frame_inside_tls_is_a_protocol_error(what: str, started: Tracker) -> None:
    assert started.metric("p2pdist_tracker_protocol_errors_total") == 0
    with (
        socket.create_connection(("127.0.0.1", started.control_port), CLOSED_SECONDS) as plain,
        unverifying().wrap_socket(plain) as connection,
    ):
        connection.sendall(FRAMES[what])
        read_to_end(connection)
    poll_until(lambda: started.metric("p2pdist_tracker_protocol_errors_total") == 1, "the error is counted", 5)
    assert started.is_ready()


def greeting(tracker: Tracker, context: ssl.SSLContext) -> bytes:
    """What the tracker says first to who connects so; nothing when it refuses the certificate."""
    try:
        with (
            socket.create_connection(("127.0.0.1", tracker.control_port), CLOSED_SECONDS) as plain,
            context.wrap_socket(plain) as connection,
        ):
            return connection.recv(65536)
    except (ssl.SSLError, ConnectionError):
        return b""


def test_a_certificate_of_another_ca_is_not_even_greeted(started: Tracker) -> None:
    context = unverifying()
    assert b"Greeting" in greeting(started, context)
    trustme.CA().issue_cert("agent.example").configure_cert(context)
    assert greeting(started, context) == b""


# Those who belong, and misbehave.


def leased_connection(tracker: Tracker, agent: Agent) -> ssl.SSLSocket:
    """A control connection with an agent's own certificate and a right Hello, greeted and welcomed."""
    identity = agent.state_dir / "identity"
    context = unverifying()
    context.load_cert_chain(identity / "agent.pem", identity / "agent.key")
    plain = socket.create_connection(("127.0.0.1", tracker.control_port), CLOSED_SECONDS)
    connection = context.wrap_socket(plain)
    node = agent.status()["node_id"]
    hello = Hello(VERSION, (), "test", node, agent.name, "", "", 1, "", 1)
    connection.sendall(framed(encode(hello)))
    received = b""
    while b"Welcome" not in received:
        part = connection.recv(65536)
        assert part, f"no welcome: {received!r}"
        received += part
    return connection


def framed(frame: bytes) -> bytes:
    return len(frame).to_bytes(4, "big") + frame


@pytest.mark.parametrize("what", [*FRAMES, "a reset"])
def test_a_leased_peer_that_misbehaves_loses_only_its_own_connection(
    what: str, started: Tracker, new_agent: Callable[..., Agent]
) -> None:
    token = started.join_token(uses=2)
    good, bad = new_agent(token), new_agent(token)
    for agent in (good, bad):
        agent.start()
        agent.wait_ready()
    connects = good.metric("p2pdist_agent_tracker_connects_total")
    with leased_connection(started, bad) as connection:
        if what == "a reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            connection.sendall(FRAMES[what])
            read_to_end(connection)
    started.process.wait_until(
        lambda: bad.is_ready() and leased(started) == 2, "the agent whose place was taken is back", 20
    )
    assert good.metric("p2pdist_agent_tracker_connects_total") == connects


# Joining.


def refused(agent: Agent) -> str:
    """What an agent that must not get in says when it gives up, as it must."""
    agent.start()
    assert agent.process.wait(EXIT_SECONDS) == JoinRefused.exit_code, agent.log_tail()
    return agent.log_text()


def test_a_wrong_token_is_refused(started: Tracker, new_agent: Callable[..., Agent]) -> None:
    token = started.join_token()
    wrong = token[:-4] + ("aaaa" if token[-4:] != "aaaa" else "bbbb")
    said = refused(new_agent(wrong))
    assert "token" in said
    assert wrong not in said
    assert started.metric("p2pdist_tracker_enrolments_total", outcome="bad_token") == 1


def test_a_used_token_is_refused(started: Tracker, new_agent: Callable[..., Agent]) -> None:
    token = started.join_token(uses=1)
    first = new_agent(token)
    first.start()
    first.wait_ready()
    assert "token" in refused(new_agent(token))
    first.stop()
    first.start()
    first.wait_ready()


def test_an_expired_token_is_refused(started: Tracker, new_agent: Callable[..., Agent]) -> None:
    token = started.join_token(ttl="1s")
    poll_until(lambda: "expired" in started.pki("tokens"), "the token has expired", 10)
    assert "expired" in refused(new_agent(token))


def test_a_tracker_of_another_ca_is_not_trusted(started: Tracker, new_agent: Callable[..., Agent]) -> None:
    other_hash = "sha256:" + "1" * 64
    agent = new_agent(started.join_token(), ca_hash=other_hash)
    agent.start()
    agent.process.wait_until(lambda: other_hash in agent.log_text() or not agent.process.running, "the mismatch", 20)
    assert not agent.is_ready()
    assert leased(started) == 0
    assert started.metric("p2pdist_tracker_enrolments_total", outcome="enrolled") == 0


def test_an_enrolled_agent_does_not_follow_another_ca(
    started: Tracker, new_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    agent = new_agent(started.join_token())
    agent.start()
    agent.wait_ready()
    started.stop()
    (tmp_path / "impostor").mkdir()
    impostor = Tracker(tmp_path / "impostor", Place(), {**ORIGIN_NOWHERE, "control": started.settings["control"]})
    impostor.make_pki()
    impostor.start()
    try:
        impostor.wait_ready()
        poll_until(lambda: "certificate" in agent.log_text().lower(), "the agent says why it doesn't connect", 30)
        assert not agent.is_ready()
        assert leased(impostor) == 0
    finally:
        impostor.kill()
    started.start()
    started.wait_ready()
    poll_until(agent.is_ready, "the agent is back at its own tracker", 30)


def test_an_agent_waits_for_a_tracker_that_is_not_there(tracker: Tracker, new_agent: Callable[..., Agent]) -> None:
    agent = new_agent(tracker.join_token())
    agent.start()
    agent.process.wait_until(lambda: tracker.address in agent.log_text(), "a log line that names the tracker", 20)
    status, reasons = agent.admin("/readyz")
    assert status == 503
    assert "tracker" in reasons
    assert agent.admin("/healthz")[0] == 200
    status, _, body = get(agent, f"/v2/library/app/manifests/1?ns={UPSTREAM}")
    assert status == 404
    assert json.loads(body)["errors"]
    tracker.start()
    tracker.wait_ready()
    agent.wait_ready()
