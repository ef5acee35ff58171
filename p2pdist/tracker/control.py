"""Control connections on the tracker's side: messages from one agent, put to whoever acts on them.

The handler of one connection is one of the three places that catch everything: whatever an agent sends, or a message
of it brings about, ends that connection at most.
"""

import ssl
from dataclasses import dataclass
from typing import assert_never

import trio

from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput, P2PDistError, ProtocolError, StoreError, Unavailable
from p2pdist.oci.reference import Tag
from p2pdist.oci.rights import Rights
from p2pdist.pki.contexts import explain
from p2pdist.telemetry.logging import get_logger
from p2pdist.telemetry.metrics import Direction, TrackerMetrics
from p2pdist.tracker.admission import Admission, Newcomer
from p2pdist.tracker.distribution import Distribution
from p2pdist.tracker.fleet import Agent, Fleet
from p2pdist.tracker.leases import Leases
from p2pdist.tracker.lines import Line, Lines
from p2pdist.tracker.manifests import Manifests
from p2pdist.tracker.wishes import asker_of, failed
from p2pdist.wire.messages import (
    Beat,
    Began,
    DealsDone,
    Distrusted,
    Goodbye,
    Inventory,
    Join,
    Lacking,
    Lagging,
    Left,
    ManifestIs,
    ManifestWanted,
    Message,
    Renew,
    Silent,
    SizeIs,
    SizeWanted,
    Table,
    UpstreamInfo,
    Welcome,
    Working,
)

WORKING_SECONDS = 4.0
MAX_STRANGERS = 1024
_MAX_QUESTIONS = 256
_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel, OSError)
log = get_logger("tracker.control")


@dataclass(frozen=True, slots=True)
class Introduction:
    """What the tracker says of itself in a welcome; an empty relay host stands for the one that the agent dialled."""

    relay_host: str
    relay_port: int
    relay_secrets: tuple[bytes, ...]
    keys: tuple[bytes, ...]
    upstreams: tuple[UpstreamInfo, ...]


