"""The data connections of a node: listening, dialling, handshakes, whole frames in, queued frames out, who is silent.

Owned by the relay's thread. Knows nodes by their links and frames by their bounds, but no rules: what frames mean, and
what to do when a node is lost, is told to its `Exchange`.
"""

import ipaddress
import select
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from p2pdist.core.errors import P2PDistError, ProtocolError
from p2pdist.relay.connection import BUFFER_BYTES, Connection, ConnectionEnded
from p2pdist.relay.frames import Kind, Prefix, encode_tag
from p2pdist.relay.handshake import Handshake
from p2pdist.relay.lag import Queue
from p2pdist.relay.links import Link, LinkKey
from p2pdist.relay.session import DIAL_SECONDS, HANDSHAKE_SECONDS, Phase, Session, TlsContexts
from p2pdist.relay.transfer import Outgoing
from p2pdist.telemetry.logging import get_logger

CLOSE_FROZEN_SECONDS = 2.0
PATIENCE_SECONDS = 0.03
"""How long an acknowledgement waits for something to go with."""
_MAX_STRANGERS = 256
_HANDSHAKE = (Kind.HELLO, Kind.PROOF)
log = get_logger("relay")


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """Where a node of the fleet takes data connections: an IP address and a port."""

    host: str
    port: int


class Exchange(Protocol):
    """Who is told what happens on the connections."""

    def frame(self, session: Session, prefix: Prefix, meta: memoryview, data: memoryview) -> None:
        """A frame came from a node that proved itself; raises `ProtocolError` when it shouldn't have."""

    def written(self, outgoing: Outgoing) -> None:
        """The bytes of a piece have left."""

    def lost(self, node: str) -> None:
        """A node can't be reached, or stands still."""

    def back(self, node: str) -> None:
        """A node can be reached again."""

    def silent(self, node: str) -> None:
        """A node that is connected, or takes connections, gives no sign of life."""

    def reset(self, node: str) -> None:
        """A connection to a node broke, and another stands: what was on its way may be lost."""

    def owes(self, node: str) -> bool:
        """Whether a node owes us an answer, so that its silence means something."""

    def rejected(self, node: str, address: str, reason: str) -> None:
        """A connection was closed for its peer's fault."""


