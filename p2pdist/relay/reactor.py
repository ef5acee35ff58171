"""The relay's thread: the only owner of data sockets, transfers and the engine.

One epoll loop. Sockets turn into frames, frames into calls of the engine (the rules), the engine's actions into frames.
Commands come in through a mailbox, notices go out through a callback; nothing else is shared. Hashing, writing and
sending happen here too: for pieces of this size a hand-over to another thread costs more than it frees.
"""

import contextlib
import os
import random
import select
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from p2pdist.core.errors import P2PDistError, ProtocolError, StoreError
from p2pdist.pki.vouch import Verifier
from p2pdist.relay.connection import ConnectionEnded, Outgoing
from p2pdist.relay.engine import Ack, Action, Credit, Engine, Offer, Push, Want
from p2pdist.relay.frames import (
    Kind,
    OfferFrame,
    PieceFrame,
    Prefix,
    decode_offer,
    decode_piece,
    decode_tag,
    encode_offer,
    encode_tag,
)
from p2pdist.relay.handshake import Handshake
from p2pdist.relay.links import Link, LinkKey
from p2pdist.relay.notices import BadPiece, DealsDone, EpochBegan, Notice, PeerRejected, TransferFailed
from p2pdist.relay.parking import ClosedGenerations, Parked, ParkingLot
from p2pdist.relay.session import DIAL_SECONDS, HANDSHAKE_SECONDS, Phase, Session, TlsContexts
from p2pdist.relay.spans import Ring
from p2pdist.relay.transfer import Transfer
from p2pdist.telemetry.logging import get_logger

TICK_SECONDS = 0.1
OWN_FREEZE_SECONDS = 1.0
_MAX_STRANGERS = 256

log = get_logger("relay")


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """Where a node of the fleet takes data connections."""

    host: str
    port: int


