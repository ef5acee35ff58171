"""From a connection's first byte to its hello: TLS, the greeting, enrolment, and who may stay.

Whoever shows a certificate of the fleet may say hello; whoever shows none may only enrol. Without a CA everybody is
taken for the agent that it says it is: `main` allows that on the loopback, or where an operator insists.
"""

import ipaddress
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import trio

from p2pdist.core.errors import InvalidInput, P2PDistError, ProtocolError, StoreError, Unavailable
from p2pdist.pki import enrolment, revocations
from p2pdist.pki.authority import Authority
from p2pdist.pki.contexts import peer_identity
from p2pdist.pki.errors import AgentRevoked, JoinRefused, UntrustedPeer
from p2pdist.pki.peers import PeerIdentity, PeerKind
from p2pdist.telemetry.logging import get_logger
from p2pdist.telemetry.metrics import EnrolmentOutcome, TrackerMetrics
from p2pdist.wire.channel import Channel
from p2pdist.wire.messages import (
    CAPABILITIES,
    VERSION,
    Endpoint,
    Enrol,
    Enrolled,
    FromAgent,
    Goodbye,
    Greeting,
    Hello,
    Message,
)

GREETING_SECONDS = 10.0
log = get_logger("tracker.admission")


@dataclass(frozen=True, slots=True)
class Pki:
    """What enrolment needs: the CA, the tracker's database, and the context of control connections."""

    authority: Authority
    database: Path
    context: ssl.SSLContext


@dataclass(frozen=True, slots=True)
class Newcomer:
    """An agent that may stay: its hello, with addresses that others can use, and what its certificate says."""

    channel: Channel
    hello: Hello
    relay: Endpoint
    swarm: Endpoint
    identity: PeerIdentity | None


class Admission:
    """Admits to the tracker `me`; without `pki` connections are plain."""

    def __init__(self, me: str, metrics: TrackerMetrics, pki: Pki | None) -> None:
        self._me = me
        self._metrics = metrics
        self._pki = pki

    async def admit(self, stream: trio.SocketStream, address: str) -> Newcomer | None:
        """The agent at the other end; None when it only came to enrol, or left.

        Raises `P2PDistError` for whoever may not stay, `TooSlowError`, and trio's errors of a broken connection.
        """
        with trio.fail_after(GREETING_SECONDS):
            channel, identity = await self._greet(stream)
            first = await channel.receive()
        if first is None:
            return None
        if isinstance(first, Enrol):
            with trio.fail_after(GREETING_SECONDS):
                await channel.send(await self._enrol(first))
            return None
        try:
            with trio.fail_after(GREETING_SECONDS):
                hello = await self._check(first, identity)
                relay = await _endpoint(hello.relay_host, hello.relay_port, address)
                swarm = await _endpoint(hello.swarm_host, hello.swarm_port, address)
        except P2PDistError as error:
            passing = isinstance(error, StoreError | Unavailable)
            with trio.move_on_after(GREETING_SECONDS):
                await channel.send(Goodbye(str(error)[:1000], final=not passing))
            raise
        channel.trust()
        return Newcomer(channel, hello, relay, swarm, identity)

    async def _greet(self, stream: trio.SocketStream) -> tuple[Channel, PeerIdentity | None]:
        encrypted: trio.SSLStream[trio.SocketStream] | None = None
        identity: PeerIdentity | None = None
        ca_der = b""
        if self._pki is not None:
            encrypted = trio.SSLStream(stream, self._pki.context, server_side=True, https_compatible=True)
            await encrypted.do_handshake()
            identity = peer_identity(encrypted)
            ca_der = self._pki.authority.der
        channel = Channel(encrypted or stream, FromAgent)
        await channel.send(Greeting(VERSION, CAPABILITIES, self._me, ca_der))
        return channel, identity

    async def _check(self, first: object, identity: PeerIdentity | None) -> Hello:
        if not isinstance(first, Hello):
            raise ProtocolError(f"the first message is {type(first).__name__}, not Hello or Enrol")
        if first.version != VERSION:
            raise ProtocolError(f"the agent speaks version {first.version} of the protocol, this tracker {VERSION}")
        if first.node == self._me:
            raise ProtocolError("the agent calls itself by the id of this tracker")
        if self._pki is not None:
            if identity is None or identity.kind is not PeerKind.AGENT:
                raise UntrustedPeer("the agent showed no certificate; it must enrol first: p2pdist agent --join TOKEN")
            if identity.id != first.node:
                raise UntrustedPeer(f"the certificate is of {identity.id}, the hello of {first.node}")
            await trio.to_thread.run_sync(revocations.check, self._pki.database, identity.id)
        return first

    async def _enrol(self, request: Enrol) -> Message:
        pki = self._pki
        if pki is None:
            return Goodbye("this tracker has no CA: run p2pdist pki init there, or connect without a join token", True)

        def admit() -> Enrolled:
            issued = enrolment.admit(
                pki.authority, pki.database, token=request.token, csr_pem=request.csr_pem, name=request.name
            )
            log.info("agent_enrolled", node=issued.peer.id, name=request.name)
            return Enrolled(issued.pem, pki.authority.pem)

        try:
            enrolled = await trio.to_thread.run_sync(admit)
        except P2PDistError as error:
            outcome = EnrolmentOutcome.BAD_REQUEST
            if isinstance(error, JoinRefused):
                outcome = EnrolmentOutcome.BAD_TOKEN
            elif isinstance(error, AgentRevoked):
                outcome = EnrolmentOutcome.REVOKED
            self._metrics.enrolments.labels(outcome).inc()
            log.warning("enrolment_refused", name=request.name, reason=str(error))
            return Goodbye(str(error)[:1000], final=not isinstance(error, StoreError))
        self._metrics.enrolments.labels(EnrolmentOutcome.ENROLLED).inc()
        return enrolled

    async def renew(self, identity: PeerIdentity | None, csr_pem: bytes) -> Enrolled:
        """The next certificate of an agent; raises `P2PDistError` when it doesn't get one."""
        pki = self._pki
        if pki is None or identity is None:
            raise ProtocolError("there are no certificates on this connection")

        def renew() -> Enrolled:
            issued = enrolment.renew(pki.authority, pki.database, peer=identity, csr_pem=csr_pem, name=identity.name)
            return Enrolled(issued.pem, pki.authority.pem)

        try:
            enrolled = await trio.to_thread.run_sync(renew)
        except P2PDistError as error:
            revoked = isinstance(error, AgentRevoked)
            outcome = EnrolmentOutcome.REVOKED if revoked else EnrolmentOutcome.BAD_REQUEST
            self._metrics.enrolments.labels(outcome).inc()
            log.warning("renewal_refused", node=identity.id, reason=str(error))
            raise
        self._metrics.enrolments.labels(EnrolmentOutcome.RENEWED).inc()
        log.info("certificate_renewed", node=identity.id)
        return enrolled


async def _endpoint(host: str, port: int, address: str) -> Endpoint:
    """Where others find an agent: `host`, or the `address` that it comes from; names are resolved here, once.

    The table holds addresses only, because relays dial from a thread that mustn't wait for a name server and swarms
    judge peers by their address.
    """
    if not host:
        return Endpoint(address, port)
    try:
        return Endpoint(str(ipaddress.ip_address(host.strip("[]"))), port)
    except ValueError:
        pass
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise InvalidInput(f"the agent advertises {host[:100]!r}, which isn't a host name") from None
    except OSError as error:
        raise Unavailable(f"the agent advertises {host[:100]!r}, which isn't known here: {error.strerror}") from error
    return Endpoint(str(found[0][4][0]), port)
