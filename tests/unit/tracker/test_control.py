"""Control connections over real sockets: who may stay, what ends a connection, and that it ends nobody else's."""

import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from p2pdist.agent.control import ControlLink
from p2pdist.core.digest import Digest
from p2pdist.core.errors import BlobUnknown, P2PDistError
from p2pdist.pki import contexts, revocations, tokens
from p2pdist.pki.authority import Authority
from p2pdist.pki.contexts import Credentials
from p2pdist.pki.enrolment import make_csr
from p2pdist.pki.identity import Identity, open_key
from p2pdist.tracker import control, lines
from p2pdist.tracker.main import Tracker
from p2pdist.wire.messages import (
    Beat,
    Endpoint,
    Enrol,
    Enrolled,
    Failed,
    Goodbye,
    HeldBlob,
    Hello,
    Inventory,
    Join,
    Lacking,
    ManifestIs,
    ManifestWanted,
    Message,
    Renew,
    SizeIs,
    SizeWanted,
    Table,
    Welcome,
    Working,
)
from tests.fakes.origin_server import OriginServer, image_manifest, oci_error
from tests.unit.pki.tls import NOW, credentials
from tests.unit.tracker.bench import (
    REGISTRY,
    REPOSITORY,
    Host,
    config_of,
    control_port,
    host_on,
    make_authority,
    tracker_with,
)

LAYER = b"some layer"


@pytest.fixture
async def tracker(tmp_path: Path) -> AsyncIterator[Tracker]:
    async with tracker_with(config_of(tmp_path)) as tracker:
        yield tracker


def frame(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


async def works(tracker: Tracker) -> None:
    """Somebody else can still join the fleet and be answered."""
    with host_on(tracker, "somebody-else") as other:
        async with trio.open_nursery() as nursery:
            await other.join_fleet(nursery)
            await other.say(Beat())
            await other.expect(Beat)
            await other.say(Goodbye("enough"))
            await other.is_hung_up_on()


# Plain connections.


async def test_hello_is_answered_with_welcome_and_the_table(tracker: Tracker, nursery: trio.Nursery) -> None:
    with host_on(tracker, "a") as a, host_on(tracker, "b") as b:
        assert (await a.join_fleet(nursery)).slot == 0
        assert [member.name for member in (await a.expect(Table)).added] == ["a"]
        welcome = await b.join_fleet(nursery, relay_host="10.1.2.3", swarm_host="[fd00::1]")
        assert (welcome.slot, welcome.lease_seconds, welcome.relay_host) == (1, 30, "")
        assert [(info.name, info.origin) for info in welcome.upstreams] == [(REGISTRY, "http://127.0.0.1:1")]
        assert len((await b.expect(Table, lambda table: table.whole)).added) == 2
        told = (await a.expect(Table, lambda table: any(member.name == "b" for member in table.added))).added
        assert [(m.slot, m.name, m.relay, m.swarm) for m in told if m.name == "b"] == [
            (1, "b", Endpoint("10.1.2.3", 7501), Endpoint("fd00::1", 7502))
        ]


async def test_host_names_are_resolved_once(tracker: Tracker, nursery: trio.Nursery) -> None:
    with host_on(tracker, "a") as a:
        await a.join_fleet(nursery, relay_host="localhost")
        assert (await a.expect(Table)).added[0].relay.host in ("127.0.0.1", "::1")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 99}, "version 99"),
        ({"swarm_host": "." * 300}, "isn't known here|isn't a host name"),
    ],
)
async def test_a_hello_that_cannot_be_accepted_gets_a_reason(
    tracker: Tracker, changes: dict[str, Any], reason: str
) -> None:
    with host_on(tracker, "a") as a:
        await a.connect()
        await a.say(a.hello(**changes))
        answer = await a.channel.receive()
        assert isinstance(answer, Goodbye)
        assert any(part in answer.reason for part in reason.split("|"))
        assert await a.channel.receive() is None


async def test_nobody_may_call_itself_the_tracker(tracker: Tracker) -> None:
    with host_on(tracker, "a") as a:
        await a.connect()
        assert a.greeting is not None
        await a.say(a.hello(node=a.greeting.tracker))
        assert isinstance(await a.channel.receive(), Goodbye)