class Reactor:
    """All state of the relay; its methods run in the relay's thread only."""

    def __init__(
        self,
        me: str,
        listeners: Iterable[socket.socket],
        verifier: Verifier,
        notify: Callable[[Notice], None],
        tls: TlsContexts | None,
    ) -> None:
        self.me = me
        self.engine = Engine(me, random.Random())
        self._verifier = verifier
        self._notify = notify
        self._tls = tls
        self._secrets: list[bytes] = []
        self._nodes: dict[str, NodeAddress] = {}
        self._kept: set[str] = set()
        self._transfers: dict[int, Transfer] = {}
        self._parking = ParkingLot()
        self._closed = ClosedGenerations()
        self._links: dict[LinkKey, Link] = {}
        self._sessions: dict[int, Session] = {}
        self._listeners = {sock.fileno(): sock for sock in listeners}
        self._dirty: OrderedDict[int, Session] = OrderedDict()
        self._watched: set[int] = set()
        self._retiring: list[Transfer] = []
        self._mailbox: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._stopping = False
        self._next_tick = 0.0
        self.peers = 0

    # The mailbox; the only two methods that other threads may call.

    def post(self, command: Callable[[], None]) -> None:
        """Have `command` run in the relay's thread."""
        self._mailbox.append(command)
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake, 1)

    def run(self) -> None:
        """Work until `stop`; the body of the relay's thread."""
        self._epoll.register(self._wake, select.EPOLLIN)
        for fd in self._listeners:
            self._epoll.register(fd, select.EPOLLIN)
        last = time.monotonic()
        try:
            while not self._stopping:
                wait = TICK_SECONDS if self._needs_ticks() else None
                events = self._epoll.poll(wait)
                now = time.monotonic()
                if wait is not None and now - last > OWN_FREEZE_SECONDS + TICK_SECONDS:
                    self._thaw(now - last)
                self._round(events, now)
                last = now
        finally:
            self._close_all()

    def _round(self, events: list[tuple[int, int]], now: float) -> None:
        if any(fd == self._wake for fd, _ in events):
            os.eventfd_read(self._wake)
        while self._mailbox:
            self._mailbox.popleft()()
        for fd, mask in events:
            if fd in self._listeners:
                self._accept(self._listeners[fd], now)
            elif fd in self._sessions:
                self._on_ready(self._sessions[fd], mask, now)
        self._act()
        if now >= self._next_tick:
            self._next_tick = now + TICK_SECONDS
            self._tick(now)
            self._act()
        self._flush()

    # Commands.

    def stop(self) -> None:
        """End the loop."""
        self._stopping = True

    def set_secrets(self, secrets: list[bytes]) -> None:
        """The relay secrets that are valid, the one to prove with first."""
        self._secrets = secrets

    def trust(self, keys: Iterable[Ed25519PublicKey]) -> None:
        """Accept pieces that these keys vouch for, besides those known before."""
        for key in keys:
            self._verifier.add(key)

    def set_nodes(self, nodes: dict[str, NodeAddress], keep: set[str]) -> None:
        """Who holds a lease and where it listens; links to `keep` are held open. Others lose their connections."""
        self._nodes, self._kept = nodes, keep
        for session in list(self._sessions.values()):
            node = session.node or session.dialled_node
            if node is not None and node and node not in nodes:
                self._end(session, "its lease ended")
        for node in keep & nodes.keys():
            self._ensure(LinkKey(node, False))

    def open(self, transfer: Transfer) -> None:
        """Take part in a generation."""
        generation = transfer.spec.generation
        if generation in self._transfers:
            transfer.end()
            return
        self._transfers[generation] = transfer
        self._closed.discard(generation)
        self.engine.open(generation, transfer, transfer.spec.layout.piece_bytes, transfer.spec.fan)

    def add_ring(self, generation: int, ring: Ring) -> None:
        """Learn an epoch's members, connect to those that are sent to, and judge what had to wait for it."""
        transfer = self._transfers.get(generation)
        if transfer is None:
            return
        self.engine.add_ring(generation, ring)
        self._connect_along(transfer, ring)
        for parked in self._parking.take(generation, ring.epoch):
            if parked.session.phase is Phase.READY and parked.session.sock.fileno() in self._sessions:
                self._judge(parked.session, parked.frame, parked.data)

    def start_dealing(self, generation: int, ring: Ring) -> None:
        """Be the dealer of a generation over `ring`, in place of the ring before it."""
        transfer = self._transfers.get(generation)
        if transfer is None:
            return
        already = [index for index in range(transfer.spec.layout.count) if index in transfer]
        if transfer.dealing is None:
            self.engine.start_dealing(generation, ring)
            for index in already:
                self.engine.deal(generation, ring.epoch, index, transfer.by_offer)
            dealt: list[int] = []
        else:
            waiting = set(self.engine.waiting(generation, transfer.dealing))
            dealt = [index for index in already if index not in waiting]
            self.engine.replace_dealing(generation, transfer.dealing, ring)
        transfer.dealing = ring.epoch
        self._connect_along(transfer, ring)
        self._notify(EpochBegan(generation, ring.epoch, tuple(dealt)))

    def deal(self, generation: int, pieces: list[tuple[int, bytes, bytes]]) -> None:
        """Deal pieces (index, hash, vouch) that the file has, now or when there is a ring."""
        transfer = self._transfers.get(generation)
        if transfer is None:
            return
        for index, hash_, vouch in pieces:
            transfer.vouch_for(index, hash_, vouch)
            if transfer.dealing is not None:
                self.engine.deal(generation, transfer.dealing, index, transfer.by_offer)
            self._deal_deferred(transfer, index)

    def start_fill(self, generation: int, ring: Ring, indices: list[int]) -> None:
        """Deal these pieces over the ring of a fill, each as soon as it is here and vouched for."""
        transfer = self._transfers.get(generation)
        if transfer is None:
            return
        self.engine.start_dealing(generation, ring)
        self._connect_along(transfer, ring)
        for index in indices:
            if index in transfer:
                self.engine.deal(generation, ring.epoch, index)
            else:
                transfer.deferred.setdefault(index, []).append(ring.epoch)

    def _deal_deferred(self, transfer: Transfer, index: int) -> None:
        for epoch in transfer.deferred.pop(index, ()):
            self.engine.deal(transfer.spec.generation, epoch, index)

    def watch(self, generation: int) -> None:
        """Say `DealsDone` when nothing of this generation waits for us or for an acknowledgement."""
        if generation in self._transfers:
            self._watched.add(generation)

    def close_generation(self, generation: int) -> None:
        """End our part in a generation."""
        transfer = self._transfers.pop(generation, None)
        if transfer is None:
            return
        self._closed.add(generation)
        self._watched.discard(generation)
        self.engine.close(generation)
        for session in self._sessions.values():
            session.parts.pop(generation, None)
            if session.connection is not None:
                session.connection.drop_generation(generation)
        self._retired(transfer)

    def _retired(self, transfer: Transfer) -> None:
        """Close the file once no frame under way needs it."""
        if any(s.connection is not None and s.connection.sends_from(transfer.fd) for s in self._sessions.values()):
            self._retiring.append(transfer)
        else:
            transfer.end()

    # Connections.

    def _accept(self, listener: socket.socket, now: float) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("relay_accept_failed", reason=str(error))
                return
            strangers = sum(session.phase is not Phase.READY for session in self._sessions.values())
            if not self._secrets or strangers >= _MAX_STRANGERS:
                sock.close()
                continue
            self._add(sock, Phase.SNIFFING, now, None, False)

    def _add(self, sock: socket.socket, phase: Phase, now: float, node: str | None, wants_tls: bool) -> Session:
        sock.setblocking(False)
        handshake = Handshake(self.me, self._secrets, node is not None, self._nodes.__contains__)
        deadline = now + (DIAL_SECONDS if phase is Phase.DIALLING else HANDSHAKE_SECONDS)
        session = Session(sock, phase, deadline, handshake, self._tls, self._on_written, node, wants_tls)
        session.liveness.heard(now)
        self._sessions[sock.fileno()] = session
        session.events = session.wanted_events()
        self._epoll.register(sock.fileno(), session.events)
        return session

    def _connect_along(self, transfer: Transfer, ring: Ring) -> None:
        """Have links to all that this node may send to before there is anything to send."""
        if self.me in ring:
            targets = ring.children_of(self.me, transfer.spec.fan)
        elif self.me == ring.dealer:
            targets = list(ring.members)
        else:
            return
        for node in targets:
            if node != self.me:
                self._ensure(LinkKey(node, transfer.spec.private))

    def _ensure(self, key: LinkKey) -> Link:
        """The link of a node, dialling if it has no connection and its time has come."""
        link = self._links.get(key)
        if link is None:
            link = self._links[key] = Link(key)
        now = time.monotonic()
        if link.session is None and link.dialling is None and link.may_dial(now):
            self._dial(link, now)
        return link

    def _dial(self, link: Link, now: float) -> None:
        address = self._nodes.get(link.key.node)
        if address is None or not self._secrets:
            link.failed(now)
            return
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        sock.setblocking(False)
        try:
            sock.connect((address.host, address.port))
        except BlockingIOError:
            pass
        except OSError as error:
            sock.close()
            log.debug("relay_dial_failed", node=link.key.node, reason=str(error))
            link.failed(now)
            return
        link.dialling = self._add(sock, Phase.DIALLING, now, link.key.node, link.key.secure)

    def _end(self, session: Session, reason: str) -> None:
        """Close a connection; what waited for it goes to the heirs."""
        fd = session.sock.fileno()
        if self._sessions.pop(fd, None) is None:
            return
        self._dirty.pop(fd, None)
        self._epoll.unregister(fd)
        session.close()
        key = LinkKey(session.node or session.dialled_node or "", session.secure or session.wants_tls)
        log.debug("relay_connection_ended", node=key.node, phase=session.phase.name.lower(), reason=reason)
        link = self._links.get(key)
        if link is None:
            return
        if session in link.spares:
            link.spares.remove(session)
        if link.dialling is session:
            link.dialling = None
            link.failed(time.monotonic())
        if link.session is session:
            self.peers -= 1
            link.session = link.spares.pop(0) if link.spares else None
            self.peers += link.session is not None
        elif link.session is not None:
            return
        self._node_lost(link)

    def _node_lost(self, link: Link) -> None:
        link.waiting.clear()
        self.engine.lost(link.key.node)
        if link.session is not None:
            self.engine.back(link.key.node)

    def _ready(self, session: Session, now: float) -> None:
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
        self.engine.back(session.node)

    def _on_ready(self, session: Session, mask: int, now: float) -> None:
        try:
            if session.phase.value < Phase.GREETING.value:
                session.advance()
            elif mask & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                for prefix, meta, data in session.read():
                    self._on_frame(session, prefix, meta, data, now)
                    if session.sock.fileno() not in self._sessions:
                        return
                if mask & select.EPOLLHUP and not mask & select.EPOLLIN:
                    raise ConnectionEnded("hung up")
            self._touch(session)
        except ConnectionEnded as ended:
            self._end(session, str(ended))
        except ProtocolError as error:
            self._reject(session, error)

    def _reject(self, session: Session, error: P2PDistError) -> None:
        try:
            peer = str(session.sock.getpeername()[0])
        except OSError:
            peer = "?"
        log.warning("relay_peer_rejected", node=session.node, address=peer, reason=str(error))
        self._notify(PeerRejected(session.node, peer, str(error)))
        self._end(session, str(error))

    def _touch(self, session: Session) -> None:
        fd = session.sock.fileno()
        if fd in self._sessions:
            self._dirty[fd] = session

    def _flush(self) -> None:
        while self._dirty:
            fd, session = self._dirty.popitem(last=False)
            if fd not in self._sessions:
                continue
            try:
                if session.connection is not None and session.connection.has_output:
                    session.connection.write()
            except ConnectionEnded as ended:
                self._end(session, str(ended))
                self._act()
                continue
            wanted = session.wanted_events()
            if wanted != session.events or session.phase is Phase.ENCRYPTING:
                session.events = wanted
                self._epoll.modify(fd, wanted)
            self._act()

    def _close_all(self) -> None:
        for session in list(self._sessions.values()):
            session.close()
        for listener in self._listeners.values():
            listener.close()
        for transfer in [*self._transfers.values(), *self._retiring]:
            transfer.end()
        self._epoll.close()
        os.close(self._wake)

    # Frames in.

    def _on_frame(self, session: Session, prefix: Prefix, meta: memoryview, data: memoryview, now: float) -> None:
        session.liveness.heard(now)
        if session.phase is Phase.GREETING:
            if session.greet(prefix.kind, meta):
                self._ready(session, now)
            return
        node = session.node
        if self.engine.is_down(node):
            self.engine.back(node)
        match prefix.kind:
            case Kind.PIECE:
                self._on_piece(session, decode_piece(prefix.flags, meta), data)
            case Kind.OFFER:
                self._on_offer(session, decode_offer(meta))
            case Kind.WANT:
                self.engine.wanted(node, decode_tag(meta))
            case Kind.ACK:
                self.engine.acked(node, decode_tag(meta))
            case Kind.CREDIT:
                self.engine.credited(node, decode_tag(meta))
            case Kind.REFUSE:
                self.engine.refused(node, decode_tag(meta))
            case Kind.PING:
                self._send(session, encode_tag(Kind.PONG, decode_tag(meta)))
            case Kind.PONG:
                pass
            case _:
                raise ProtocolError(f"a {prefix.kind.name} frame after the handshake")
        self._act()

    def _on_piece(self, session: Session, frame: PieceFrame, data: memoryview) -> None:
        transfer = self._transfers.get(frame.generation)
        if transfer is None:
            if frame.generation in self._closed:
                if frame.offset == 0:
                    self._send(session, encode_tag(Kind.ACK, frame.tag))
                return
            self._parking.add(Parked(session, frame, bytes(data)), time.monotonic())
            return
        if not self.engine.knows(frame.generation, frame.epoch):
            self._parking.add(Parked(session, frame, bytes(data)), time.monotonic())
            return
        self._judge(session, frame, data)

    def _judge(self, session: Session, frame: PieceFrame | OfferFrame, data: memoryview | bytes) -> None:
        if isinstance(frame, OfferFrame):
            self._on_offer(session, frame)
            return
        transfer = self._transfers[frame.generation]
        if transfer.spec.private and not session.secure:
            raise ProtocolError(f"bytes of a private blob, {transfer.spec.digest}, on a connection that isn't TLS")
        transfer.check_part(frame, len(data))
        if frame.offset == 0:
            self.engine.admit(
                session.node, frame.generation, frame.piece, frame.epoch, frame.root, frame.span, frame.offered
            )
        whole = session.add_part(frame, memoryview(data), transfer.spec.layout.length(frame.piece))
        if whole is not None:
            self._take_piece(session, transfer, *whole)

    def _take_piece(self, session: Session, transfer: Transfer, frame: PieceFrame, data: memoryview) -> None:
        try:
            new = transfer.accept(self._verifier, frame, data)
        except ProtocolError as error:
            transfer.counts.bad_pieces += 1
            self._notify(BadPiece(transfer.spec.generation, session.node, frame.piece, str(error)))
            raise
        except StoreError as error:
            log.error("relay_write_failed", digest=transfer.spec.digest, reason=str(error))
            self._send(session, encode_tag(Kind.REFUSE, frame.tag))
            self._notify(TransferFailed(transfer.spec.generation, error))
            self.close_generation(transfer.spec.generation)
            return
        if new:
            if session.node in self._kept:
                transfer.counts.dealt_bytes += len(data)
            else:
                transfer.counts.relayed_bytes += len(data)
        arrived = Push(
            self.me, frame.tag, frame.generation, frame.piece, frame.epoch, frame.root, frame.span, frame.offered
        )
        self.engine.pushed(session.node, arrived)
        self._deal_deferred(transfer, frame.piece)

    def _on_offer(self, session: Session, frame: OfferFrame) -> None:
        if frame.generation in self._closed:
            self._send(session, encode_tag(Kind.ACK, frame.tag))
        elif not self.engine.knows(frame.generation, frame.epoch):
            self._parking.add(Parked(session, frame, b""), time.monotonic())
        else:
            transfer = self._transfers[frame.generation]
            if not 0 <= frame.piece < transfer.spec.layout.count:
                raise ProtocolError(f"an offer of piece {frame.piece} of {transfer.spec.digest}")
            self.engine.admit(
                session.node, frame.generation, frame.piece, frame.epoch, frame.root, frame.span, offered=True
            )
            offer = Offer(self.me, frame.tag, frame.generation, frame.piece, frame.epoch, frame.root, frame.span)
            self.engine.offered(session.node, offer)

    # Actions out.

    def _act(self) -> None:
        while actions := self.engine.take_actions():
            for action in actions:
                self._carry_out(action)

    def _carry_out(self, action: Action) -> None:
        match action:
            case Push():
                transfer = self._transfers[action.generation]
                hash_, vouch = transfer.hashes[action.index], transfer.vouches[action.index]
                assert hash_ is not None
                assert vouch is not None
                frame = PieceFrame(
                    action.generation,
                    action.epoch,
                    action.index,
                    0,
                    action.root,
                    action.span,
                    action.tag,
                    action.offered,
                    hash_,
                    vouch,
                )
                self._send_along(LinkKey(action.to, transfer.spec.private), Outgoing(transfer, frame))
            case Offer():
                transfer = self._transfers[action.generation]
                offer = OfferFrame(action.generation, action.epoch, action.index, action.root, action.span, action.tag)
                self._send_along(LinkKey(action.to, transfer.spec.private), encode_offer(offer))
            case Want(to, tag):
                self._reply(to, encode_tag(Kind.WANT, tag))
            case Ack(to, tag):
                self._reply(to, encode_tag(Kind.ACK, tag))
            case Credit(to, tag):
                self._reply(to, encode_tag(Kind.CREDIT, tag))

    def _send_along(self, key: LinkKey, item: Outgoing | bytes) -> None:
        link = self._ensure(key)
        if link.session is not None:
            self._queue(link.session, item)
        elif link.dialling is not None:
            link.waiting.append(item)
        else:
            self.engine.lost(key.node)

    def _reply(self, node: str, frame: bytes) -> None:
        """Send a small frame to a node over whatever connection there is; without one, its sender has given us up."""
        for secure in (False, True):
            link = self._links.get(LinkKey(node, secure))
            if link is not None and link.session is not None:
                self._send(link.session, frame)
                return

    def _queue(self, session: Session, item: Outgoing | bytes) -> None:
        assert session.connection is not None
        if isinstance(item, bytes):
            session.connection.queue_control(item)
        else:
            session.connection.queue_piece(item)
        self._touch(session)

    def _send(self, session: Session, frame: bytes) -> None:
        self._queue(session, frame)

    def _on_written(self, outgoing: Outgoing) -> None:
        self.engine.written(outgoing.frame.tag)

    # Time.

    def _needs_ticks(self) -> bool:
        return (
            bool(self._parking or self._watched or self._transfers or self._retiring)
            or any(session.phase is not Phase.READY for session in self._sessions.values())
            or any(self._wants_link(link) for link in self._links.values() if link.session is None)
        )

    def _wants_link(self, link: Link) -> bool:
        return link.key.node in self._nodes and (link.key.node in self._kept or bool(self._transfers))

    def _tick(self, now: float) -> None:
        for session in list(self._sessions.values()):
            if session.phase is not Phase.READY and now > session.deadline:
                self._end(session, "the handshake took too long")
        for link in list(self._links.values()):
            if link.session is not None:
                self._check(link, link.session, now)
            elif link.dialling is None and self._wants_link(link):
                self._ensure(link.key)
        for parked in self._parking.expired(now):
            if parked.session.sock.fileno() in self._sessions:
                self._send(parked.session, encode_tag(Kind.REFUSE, parked.frame.tag))
        retiring, self._retiring = self._retiring, []
        for transfer in retiring:
            self._retired(transfer)
        for generation in list(self._watched):
            if self._transfers[generation].dealing is None:
                continue
            if not self.engine.undealt(generation) and not self.engine.unfinished(generation):
                self._watched.discard(generation)
                self._notify(DealsDone(generation))

    def _check(self, link: Link, session: Session, now: float) -> None:
        """Ask a silent peer that owes us something for a sign of life; hand its spans on when it gives none."""
        if not self.engine.owed_by(link.key.node):
            session.owing = False
            return
        if not session.owing:
            session.owing = True
            session.liveness.owing_since(now)
        connection = session.connection
        assert connection is not None
        if session.liveness.wants_ping(now):
            session.liveness.pinged(now)
            self._send(session, encode_tag(Kind.PING, 0))
        elif session.liveness.is_frozen(now, connection.unsent_bytes):
            log.warning("relay_peer_frozen", node=link.key.node)
            connection.take_queued()
            self.engine.lost(link.key.node)

    def _thaw(self, seconds: float) -> None:
        """Drop what was queued while this process stood still: the others have taken our spans over."""
        log.warning("relay_stood_still", seconds=round(seconds, 2))
        for session in list(self._sessions.values()):
            if session.phase is Phase.READY:
                self._end(session, "this node stood still")