class Switchboard:
    """All sockets of the relay's thread but its wake-up."""

    def __init__(
        self,
        me: str,
        listeners: Iterable[socket.socket],
        tls: TlsContexts | None,
        exchange: Exchange,
        epoll: select.epoll,
    ) -> None:
        self._me = me
        self._tls = tls
        self._exchange = exchange
        self._epoll = epoll
        self._secrets: list[bytes] = []
        self._nodes: dict[str, NodeAddress] = {}
        self._kept: set[str] = set()
        self._links: dict[LinkKey, Link] = {}
        self._sessions: dict[int, Session] = {}
        self._listeners = {sock.fileno(): sock for sock in listeners}
        self._dirty: dict[int, Session] = {}
        self._resting: list[socket.socket] = []
        self._patient: dict[int, Session] = {}
        self._hurry_at = 0.0
        self._received_bytes = self._most_bytes = 0
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self.peers = 0
        for fd in self._listeners:
            epoll.register(fd, select.EPOLLIN)

    # Who there is.

    def set_secrets(self, secrets: list[bytes]) -> None:
        """The relay secrets that are valid, the one to prove with first."""
        self._secrets = secrets

    def set_nodes(self, nodes: dict[str, NodeAddress], keep: set[str]) -> None:
        """Who holds a lease and where it listens; links to `keep` are held open. Others lose their connections."""
        self._nodes, self._kept = nodes, keep
        for session in list(self._sessions.values()):
            node = session.node or session.dialled_node
            if node and node not in nodes:
                self._end(session, "its lease ended")
        for key in [key for key in self._links if key.node not in nodes]:
            del self._links[key]
        for session in list(self._sessions.values()):
            self._greet_again(session)
        for node in keep & nodes.keys():
            self.ensure(LinkKey(node, False))

    def _greet_again(self, session: Session) -> None:
        """A dialler whose hello came before it was in our table may be in it now."""
        held, session.held = session.held, []
        try:
            for kind, meta in held:
                if session.greet(kind, memoryview(meta)):
                    self._greeted(session, time.monotonic())
        except ProtocolError as error:
            self.reject(session, error)
        else:
            if held:
                self._dirty[session.fd] = session

    def is_kept(self, node: str) -> bool:
        """Whether links to this node are held open: a tracker."""
        return node in self._kept

    def is_open(self, session: Session) -> bool:
        """Whether a session still stands, ready for frames."""
        return session.phase is Phase.READY and self._sessions.get(session.fd) is session

    # Sending.

    def ensure(self, key: LinkKey) -> Link:
        """The link of a node, dialling if it has no connection and its time has come."""
        link = self._links.get(key)
        if link is None:
            link = self._links[key] = Link(key)
        now = time.monotonic()
        if link.session is None and link.dialling is None and link.may_dial(now):
            self._dial(link, now)
        return link

    def meet(self, key: LinkKey) -> None:
        """A node is in a new ring, so it is there now, whatever earlier attempts came to: dial it at once."""
        link = self._links.get(key)
        if link is not None:
            link.reached()
        self.ensure(key)

    def send_along(self, key: LinkKey, item: Outgoing | bytes) -> None:
        """Send to a node when its connection is there; it is lost when none can be had now."""
        link = self._links.get(key)
        if link is None or link.session is None:
            link = self.ensure(key)
        if link.session is not None:
            self._queue(link.session, item)
        elif link.dialling is not None and not link.is_late(time.monotonic()):
            link.waiting.append(item)
        else:
            self._lost(key)

    def reply(self, node: str, frame: bytes, may_wait: bool = False) -> None:
        """Send a small frame over whatever connection there is; without one, the node has given us up.

        A frame that `may_wait` leaves with the next that goes the same way, or after `PATIENCE_SECONDS`.
        """
        link = self._links.get(LinkKey(node, False))
        if link is None or link.session is None:
            link = self._links.get(LinkKey(node, True))
        if link is not None and link.session is not None:
            if may_wait:
                self._queue_patient(link.session, frame)
            else:
                self._queue(link.session, frame)

    def send(self, session: Session, frame: bytes) -> None:
        """Send a small frame on a connection, if it still stands."""
        if self.is_open(session):
            self._queue(session, frame)

    def drop_generation(self, generation: int) -> None:
        """Forget what waits, in either direction, of a generation; who sent half a piece is told."""
        for session in self._sessions.values():
            for tag in session.drop_generation(generation):
                self.send(session, encode_tag(Kind.REFUSE, tag))
        for link in self._links.values():
            link.drop_generation(generation)

    def take_queued(self, generation: int) -> list[Outgoing]:
        """Take back the pieces of a generation of which no byte has left."""
        connections = [session.connection for session in self._sessions.values() if session.connection is not None]
        return [outgoing for connection in connections for outgoing in connection.take_queued((generation,))]

    def queues(self) -> dict[str, Queue]:
        """What waits for each node that owes us something, and so was sent something lately."""
        return {
            link.key.node: Queue(connection.queued_pieces, connection.waiting_pieces)
            for link in self._links.values()
            if link.session is not None
            and (connection := link.session.connection) is not None
            and self._exchange.owes(link.key.node)
        }

    def sends_from(self, fd: int) -> bool:
        """Whether a frame that is half sent is read from `fd`."""
        return any(s.connection is not None and s.connection.sends_from(fd) for s in self._sessions.values())

    def patience(self, now: float, wait: float | None) -> float | None:
        """How long to wait for events, at most `wait` seconds: until what was left for later has to go."""
        if not self._patient:
            return wait
        left = max(0.0, self._hurry_at - now)
        return left if wait is None else min(wait, left)

    def take_received(self) -> tuple[int, int]:
        """How many bytes came since the last call, and the most that came over one connection at once."""
        received = self._received_bytes, self._most_bytes
        self._received_bytes = self._most_bytes = 0
        return received

    def flush(self, now: float) -> bool:
        """Write what is queued; True when there was something, in whose wake more may be queued."""
        if self._patient and now >= self._hurry_at:
            for session in self._patient.values():
                if session.connection is not None:
                    session.connection.hurry()
            self._dirty.update(self._patient)
            self._patient.clear()
        dirty, self._dirty = self._dirty, {}
        for fd, session in dirty.items():
            if self._sessions.get(fd) is not session:
                continue
            try:
                if session.connection is not None and session.connection.has_output:
                    session.connection.write()
            except ConnectionEnded as ended:
                self._end(session, str(ended))
            else:
                self._watch(fd, session)
        return bool(dirty)

    def _queue_patient(self, session: Session, frame: bytes) -> None:
        assert session.connection is not None
        session.connection.queue_patient(frame)
        if not self._patient:
            self._hurry_at = time.monotonic() + PATIENCE_SECONDS
        self._patient[session.fd] = session

    def _queue(self, session: Session, item: Outgoing | bytes) -> None:
        assert session.connection is not None
        if isinstance(item, bytes):
            session.connection.queue_control(item)
        else:
            session.connection.queue_piece(item)
        self._dirty[session.fd] = session

    def _watch(self, fd: int, session: Session) -> None:
        wanted = session.wanted_events()
        if wanted != session.events or session.phase is Phase.ENCRYPTING:
            session.events = wanted
            self._epoll.modify(fd, wanted)

    # Readiness.

    def ready(self, fd: int, mask: int, now: float) -> None:
        """Epoll says that something can be done with `fd`."""
        if fd in self._listeners:
            self._accept(self._listeners[fd], now)
            return
        session = self._sessions.get(fd)
        if session is None:
            return
        try:
            if session.connection is None:
                session.advance()
            elif mask & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                session.liveness.heard(now)
                before = session.connection.received_bytes
                for prefix, meta, data in session.connection.read():
                    if session.phase is Phase.READY and prefix.kind not in _HANDSHAKE:
                        self._exchange.frame(session, prefix, meta, data)
                    else:
                        self._shake_hands(session, prefix, meta, now)
                    if self._sessions.get(fd) is not session:
                        return
                received = session.connection.received_bytes - before
                self._received_bytes += received
                self._most_bytes = max(self._most_bytes, received)
                if mask & select.EPOLLHUP and not mask & select.EPOLLIN:
                    raise ConnectionEnded("hung up")
            self._dirty[fd] = session
        except ConnectionEnded as ended:
            self._end(session, str(ended))
        except ProtocolError as error:
            self.reject(session, error)
        except Exception as error:
            # The handler of one connection: a bug that one peer can touch must not end the thread of all.
            log.exception("relay_connection_failed", error, node=session.node)
            self._end(session, "an error of ours, see the log")

    def reject(self, session: Session, error: P2PDistError) -> None:
        """Close a connection for its peer's fault, and say so."""
        try:
            address = str(session.sock.getpeername()[0])
        except OSError:
            address = "?"
        log.warning("relay_peer_rejected", node=session.node, address=address, reason=str(error))
        self._exchange.rejected(session.node, address, str(error))
        self._end(session, str(error))

    def _shake_hands(self, session: Session, prefix: Prefix, meta: memoryview, now: float) -> None:
        if session.phase is Phase.GREETING:
            if session.greet(prefix.kind, meta):
                self._greeted(session, now)
        else:
            raise ProtocolError(f"a {prefix.kind.name} frame after the handshake")

    # Connections.

    def _accept(self, listener: socket.socket, now: float) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("relay_accept_failed", reason=str(error))
                self._epoll.unregister(listener.fileno())
                self._resting.append(listener)
                return
            if not self._secrets:
                sock.close()
                continue
            self._make_room_for_a_stranger()
            self._add(sock, Phase.SNIFFING, now, None, False)

    def _make_room_for_a_stranger(self) -> None:
        """Whoever says nothing must go for whoever may: members greet at once."""
        sessions = self._sessions.values()
        strangers = [session for session in sessions if session.phase is not Phase.READY and not session.dialled_node]
        if len(strangers) >= _MAX_STRANGERS:
            self._end(min(strangers, key=lambda session: session.deadline), "too many strangers at once")

    def _add(self, sock: socket.socket, phase: Phase, now: float, node: str | None, wants_tls: bool) -> Session:
        sock.setblocking(False)
        handshake = Handshake(self._me, self._secrets, node is not None, self._nodes.__contains__)
        deadline = now + (DIAL_SECONDS if phase is Phase.DIALLING else HANDSHAKE_SECONDS)
        written = self._exchange.written
        session = Session(sock, phase, deadline, handshake, self._tls, self._buffer, written, node, wants_tls)
        session.liveness.heard(now)
        self._sessions[session.fd] = session
        session.events = session.wanted_events()
        self._epoll.register(session.fd, session.events)
        return session

    def _dial(self, link: Link, now: float) -> None:
        address = self._nodes.get(link.key.node)
        if address is None or not self._secrets:
            link.failed(now)
            return
        try:
            sock = _connecting(address)
        except (OSError, ValueError) as error:
            log.warning("relay_dial_failed", node=link.key.node, host=address.host, reason=str(error))
            link.failed(now)
            return
        link.dialled_at = now
        link.dialling = self._add(sock, Phase.DIALLING, now, link.key.node, link.key.secure)

    def _greeted(self, session: Session, now: float) -> None:
        if session.node not in self._nodes:
            raise ProtocolError(f"the lease of {session.node} ended while it shook hands")
        key = LinkKey(session.node, session.secure)
        link = self._links.get(key)
        if link is None:
            link = self._links[key] = Link(key)
        if link.dialling is session:
            link.dialling = None
        session.liveness.heard(now)
        link.reached()
        if link.session is not None:
            link.spares.append(session)
            return
        link.session = session
        self.peers += 1
        for item in link.take_waiting():
            self._queue(session, item)
        self._exchange.back(session.node)

    def _end(self, session: Session, reason: str) -> None:
        """Close a connection; what waited for it goes to the heirs."""
        fd = session.fd
        if self._sessions.get(fd) is not session:
            return
        del self._sessions[fd]
        self._dirty.pop(fd, None)
        self._patient.pop(fd, None)
        self._epoll.unregister(fd)
        session.close()
        key = LinkKey(session.node or session.dialled_node or "", session.secure or session.wants_tls)
        log.debug("relay_connection_ended", node=key.node, phase=session.phase.name.lower(), reason=reason)
        link = self._links.get(key)
        if link is None:
            return
        if session in link.spares:
            # The other end may have answered over this one.
            link.spares.remove(session)
            self._exchange.reset(key.node)
            return
        if link.dialling is session:
            link.dialling = None
            link.failed(time.monotonic())
            if link.session is not None:
                return
        elif link.session is session:
            self.peers -= 1
            link.session = link.spares.pop(0) if link.spares else None
            self.peers += link.session is not None
        else:
            return
        link.waiting.clear()
        if link.session is not None:
            self._exchange.reset(key.node)
        else:
            self._lost(key)

    def _lost(self, key: LinkKey) -> None:
        """A link has no connection; its node is still there for what the other link carries."""
        self._exchange.lost(key.node)
        other = self._links.get(LinkKey(key.node, not key.secure))
        if other is not None and other.session is not None:
            self._exchange.back(key.node)

    # Time.

    def needs_ticks(self, busy: bool) -> bool:
        """Whether `tick` has something to watch; `busy`: there are relays, for which lost links are dialled again."""
        if self._resting:
            return True
        return any(session.phase is not Phase.READY for session in self._sessions.values()) or any(
            link.session is None and self._is_wanted(link, busy) for link in self._links.values()
        )

    def tick(self, now: float, busy: bool) -> None:
        """End slow handshakes, dial lost links again, find out who stands still."""
        resting, self._resting = self._resting, []
        for listener in resting:
            self._epoll.register(listener.fileno(), select.EPOLLIN)
        for session in list(self._sessions.values()):
            if session.phase is not Phase.READY and now > session.deadline:
                if session.held:
                    self.reject(session, ProtocolError("the peer holds no lease of our tracker"))
                else:
                    self._end(session, "the handshake took too long")
        for link in list(self._links.values()):
            if link.session is not None:
                self._check(link, link.session, now)
            elif link.dialling is None and self._is_wanted(link, busy):
                self.ensure(link.key)
            elif link.waiting and link.is_late(now):
                link.waiting.clear()
                self._exchange.silent(link.key.node)
                self._lost(link.key)

    def _is_wanted(self, link: Link, busy: bool) -> bool:
        return link.key.node in self._nodes and (link.key.node in self._kept or busy)

    def _check(self, link: Link, session: Session, now: float) -> None:
        """Ask a silent peer that owes us something for a sign of life; it is lost when it gives none.

        All its connections are asked. When another one answers, only this one stands still and is closed at once; when
        none does, the node is given up, and after a while its connections.
        """
        if session.frozen_at is not None:
            if session.liveness.heard_at > session.frozen_at:
                session.frozen_at = None
            elif now - session.frozen_at > CLOSE_FROZEN_SECONDS:
                for frozen in [*link.spares, session]:
                    self._end(frozen, "nothing came over it")
            return
        if not self._exchange.owes(link.key.node):
            session.owing = False
            return
        if not session.owing:
            session.owing = True
            session.liveness.owing_since(now)
        connection = session.connection
        assert connection is not None
        if session.liveness.wants_ping(now):
            for asked in [session, *link.spares]:
                self._ping(asked, now)
        elif session.liveness.is_frozen(now, *_delivered(connection)):
            pinged_at = session.liveness.pinged_at or now
            living = [spare for spare in link.spares if spare.liveness.heard_at > pinged_at]
            if living:
                link.spares.sort(key=lambda spare: spare.liveness.heard_at, reverse=True)
                self._end(session, "nothing came over it")
                return
            log.warning("relay_peer_frozen", node=link.key.node)
            session.frozen_at = now
            connection.take_queued()
            self._exchange.silent(link.key.node)
            self._lost(link.key)

    def _ping(self, session: Session, now: float) -> None:
        if session.connection is not None:
            self._queue(session, encode_tag(Kind.PING, 0))
            session.liveness.pinged(now, session.connection.mark_bytes)

    def start_afresh(self, reason: str) -> None:
        """Close all connections, and with them all that was queued."""
        for session in list(self._sessions.values()):
            if session.phase is Phase.READY:
                self._end(session, reason)

    def close(self) -> None:
        """Close everything, without a word to anybody."""
        for session in self._sessions.values():
            session.close()
        for listener in self._listeners.values():
            listener.close()
        self._sessions.clear()


def _connecting(address: NodeAddress) -> socket.socket:
    """A socket on its way to `address`; raises ValueError for a name, since looking it up would hold everything up."""
    ip = ipaddress.ip_address(address.host)
    sock = socket.socket(socket.AF_INET6 if ip.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        sock.connect((address.host, address.port))
    except BlockingIOError:
        pass
    except OSError:
        sock.close()
        raise
    return sock


def _delivered(connection: Connection) -> tuple[int, bool]:
    """How many bytes of a connection have arrived at the peer's host, and whether nothing is on its way."""
    unsent = connection.unsent_bytes
    return connection.sent_bytes - unsent, not unsent and not connection.has_output