GARBAGE = [
    b"GET / HTTP/1.1\r\nHost: tracker\r\n\r\n",
    frame(b"\xc1 not msgpack"),
    frame(msgspec.msgpack.encode(["Nonsense", 1])),
    frame(msgspec.msgpack.encode(["Join", "not a number"])),
    struct.pack(">I", 1 << 31),
    b"\0\0",
]


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_garbage_before_hello_ends_the_connection_alone(tracker: Tracker, garbage: bytes) -> None:
    with host_on(tracker, "a") as a:
        await a.connect()
        await a.tcp.send_all(garbage)
        await a.tcp.send_eof()
        await a.listen()
        assert await a.is_hung_up_on()
    await works(tracker)


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_garbage_after_hello_ends_the_connection_alone(
    tracker: Tracker, garbage: bytes, nursery: trio.Nursery
) -> None:
    with host_on(tracker, "a") as a, host_on(tracker, "b") as b:
        await a.join_fleet(nursery)
        await b.join_fleet(nursery)
        await a.tcp.send_all(garbage)
        await a.tcp.send_eof()
        assert await a.is_hung_up_on()
        await b.say(Beat())
        await b.expect(Beat)
    await works(tracker)


BAD_MESSAGES: list[Message] = [
    Inventory((HeldBlob("sha256:short", 1),)),
    Inventory((), ("nonsense",)),
    Enrol("token", b"", "a"),
    Hello(1, (), "", "node-a", "a", "", "", 1, "", 1),
]


@pytest.mark.parametrize("message", BAD_MESSAGES)
async def test_a_message_that_makes_no_sense_ends_the_connection_alone(
    tracker: Tracker, message: Message, nursery: trio.Nursery
) -> None:
    with host_on(tracker, "a") as a:
        await a.join_fleet(nursery)
        await a.say(message)
        assert await a.is_hung_up_on()
    await works(tracker)


