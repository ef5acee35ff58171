"""Control connections on the tracker's side: who is it, enrolment, then messages to and from one agent.

A connection with a certificate may become an agent's; one without may only enrol. What an agent must hear waits in a
queue of its own with one writer; an agent that doesn't read for so long that its queue is full is cut off and comes
back with its inventory, rather than make anybody wait.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import assert_never

import trio

from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput, P2PDistError, ProtocolError
from p2pdist.oci.reference import Tag
from p2pdist.pki import enrolment, revocations
from p2pdist.pki.authority import Authority
from p2pdist.pki.contexts import explain, peer_identity
from p2pdist.pki.database import Database
from p2pdist.pki.errors import AgentRevoked, JoinRefused, UntrustedPeer
from p2pdist.pki.peers import PeerIdentity, PeerKind
from p2pdist.telemetry.logging import get_logger
from p2pdist.telemetry.metrics import EnrolmentOutcome, TrackerMetrics
from p2pdist.tracker.distribution import Distribution
from p2pdist.tracker.fleet import Agent, Fleet, TableChange
from p2pdist.tracker.manifests import Manifests
from p2pdist.tracker.origins import Origins
from p2pdist.wire.channel import Channel
from p2pdist.wire.messages import (
    CAPABILITIES,
    VERSION,
    Beat,
    Distrusted,
    Endpoint,
    Enrol,
    Enrolled,
    Failed,
    FromAgent,
    Goodbye,
    Greeting,
    Hello,
    Inventory,
    Join,
    Lacking,
    Left,
    ManifestIs,
    ManifestWanted,
    Message,
    Renew,
    SizeIs,
    SizeWanted,
    Table,
    Welcome,
)

GREETING_SECONDS = 10.0
SEND_SECONDS = 30.0
TABLE_WINDOW_SECONDS = 0.02
_QUEUE_MESSAGES = 4096
_BATCH_MESSAGES = 64
_REQUESTS_AT_ONCE = 64
log = get_logger("tracker.control")


@dataclass(frozen=True, slots=True)
class Pki:
    """What enrolment needs; a tracker without it takes plain connections."""

    authority: Authority
    database: Database
    context: ssl.SSLContext


@dataclass(frozen=True, slots=True)
class Self:
    """What the tracker says of itself in a welcome; an empty relay host stands for the one that the agent dialled."""

    node: str
    relay_host: str
    relay_port: int
    relay_secrets: tuple[bytes, ...]
    keys: tuple[bytes, ...]


@dataclass(slots=True)
class _Line:
    """The queue towards one connected agent, and the scope that ends its connection."""

    queue: trio.MemorySendChannel[Message]
    scope: trio.CancelScope
    requests: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(_REQUESTS_AT_ONCE))


class Control:
    """All control connections. `attach` must be called before the first one."""

    def __init__(self, me: Self, fleet: Fleet, origins: Origins, metrics: TrackerMetrics, pki: Pki | None) -> None:
        self._me = me
        self._fleet = fleet
        self._origins = origins
        self._metrics = metrics
        self._pki = pki
        self._lines: dict[str, _Line] = {}
        self._changes: list[TableChange] = []
        self._changed = trio.Event()
        self._distribution: Distribution
        self._manifests: Manifests
        self._on_table: Callable[[], None]

    def attach(self, distribution: Distribution, manifests: Manifests, on_table: Callable[[], None]) -> None:
        """The services that messages go to; `on_table` is called when somebody came or went."""
        self._distribution = distribution
        self._manifests = manifests
        self._on_table = on_table

    def say(self, node: str, message: Message) -> None:
        """Queue a message for an agent; nothing happens when it isn't connected: it will come back and ask."""
        line = self._lines.get(node)
        if line is None:
            return
        try:
            line.queue.send_nowait(message)
        except trio.WouldBlock:
            log.warning("agent_too_slow", node=node, queued=_QUEUE_MESSAGES)
            line.scope.cancel()
        except trio.BrokenResourceError:
            return
        self._metrics.control_frames.labels("out", type(message).__name__).inc()

    # Leases and the table.

    async def watch_leases(self) -> None:
        """End the leases of those who gave no sign of life."""
        while True:
            await trio.sleep(self._fleet.lease_seconds / 10)
            for node in self._fleet.expired(trio.current_time()):
                log.warning("lease_lost", node=node)
                self._metrics.leases_lost.inc()
                line = self._lines.get(node)
                if line is not None:
                    line.scope.cancel()
                self._distribution.disconnected(node)
                self._change(self._fleet.remove(node))

    async def spread_table(self) -> None:
        """Tell everybody who came and who went; changes that come together are one message."""
        while True:
            await self._changed.wait()
            await trio.sleep(TABLE_WINDOW_SECONDS)
            self.flush_table()

    def flush_table(self) -> None:
        """Queue what changed in the table: whatever names a slot must come after it."""
        self._changed = trio.Event()
        changes, self._changes = self._changes, []
        added = {member.slot: member for change in changes for member in change.added}
        removed = {slot for change in changes for slot in change.removed}
        present = {agent.member.slot: agent.member for agent in self._fleet.agents()}
        table = Table(
            False,
            tuple(member for slot, member in added.items() if present.get(slot) == member),
            tuple(slot for slot in removed if slot not in present),
        )
        if table.added or table.removed:
            for node in list(self._lines):
                self.say(node, table)

    def _change(self, change: TableChange) -> None:
        if change.added or change.removed:
            self._changes.append(change)
            self._changed.set()
            self._metrics.agents_leased.set(len(self._fleet))
            self._on_table()

    # One connection.

    async def serve(self, stream: trio.SocketStream) -> None:
        """Handle one connection from its first byte to its last."""
        address = str(stream.socket.getpeername()[0])
        self._metrics.control_connections.inc()
        try:
            await self._serve(stream, address)
        except (P2PDistError, trio.TooSlowError) as error:
            self._metrics.protocol_errors.inc()
            log.warning("control_connection_refused", address=address, reason=str(error) or "too slow")
        except trio.BrokenResourceError as error:
            cause = error.__cause__
            reason = explain(cause) if isinstance(cause, ssl.SSLError) else str(cause or error)
            log.info("control_connection_broken", address=address, reason=reason)
        finally:
            self._metrics.control_connections.dec()
            await trio.aclose_forcefully(stream)

    async def _serve(self, stream: trio.SocketStream, address: str) -> None:
        encrypted: trio.SSLStream[trio.SocketStream] | None = None
        identity: PeerIdentity | None = None
        with trio.fail_after(GREETING_SECONDS):
            if self._pki is not None:
                encrypted = trio.SSLStream(stream, self._pki.context, server_side=True, https_compatible=True)
                await encrypted.do_handshake()
                identity = peer_identity(encrypted)
            channel = Channel(encrypted or stream, FromAgent)
            ca = self._pki.authority.der if self._pki is not None else b""
            await channel.send(Greeting(VERSION, CAPABILITIES, self._me.node, ca))
            first = await channel.receive()
        if first is None:
            return
        if isinstance(first, Enrol):
            with trio.fail_after(GREETING_SECONDS):
                await channel.send(await self._enrol(first))
            return
        try:
            hello = self._check_hello(first, identity)
        except P2PDistError as error:
            with trio.move_on_after(GREETING_SECONDS):
                await channel.send(Goodbye(str(error), final=True))
            raise
        channel.trust()
        await self._serve_agent(channel, hello, address, identity)

    def _check_hello(self, first: object, identity: PeerIdentity | None) -> Hello:
        if not isinstance(first, Hello):
            raise ProtocolError(f"the first message is {type(first).__name__}, not Hello or Enrol")
        if first.version != VERSION:
            raise ProtocolError(f"the agent speaks version {first.version} of the protocol, this tracker {VERSION}")
        if self._pki is not None:
            if identity is None or identity.kind is not PeerKind.AGENT:
                raise UntrustedPeer("the agent showed no certificate; it must enrol first: p2pdist agent --join TOKEN")
            if identity.id != first.node:
                raise UntrustedPeer(f"the certificate is of {identity.id}, the hello of {first.node}")
            revocations.check(self._pki.database, identity.id)
        return first

    async def _enrol(self, request: Enrol) -> Message:
        if self._pki is None:
            return Goodbye("this tracker has no CA: run p2pdist pki init there, or connect without a join token", True)
        outcome = EnrolmentOutcome.BAD_REQUEST
        try:
            issued = await trio.to_thread.run_sync(
                lambda pki: enrolment.admit(
                    pki.authority, pki.database, token=request.token, csr_pem=request.csr_pem, name=request.name
                ),
                self._pki,
            )
            outcome = EnrolmentOutcome.ENROLLED
            log.info("agent_enrolled", node=issued.peer.id, name=request.name)
            return Enrolled(issued.pem, self._pki.authority.pem)
        except P2PDistError as error:
            if isinstance(error, JoinRefused):
                outcome = EnrolmentOutcome.BAD_TOKEN
            elif isinstance(error, AgentRevoked):
                outcome = EnrolmentOutcome.REVOKED
            log.warning("enrolment_refused", name=request.name, reason=str(error))
            return Goodbye(str(error), final=True)
        finally:
            self._metrics.enrolments.labels(outcome).inc()

    async def _serve_agent(self, channel: Channel, hello: Hello, address: str, identity: PeerIdentity | None) -> None:
        agent, change = self._fleet.register(
            hello.node,
            hello.name,
            hello.zone,
            Endpoint(hello.relay_host or address, hello.relay_port),
            Endpoint(hello.swarm_host or address, hello.swarm_port),
            trio.current_time(),
        )
        previous = self._lines.pop(hello.node, None)
        if previous is not None:
            previous.scope.cancel()
            self._distribution.disconnected(hello.node)
        send, receive = trio.open_memory_channel[Message](_QUEUE_MESSAGES)
        line = _Line(send, trio.CancelScope())
        self._lines[hello.node] = line
        self._metrics.registrations.inc()
        self._change(change)
        log.info("agent_registered", node=agent.node, name=hello.name, address=address, slot=agent.member.slot)
        self.say(agent.node, self._welcome(agent))
        self.say(agent.node, Table(True, self._fleet.table()))
        farewell = "the connection ended"
        try:
            with line.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, channel, receive)
                    farewell = await self._read(channel, agent, line, identity, nursery)
                    nursery.cancel_scope.cancel()
        finally:
            send.close()
            if self._lines.get(agent.node) is line:
                del self._lines[agent.node]
                self._fleet.disconnected(agent.node)
                self._distribution.disconnected(agent.node)
                if farewell.startswith("goodbye"):
                    self._change(self._fleet.remove(agent.node))
            log.info("agent_gone", node=agent.node, name=hello.name, reason=farewell)

    def _welcome(self, agent: Agent) -> Welcome:
        me = self._me
        return Welcome(
            agent.node,
            agent.member.slot,
            self._fleet.lease_seconds,
            me.relay_secrets,
            me.keys,
            self._origins.infos(),
            me.relay_host,
            me.relay_port,
        )

    async def _write(self, channel: Channel, queue: trio.MemoryReceiveChannel[Message]) -> None:
        async for message in queue:
            batch = [message]
            while len(batch) < _BATCH_MESSAGES:
                try:
                    batch.append(queue.receive_nowait())
                except (trio.WouldBlock, trio.EndOfChannel):
                    break
            with trio.fail_after(SEND_SECONDS):
                await channel.send(*batch)

    async def _read(
        self,
        channel: Channel,
        agent: Agent,
        line: _Line,
        identity: PeerIdentity | None,
        nursery: trio.Nursery,
    ) -> str:
        """Take messages until the connection ends; why it did."""
        while (message := await channel.receive()) is not None:
            self._fleet.renew(agent.node, trio.current_time())
            self._metrics.control_frames.labels("in", type(message).__name__).inc()
            if isinstance(message, Goodbye):
                return f"goodbye: {message.reason}"
            await self._take(message, agent, line, identity, nursery)
        return "the connection ended"

    async def _take(
        self, message: object, agent: Agent, line: _Line, identity: PeerIdentity | None, nursery: trio.Nursery
    ) -> None:
        match message:
            case Beat():
                self.say(agent.node, Beat())
            case Inventory(added, removed):
                got = [Digest.parse(held.digest) for held in added]
                self._fleet.update_holdings(agent.node, got, map(Digest.parse, removed))
                self._distribution.held(agent.node, got)
            case Join():
                self._distribution.join(agent, message)
            case Lacking(generation, missing):
                self._distribution.lacking(agent, generation, missing)
            case Left(generation, reason):
                self._distribution.left(agent, generation, reason)
            case Distrusted(digest, _, reason):
                self._distribution.distrusted(agent, digest, reason)
            case ManifestWanted() | SizeWanted():
                await line.requests.acquire()
                nursery.start_soon(self._answer, agent.node, message, line)
            case Renew(csr_pem):
                nursery.start_soon(self._renew, agent.node, csr_pem, identity)
            case _:
                raise ProtocolError(f"a {type(message).__name__} has no place after the hello")

    async def _answer(self, node: str, wanted: ManifestWanted | SizeWanted, line: _Line) -> None:
        try:
            self.say(node, await self._find(wanted))
        except P2PDistError as error:
            self.say(node, Failed(wanted.id, error.oci_code, error.http_status, str(error)[:4000]))
        finally:
            line.requests.release()

    async def _find(self, wanted: ManifestWanted | SizeWanted) -> Message:
        match wanted:
            case ManifestWanted(id_, upstream, repository, tag, digest):
                if bool(tag) == bool(digest):
                    raise InvalidInput("a manifest is wanted by its tag or by its digest, one of the two")
                target = Tag(tag) if tag else Digest.parse(digest)
                found = await self._manifests.get(upstream, repository, target)
                return ManifestIs(id_, str(found.digest), found.media_type, found.body, found.private)
            case SizeWanted(id_, upstream, repository, text):
                blob = Digest.parse(text)
                size = self._manifests.size_of(blob)
                if size is None:
                    size = await self._origins.client(upstream).blob_size(repository, blob)
                return SizeIs(id_, size)
            case _:
                assert_never(wanted)

    async def _renew(self, node: str, csr_pem: bytes, identity: PeerIdentity | None) -> None:
        if self._pki is None or identity is None:
            self.say(node, Goodbye("there are no certificates on this connection", final=True))
            return
        try:
            issued = await trio.to_thread.run_sync(
                lambda pki: enrolment.renew(
                    pki.authority, pki.database, peer=identity, csr_pem=csr_pem, name=identity.name
                ),
                self._pki,
            )
            self._metrics.enrolments.labels(EnrolmentOutcome.RENEWED).inc()
            log.info("certificate_renewed", node=node)
            self.say(node, Enrolled(issued.pem, self._pki.authority.pem))
        except P2PDistError as error:
            self._metrics.enrolments.labels(EnrolmentOutcome.BAD_REQUEST).inc()
            log.warning("renewal_refused", node=node, reason=str(error))
            self.say(node, Goodbye(str(error), final=True))
