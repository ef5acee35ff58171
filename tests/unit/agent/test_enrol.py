"""Enrolment over real TLS, against a tracker that does what `tracker/control.py` does with an `Enrol`."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from p2pdist.agent import enrol as enrol_module
from p2pdist.agent.enrol import identity_of, plain_is_fine
from p2pdist.config.schema import TrackerAccess
from p2pdist.core.errors import Denied, InvalidInput, P2PDistError, ProtocolError
from p2pdist.pki import contexts, enrolment, tokens
from p2pdist.pki.authority import Authority
from p2pdist.pki.errors import NotEnrolled, UntrustedPeer
from p2pdist.wire.channel import Channel
from p2pdist.wire.messages import VERSION, Enrol, Enrolled, FromAgent, Goodbye, Greeting

Serve = Callable[[trio.SocketStream], Awaitable[None]]


class Tracker:
    """A CA, and what it answers to whoever enrols."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority.create(directory / "pki", "tracker")
        self.database = directory / "tracker.sqlite"
        self.context = contexts.tracker_control_server(self.authority.server_credentials(["localhost"]))
        self.version = VERSION

    def token(self) -> str:
        return tokens.create(self.database, ttl_seconds=60, uses=1)

    async def serve(self, stream: trio.SocketStream) -> None:
        encrypted = trio.SSLStream(stream, self.context, server_side=True, https_compatible=True)
        try:
            await encrypted.do_handshake()
            channel = Channel(encrypted, FromAgent)
            await channel.send(Greeting(self.version, (), "tracker", self.authority.der))
            request = await channel.receive()
            if isinstance(request, Enrol):
                await channel.send(self._answer(request))
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(stream)

    def _answer(self, request: Enrol) -> Enrolled | Goodbye:
        try:
            issued = enrolment.admit(
                self.authority, self.database, token=request.token, csr_pem=request.csr_pem, name=request.name
            )
        except P2PDistError as error:
            return Goodbye(str(error), final=True)
        return Enrolled(issued.pem, self.authority.pem)


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    return Tracker(tmp_path)


@asynccontextmanager
async def serving(serve: Serve, port: int = 0) -> AsyncIterator[int]:
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield int(listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


def access(port: int, token: str | None, ca_hash: str | None) -> TrackerAccess:

    from p2pdist.config.addresses import PeerAddress
    from p2pdist.config.values import CertificateHash, Secret

    return TrackerAccess(
        address=PeerAddress(f"127.0.0.1:{port}"),
        join_token=Secret(token) if token else None,
        ca_hash=CertificateHash(ca_hash) if ca_hash else None,
    )


async def test_a_host_enrols_once(tracker: Tracker, tmp_path: Path) -> None:
    directory = tmp_path / "identity"
    async with serving(tracker.serve) as port:
        given = access(port, tracker.token(), tracker.authority.ca_hash)
        identity = await identity_of(directory, given, "host-1")
    assert identity.ca_hash == tracker.authority.ca_hash
    assert (directory / "agent.key").stat().st_mode & 0o777 == 0o600
    # The token is used up and nobody listens there any more; what is on the disk is enough.
    assert (await identity_of(directory, given, "host-1")).peer == identity.peer


async def test_a_token_that_is_wrong_or_used_up(tracker: Tracker, tmp_path: Path) -> None:
    async with serving(tracker.serve) as port:
        wrong = access(port, "p2pjoin_" + "A" * 43, tracker.authority.ca_hash)
        with pytest.raises(Denied, match="refuses to enrol this host"):
            await identity_of(tmp_path / "one", wrong, "host-1")
        given = access(port, tracker.token(), tracker.authority.ca_hash)
        await identity_of(tmp_path / "two", given, "host-2")
        with pytest.raises(Denied, match="refuses"):
            await identity_of(tmp_path / "three", given, "host-3")
    assert not (tmp_path / "three" / "agent.pem").exists()


async def test_another_ca_gets_no_token(tracker: Tracker, tmp_path: Path) -> None:
    asked: list[object] = []

    async def serve(stream: trio.SocketStream) -> None:
        answer, tracker._answer = tracker._answer, asked.append  # type: ignore[method-assign,assignment]
        await tracker.serve(stream)
        tracker._answer = answer  # type: ignore[method-assign]

    async with serving(serve) as port:
        with pytest.raises(UntrustedPeer, match="not the pinned"):
            await identity_of(tmp_path / "id", access(port, tracker.token(), "sha256:" + "0" * 64), "host-1")
    assert not asked


async def test_a_token_needs_a_hash_and_no_token_is_no_entry(tracker: Tracker, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"tracker\.ca_hash"):
        await identity_of(tmp_path / "id", access(1, "p2pjoin_x", None), "host-1")
    with pytest.raises(NotEnrolled):
        await identity_of(tmp_path / "id", access(1, None, tracker.authority.ca_hash), "host-1")


async def test_a_tracker_that_comes_later_is_waited_for(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrol_module, "_FIRST_PAUSE_SECONDS", 0.02)
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    enrolled = trio.Event()

    async def enrol() -> None:
        await identity_of(tmp_path / "id", access(port, tracker.token(), tracker.authority.ca_hash), "host-1")
        enrolled.set()

    hung_up = trio.Event()

    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.aclose()
        hung_up.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(enrol)
        # First nobody, then a proxy without a tracker behind it, then the tracker.
        async with serving(hang_up, port):
            with trio.fail_after(5):
                await hung_up.wait()
        async with serving(tracker.serve, port):
            with trio.fail_after(5):
                await enrolled.wait()


async def _http(stream: trio.SocketStream) -> None:
    async with stream:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def test_another_service_on_the_port(tracker: Tracker, tmp_path: Path) -> None:
    async def other_tls(stream: trio.SocketStream) -> None:
        encrypted: trio.SSLStream[trio.SocketStream] = trio.SSLStream(stream, tracker.context, server_side=True)
        try:
            await encrypted.do_handshake()
            await encrypted.send_all(b"220 mail.example ESMTP\r\n" * 3)
            await encrypted.receive_some(1)
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(stream)

    for serve, reason in ((_http, "doesn't speak TLS"), (other_tls, "control frame")):
        async with serving(serve) as port:
            with pytest.raises(ProtocolError, match=reason):
                await identity_of(tmp_path / "id", access(port, tracker.token(), tracker.authority.ca_hash), "host-1")


async def test_another_version(tracker: Tracker, tmp_path: Path) -> None:
    tracker.version = VERSION + 1
    async with serving(tracker.serve) as port:
        with pytest.raises(ProtocolError, match="speaks version"):
            await identity_of(tmp_path / "id", access(port, tracker.token(), tracker.authority.ca_hash), "host-1")


def test_where_plain_connections_are_fine() -> None:
    assert plain_is_fine(access(1, None, None), is_loopback=True)
    assert not plain_is_fine(access(1, "p2pjoin_x", None), is_loopback=True)
    with pytest.raises(InvalidInput, match="isn't enrolled"):
        plain_is_fine(access(1, None, None), is_loopback=False)