async def test_an_error_that_nobody_expected_ends_one_connection(
    tracker: Tracker, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with host_on(tracker, "a") as a:
        await a.join_fleet(nursery)
        monkeypatch.setattr(tracker._distribution, "lacking", broken)
        await a.say(Lacking(1, b""))
        assert await a.is_hung_up_on()
    await works(tracker)


async def test_a_reset_ends_the_connection_alone(tracker: Tracker, nursery: trio.Nursery) -> None:
    with host_on(tracker, "a") as a, host_on(tracker, "b") as b:
        await a.join_fleet(nursery)
        await b.join_fleet(nursery)
        b.tcp.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER of 0 s: close() resets
        await b.close()
        await a.expect(Table, lambda table: any(member.name == "b" for member in table.added))
    await works(tracker)


async def test_a_second_connection_of_a_node_takes_the_place_of_the_first(
    tracker: Tracker, nursery: trio.Nursery
) -> None:
    with host_on(tracker, "a") as old, host_on(tracker, "a") as new:
        first = await old.join_fleet(nursery)
        second = await new.join_fleet(nursery)
        assert second.slot == first.slot
        assert await old.is_hung_up_on()
        await new.say(Beat())
        await new.expect(Beat)


async def test_a_farewell_ends_the_lease_and_a_broken_connection_does_not(
    tracker: Tracker, nursery: trio.Nursery
) -> None:
    with host_on(tracker, "a") as a, host_on(tracker, "b") as b, host_on(tracker, "c") as c:
        for host in (a, b, c):
            await host.join_fleet(nursery)
        await b.close()
        await c.say(Goodbye("shutting down"))
        assert (await a.expect(Table, lambda table: bool(table.removed))).removed == (2,)
        with host_on(tracker, "b") as again:
            assert (await again.join_fleet(nursery)).slot == 1


async def test_a_silent_agent_loses_its_lease_and_one_that_beats_does_not(tmp_path: Path) -> None:
    async with tracker_with(config_of(tmp_path, lease_seconds=0.3)) as tracker, trio.open_nursery() as nursery:
        with host_on(tracker, "quiet") as quiet, host_on(tracker, "b") as b:
            await quiet.join_fleet(nursery)
            await b.join_fleet(nursery)

            async def beat() -> None:
                while True:
                    await b.say(Beat())
                    await b.expect(Beat)
                    await trio.sleep(0.03)

            nursery.start_soon(beat)
            assert (await b.expect(Table, lambda table: bool(table.removed))).removed == (0,)
            assert await quiet.is_hung_up_on()
            nursery.cancel_scope.cancel()


async def test_an_agent_that_does_not_read_is_cut_off(
    tracker: Tracker, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_QUEUE_MESSAGES", 4)
    with host_on(tracker, "deaf") as deaf, host_on(tracker, "b") as b:
        await deaf.connect()
        await deaf.say(deaf.hello())
        assert isinstance(await deaf.channel.receive(), Welcome)
        monkeypatch.setattr(lines, "_QUEUE_MESSAGES", 4096)
        await b.join_fleet(nursery)
        await deaf.say(*[Beat()] * 5000)
        await deaf.listen()
        assert await deaf.is_hung_up_on()
        await b.say(Beat())
        await b.expect(Beat)


async def test_strangers_are_taken_in_bounded_numbers(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_STRANGERS", 1)
    with host_on(tracker, "a") as a, host_on(tracker, "b") as b:
        await a.connect()
        await b.connect()
        assert b.greeting is None
        await a.say(a.hello())
        assert isinstance(await a.channel.receive(), Welcome)
    await works(tracker)


async def test_enrolment_without_a_ca_says_what_to_do(tracker: Tracker) -> None:
    with host_on(tracker, "a") as a:
        await a.connect()
        await a.say(Enrol("token", b"csr", "a"))
        answer = await a.channel.receive()
        assert isinstance(answer, Goodbye)
        assert "p2pdist pki init" in answer.reason


async def test_renewal_without_certificates_is_refused(tracker: Tracker, nursery: trio.Nursery) -> None:
    with host_on(tracker, "a") as a:
        await a.join_fleet(nursery)
        await a.say(Renew(b"csr"))
        assert (await a.expect(Goodbye)).final
        assert await a.is_hung_up_on()


# Questions.


@pytest.fixture
def origin() -> Iterator[OriginServer]:
    with OriginServer() as server:
        server.put_manifest(REPOSITORY, "1.0", image_manifest(LAYER))
        server.put_blob(REPOSITORY, LAYER)
        yield server


@asynccontextmanager
async def asking(origin: OriginServer, directory: Path) -> AsyncIterator[Host]:
    async with tracker_with(config_of(directory, origin.url)) as tracker, trio.open_nursery() as nursery:
        with host_on(tracker, "a") as host:
            await host.join_fleet(nursery)
            yield host
            nursery.cancel_scope.cancel()


async def test_questions_are_answered_by_their_number(origin: OriginServer, tmp_path: Path) -> None:
    body = image_manifest(LAYER)
    async with asking(origin, tmp_path) as host:
        await host.say(
            ManifestWanted(1, REGISTRY, REPOSITORY, tag="1.0"),
            SizeWanted(2, REGISTRY, REPOSITORY, str(Digest.of(LAYER))),
            ManifestWanted(3, REGISTRY, REPOSITORY, digest=str(Digest.of(body))),
        )
        found = await host.expect(ManifestIs, lambda answer: answer.id == 1)
        assert (found.body, found.digest, found.private) == (body, str(Digest.of(body)), False)
        assert (await host.expect(ManifestIs, lambda answer: answer.id == 3)).body == body
        size = await host.expect(SizeIs)
        assert (size.id, size.size_bytes, size.private) == (2, len(LAYER), False)
        assert 0 < size.good_seconds <= 300


@pytest.mark.parametrize(
    ("question", "code", "status"),
    [
        (ManifestWanted(7, REGISTRY, REPOSITORY), "UNSUPPORTED", 400),
        (ManifestWanted(7, REGISTRY, REPOSITORY, "1.0", "sha256:0"), "UNSUPPORTED", 400),
        (ManifestWanted(7, REGISTRY, REPOSITORY, "no/tag"), "NAME_INVALID", 400),
        (ManifestWanted(7, REGISTRY, "NO REPOSITORY", "1.0"), "NAME_INVALID", 400),
        (ManifestWanted(7, REGISTRY, REPOSITORY, digest="sha256:abc"), "DIGEST_INVALID", 400),
        (ManifestWanted(7, REGISTRY, REPOSITORY, "unknown"), "MANIFEST_UNKNOWN", 404),
        (ManifestWanted(7, "elsewhere.example", REPOSITORY, "1.0"), "NAME_UNKNOWN", 404),
        (SizeWanted(7, REGISTRY, REPOSITORY, str(Digest.of(b"?"))), "BLOB_UNKNOWN", 404),
        (SizeWanted(7, REGISTRY, REPOSITORY, "sha256:abc"), "DIGEST_INVALID", 400),
        (Join(7, REGISTRY, REPOSITORY, "sha256:abc"), "DIGEST_INVALID", 400),
        (Join(7, "elsewhere.example", REPOSITORY, str(Digest.of(LAYER))), "NAME_UNKNOWN", 404),
        (Join(7, REGISTRY, "NO REPOSITORY", str(Digest.of(LAYER))), "NAME_INVALID", 400),
    ],
)
async def test_a_question_that_cannot_be_answered_fails_and_the_connection_stands(
    origin: OriginServer, tmp_path: Path, question: Message, code: str, status: int
) -> None:
    async with asking(origin, tmp_path) as host:
        await host.say(question)
        answer = await host.expect(Failed)
        assert (answer.id, answer.code, answer.status) == (7, code, status)
        await host.say(Beat())
        await host.expect(Beat)


async def test_too_many_questions_at_once_are_refused_and_beats_are_still_read(
    origin: OriginServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_MAX_QUESTIONS", 2)
    origin.script(f"/v2/{REPOSITORY}/manifests/1.0", lambda _, good: type(good)(hang_after=-1))
    async with asking(origin, tmp_path) as host:
        await host.say(*[ManifestWanted(number, REGISTRY, REPOSITORY, "1.0") for number in range(3)], Beat())
        refused = await host.expect(Failed)
        assert (refused.id, refused.code) == (2, "UNAVAILABLE")
        await host.expect(Beat)


async def test_who_waits_long_is_told_that_the_tracker_works_on_it(
    origin: OriginServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "WORKING_SECONDS", 0.02)
    digest = Digest.of(LAYER)
    for path in (f"manifests/{digest}", f"blobs/{digest}"):
        origin.script(f"/v2/{REPOSITORY}/{path}", lambda _, good: type(good)(hang_after=-1))
    async with asking(origin, tmp_path) as host:
        await host.say(
            ManifestWanted(1, REGISTRY, REPOSITORY, digest=str(digest)), Join(2, REGISTRY, REPOSITORY, str(digest))
        )
        for id_ in (1, 2, 1, 2):
            await host.expect(Working, lambda message, id_=id_: message.id == id_)  # type: ignore[misc]
        assert not [message for message in host.messages if isinstance(message, Failed)]


class Nobody:
    """The listener of an agent's link that does nothing."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.up = trio.Event()

    def hello(self) -> Hello:
        return self._host.hello()

    def connected(self, *_: object) -> None:
        self.up.set()

    def disconnected(self) -> None:
        pass

    def message(self, message: Message) -> None:
        pass


async def test_an_agent_s_patience_outlasts_a_slow_origin(
    origin: OriginServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    """Its question waits 0.3 s for a sign of life, and the origin 0.9 s with its answer."""
    monkeypatch.setattr(control, "WORKING_SECONDS", 0.05)
    path = f"/v2/{REPOSITORY}/blobs/{Digest.of(LAYER)}"
    refusal = oci_error(404, "BLOB_UNKNOWN")

    def slow(*_: object) -> Any:
        origin.closing.wait(0.9)
        return refusal

    origin.script(path, slow, refusal)
    async with tracker_with(config_of(tmp_path, origin.url)) as tracker, trio.open_nursery() as tasks:
        listener = Nobody(Host("a", 0))
        link = ControlLink("127.0.0.1", control_port(tracker), lambda: None, listener)
        tasks.start_soon(link.run)
        await listener.up.wait()
        with pytest.raises(BlobUnknown):
            await link.ask(lambda id_: Join(id_, REGISTRY, REPOSITORY, str(Digest.of(LAYER))), 0.3)
        tasks.cancel_scope.cancel()


# With a CA.


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "state")


@pytest.fixture
async def secure(tmp_path: Path, authority: Authority) -> AsyncIterator[Tracker]:
    async with tracker_with(config_of(tmp_path / "state", lease_seconds=0.6)) as tracker:
        yield tracker


def enrolled_node(authority: Authority, directory: Path, **more: Any) -> tuple[ssl.SSLContext, str]:
    files = credentials(authority, directory, **more)
    return contexts.agent_control_client(files), _id_in(files)


def _id_in(files: Credentials) -> str:
    from p2pdist.pki import certificates

    return certificates.peer_of(certificates.parse_certificate(files.certificate.read_bytes(), "leaf")).id


async def enrol(tracker: Tracker, directory: Path, token: str, name: str = "host-1", csr: bytes = b"") -> Any:
    with host_on(tracker, name, context=contexts.enrolment_client()) as host:
        await host.connect()
        csr = csr or make_csr(open_key(directory), "host-1")
        await host.say(Enrol(token, csr, name))
        return await host.channel.receive()


async def test_a_good_token_gives_a_certificate_that_gives_a_lease(
    secure: Tracker, tmp_path: Path, nursery: trio.Nursery, authority: Authority
) -> None:
    token = tokens.create(tmp_path / "state/tracker.sqlite")
    answer = await enrol(secure, tmp_path / "agent", token)
    assert isinstance(answer, Enrolled)
    assert answer.ca_pem == authority.pem
    identity = Identity.store(tmp_path / "agent", answer.certificate_pem, answer.ca_pem)
    context = contexts.agent_control_client(identity.credentials)
    with host_on(secure, "host-1", context=context, node=identity.peer.id) as host:
        assert (await host.join_fleet(nursery)).node == identity.peer.id
        await host.say(Renew(make_csr(identity.key, "host-1")))
        renewed = await host.expect(Enrolled)
        Identity.store(tmp_path / "agent", renewed.certificate_pem, renewed.ca_pem)
        await host.say(Renew(b"no request"))
        assert "can't be read" in (await host.expect(Goodbye)).reason


@pytest.mark.parametrize("kind", ["wrong", "used", "expired", "bad request", "bad name"])
async def test_a_token_that_gives_no_entry_is_refused_with_its_reason(
    secure: Tracker, tmp_path: Path, kind: str
) -> None:
    database = tmp_path / "state/tracker.sqlite"
    token = tokens.create(database)
    csr, name, reason = b"", "host-1", ""
    match kind:
        case "wrong":
            token, reason = "p2pjoin_nonsense", "token"
        case "used":
            assert isinstance(await enrol(secure, tmp_path / "first", token), Enrolled)
            reason = "token"
        case "expired":
            token, reason = tokens.create(database, ttl_seconds=1, now=1000.0), "token"
        case "bad request":
            csr, reason = b"-----BEGIN NONSENSE-----", "request"
        case _:
            name, reason = "no name at all", "name"
    answer = await enrol(secure, tmp_path / "agent", token, name, csr)
    assert isinstance(answer, Goodbye)
    assert answer.final
    assert reason in answer.reason


async def test_no_certificate_no_hello(secure: Tracker) -> None:
    with host_on(secure, "a", context=contexts.enrolment_client()) as host:
        await host.connect()
        await host.say(host.hello())
        answer = await host.channel.receive()
        assert isinstance(answer, Goodbye)
        assert "must enrol first" in answer.reason


async def test_a_certificate_of_another_agent_is_no_use(secure: Tracker, tmp_path: Path, authority: Authority) -> None:
    context, node = enrolled_node(authority, tmp_path / "a")
    with host_on(secure, "a", context=context, node="0" * 32) as host:
        await host.connect()
        await host.say(host.hello())
        answer = await host.channel.receive()
        assert isinstance(answer, Goodbye)
        assert node in answer.reason


@pytest.mark.parametrize("kind", ["another CA", "expired", "no TLS"])
async def test_who_does_not_belong_is_not_greeted(
    secure: Tracker, tmp_path: Path, authority: Authority, kind: str, nursery: trio.Nursery
) -> None:
    context: ssl.SSLContext | None = None
    if kind == "another CA":
        context, _ = enrolled_node(Authority.create(tmp_path / "other", "other"), tmp_path / "a")
        context.load_verify_locations(cadata=authority.pem.decode())
    elif kind == "expired":
        past = {"issued_at": NOW - timedelta(days=40), "lifetime": timedelta(days=30)}
        context, _ = enrolled_node(authority, tmp_path / "a", **past)
    with host_on(secure, "a", context=context) as host:
        if kind == "no TLS":
            host.tcp = await trio.open_tcp_stream("127.0.0.1", control_port(secure))
            await host.tcp.send_all(frame(b"hello"))
            with suppress(trio.BrokenResourceError):
                assert b"Greeting" not in bytes(await host.tcp.receive_some())
        else:
            with suppress(trio.BrokenResourceError, P2PDistError):
                await host.connect()
            assert host.greeting is None
    good, node = enrolled_node(authority, tmp_path / "good")
    with host_on(secure, "good", context=good, node=node) as host:
        await host.join_fleet(nursery)


async def test_a_revoked_agent_gets_no_lease_and_loses_the_one_it_has(
    secure: Tracker, tmp_path: Path, authority: Authority, nursery: trio.Nursery
) -> None:
    context, node = enrolled_node(authority, tmp_path / "a")
    with host_on(secure, "a", context=context, node=node) as host:
        await host.join_fleet(nursery)

        async def beat() -> None:
            while not host.ended.is_set():
                try:
                    await host.say(Beat())
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return
                await trio.sleep(0.1)

        nursery.start_soon(beat)
        revocations.revoke(tmp_path / "state/tracker.sqlite", node)
        goodbye = await host.expect(Goodbye)
        assert goodbye.final
        assert "revoked" in goodbye.reason
        assert await host.is_hung_up_on()
    assert secure._fleet.get(node) is None
    with host_on(secure, "a", context=context, node=node) as host:
        await host.connect()
        await host.say(host.hello())
        answer = await host.channel.receive()
        assert isinstance(answer, Goodbye)
        assert "revoked" in answer.reason