class Control:
    """All control connections."""

    def __init__(
        self,
        me: Introduction,
        admission: Admission,
        fleet: Fleet,
        lines: Lines,
        leases: Leases,
        distribution: Distribution,
        manifests: Manifests,
        rights: Rights,
        metrics: TrackerMetrics,
    ) -> None:
        self._me = me
        self._admission = admission
        self._fleet = fleet
        self._lines = lines
        self._leases = leases
        self._distribution = distribution
        self._manifests = manifests
        self._rights = rights
        self._metrics = metrics
        self._strangers = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        """Handle one connection from its first byte to its last; raises nothing."""
        address = "?"
        self._metrics.control_connections.inc()
        try:
            address = str(stream.socket.getpeername()[0])
            newcomer = await self._admit(stream, address)
            if newcomer is not None:
                await self._serve_agent(newcomer, address)
        except Exception as error:
            self._tell(address, error)
        finally:
            self._metrics.control_connections.dec()
            await trio.aclose_forcefully(stream)

    def _tell(self, address: str, error: Exception) -> None:
        """Log why a connection ended before its time."""
        match error:
            case P2PDistError() | trio.TooSlowError():
                if isinstance(error, ProtocolError | InvalidInput | trio.TooSlowError):
                    self._metrics.protocol_errors.inc()
                log.warning("control_connection_refused", address=address, reason=str(error) or "too slow")
            case _ if isinstance(error, _BROKEN):
                cause = error.__cause__
                reason = explain(cause) if isinstance(cause, ssl.SSLError) else str(cause or error) or "it broke"
                log.info("control_connection_broken", address=address, reason=reason)
            case _:
                log.exception("control_connection_failed", error, address=address)

    async def _admit(self, stream: trio.SocketStream, address: str) -> Newcomer | None:
        if self._strangers >= MAX_STRANGERS:
            raise Unavailable(f"{MAX_STRANGERS} connections haven't said yet who they are; no more are taken")
        self._strangers += 1
        try:
            return await self._admission.admit(stream, address)
        finally:
            self._strangers -= 1

    async def _serve_agent(self, newcomer: Newcomer, address: str) -> None:
        hello = newcomer.hello
        agent, line = self._leases.grant(hello, newcomer.relay, newcomer.swarm)
        log.info("agent_registered", node=agent.node, name=hello.name, address=address, slot=agent.member.slot)
        farewell, failure = "", "the connection was cut"
        error: Exception | None = None
        try:
            self._lines.say(agent.node, self._welcome(agent))
            self._lines.say(agent.node, Table(True, self._fleet.table()))
            with line.scope:
                await self._leases.known()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._lines.write, line, newcomer.channel)
                    try:
                        farewell = await self._read(newcomer, agent, line, nursery)
                        failure = "the connection ended"
                    except (P2PDistError, *_BROKEN) as caught:
                        # Kept out of the nursery, which would wrap it in a group.
                        error, failure = caught, str(caught)
                    nursery.cancel_scope.cancel()
        finally:
            self._leases.disconnected(line, farewell=bool(farewell))
            log.info("agent_gone", node=agent.node, name=hello.name, reason=farewell or failure)
        if error is not None:
            raise error

    def _welcome(self, agent: Agent) -> Welcome:
        me = self._me
        return Welcome(
            agent.node,
            agent.member.slot,
            self._leases.seconds,
            me.relay_secrets,
            me.keys,
            me.upstreams,
            me.relay_host,
            me.relay_port,
        )

    # Messages.

    async def _read(self, newcomer: Newcomer, agent: Agent, line: Line, nursery: trio.Nursery) -> str:
        """Take messages until the connection ends; what the agent said as it left, if it did."""
        while (message := await newcomer.channel.receive()) is not None:
            self._leases.renew(agent.node)
            self._distribution.heard(agent.node)
            self._metrics.control_frames.labels(Direction.IN, type(message).__name__).inc()
            if isinstance(message, Goodbye):
                return f"goodbye: {message.reason}"
            self._take(message, newcomer, agent, line, nursery)
        return ""

    def _take(self, message: object, newcomer: Newcomer, agent: Agent, line: Line, nursery: trio.Nursery) -> None:
        match message:
            case Beat():
                self._lines.say(agent.node, Beat())
            case Inventory(added, removed):
                got = [Digest.parse(held.digest) for held in added]
                lost = [Digest.parse(text) for text in removed]
                self._fleet.update_holdings(agent.node, got, lost)
                self._distribution.held(agent.node, got)
            case Join():
                self._distribution.join(agent, message)
            case Lacking(generation, missing):
                self._distribution.lacking(agent, generation, missing)
            case Lagging(node):
                self._distribution.lagging(agent, node)
            case Silent(node):
                self._distribution.silent(agent, node)
            case Began(generation, epoch, dealt):
                self._distribution.began(agent, generation, epoch, dealt)
            case DealsDone(generation):
                self._distribution.deals_done(agent, generation)
            case Left(generation, reason):
                self._distribution.left(agent, generation, reason)
            case Distrusted(digest, _, reason):
                self._distribution.distrusted(agent, Digest.parse(digest), reason)
            case ManifestWanted() | SizeWanted():
                if len(line.questions) >= _MAX_QUESTIONS:
                    self._lines.say(agent.node, failed(message.id, Unavailable("too many questions at once")))
                    return
                line.questions.add(message.id)
                nursery.start_soon(self._answer, message, line)
            case Renew(csr_pem):
                nursery.start_soon(self._renew, newcomer, csr_pem)
            case _:
                raise ProtocolError(f"a {type(message).__name__} has no place after the hello")

    async def _answer(self, wanted: ManifestWanted | SizeWanted, line: Line) -> None:
        try:
            self._lines.say(line.node, await self._find(wanted))
        except P2PDistError as error:
            self._lines.say(line.node, failed(wanted.id, error))
        finally:
            line.questions.discard(wanted.id)

    async def _find(self, wanted: ManifestWanted | SizeWanted) -> Message:
        asker = asker_of(wanted)
        match wanted:
            case ManifestWanted(id_, tag=tag, digest=digest):
                if bool(tag) == bool(digest):
                    raise InvalidInput("a manifest is wanted by its tag or by its digest, one of the two")
                found = await self._manifests.get(asker, Tag(tag) if tag else Digest.parse(digest))
                right = self._rights.told(asker)
                return ManifestIs(
                    id_, str(found.digest), found.media_type, found.body, right.private, right.good_seconds
                )
            case SizeWanted(id_, digest=digest, proof=proof, there=there):
                size_bytes = await self._distribution.size(asker, Digest.parse(digest), proof=proof, there=there)
                right = self._rights.told(asker)
                return SizeIs(id_, size_bytes, right.private, right.good_seconds)
            case _:
                assert_never(wanted)

    async def _renew(self, newcomer: Newcomer, csr_pem: bytes) -> None:
        node = newcomer.hello.node
        try:
            self._lines.say(node, await self._admission.renew(newcomer.identity, csr_pem))
        except P2PDistError as error:
            self._lines.part(node, str(error), final=not isinstance(error, StoreError))

    async def reassure(self) -> None:
        """Tell those whose questions take long that they aren't forgotten, so that nobody turns to the origin."""
        while True:
            await trio.sleep(WORKING_SECONDS)
            for line in self._lines.all():
                for id_ in line.questions:
                    self._lines.say(line.node, Working(id_))
            for wish in self._distribution.waiting():
                self._lines.say(wish.node, Working(wish.join.id))
