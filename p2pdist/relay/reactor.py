"""The relay's thread: the only owner of transfers, the engine and the switchboard.

One epoll loop. The switchboard turns sockets into frames; here frames become calls of the engine (the rules), and the
engine's actions frames. Commands come in through a mailbox, notices go out through a callback; nothing else is shared.
Hashing, writing and sending happen here too: for pieces of this size a hand-over to another thread costs more than it
frees.
"""

import os
import random
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from p2pdist.core.errors import DigestInvalid, ProtocolError, StoreError
from p2pdist.pki.vouch import Verifier, signer_of
from p2pdist.relay.dealer import Dealer
from p2pdist.relay.dealing import Lane
from p2pdist.relay.engine import Ack, Action, Credit, Engine, Offer, Push, Refuse, Want
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
from p2pdist.relay.lag import LagWatch
from p2pdist.relay.links import LinkKey
from p2pdist.relay.notices import (
    BadPiece,
    DealsDone,
    EpochBegan,
    Notice,
    PeerLags,
    PeerRejected,
    PeerSilent,
    StoodStill,
    TransferFailed,
)
from p2pdist.relay.noting import Noting
from p2pdist.relay.pacing import Pace
from p2pdist.relay.parking import ClosedGenerations, Parked, ParkingLot
from p2pdist.relay.session import Session, TlsContexts
from p2pdist.relay.spans import Ring
from p2pdist.relay.switchboard import Switchboard
from p2pdist.relay.transfer import Outgoing, Transfer
from p2pdist.telemetry.events import EventLog
from p2pdist.telemetry.logging import get_logger

TICK_SECONDS = 0.1
OWN_FREEZE_SECONDS = 1.0
_PIECE, _ACK = Kind.PIECE, Kind.ACK

log = get_logger("relay")


class Reactor:
    """All state of the relay; its methods run in the relay's thread only, but for `post` and `run`."""

    def __init__(
        self,
        me: str,
        listeners: Iterable[socket.socket],
        verifier: Verifier,
        notify: Callable[[Notice], None],
        tls: TlsContexts | None,
        events: EventLog | None = None,
    ) -> None:
        self.me = me
        self.engine = Engine(me, random.Random())
        self.engine.on_takeover = self._taken_over
        self._noting = Noting(me, self.engine, events) if events is not None else None
        self._verifier = verifier
        self._notify = notify
        self._transfers: dict[int, Transfer] = {}
        self._dealers: dict[int, Dealer] = {}
        self._retiring: list[Transfer] = []
        self._watched: set[int] = set()
        self._alone = False
        self._distrusted: set[str] = set()
        self._parking = ParkingLot()
        self._closed = ClosedGenerations()
        self._lag = LagWatch()
        self._mailbox: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)
        self._resting = select.poll()
        self._resting.register(self._wake, select.POLLIN)
        self._pace = Pace()
        self.switchboard = Switchboard(me, listeners, tls, self, self._epoll)
        self._stopping = False
        self._door = threading.Lock()
        self._closed_for_good = False
        self._next_tick = 0.0

    def post(self, command: Callable[[], None]) -> None:
        """Have `command` run in the relay's thread; called by other threads."""
        with self._door:
            if not self._closed_for_good:
                self._mailbox.append(command)
                os.eventfd_write(self._wake, 1)

    def run(self) -> None:
        """Work until `stop`; the body of the relay's thread."""
        last = time.monotonic()
        try:
            while not self._stopping:
                wait = TICK_SECONDS if self._needs_ticks() else None
                self._rest(last)
                events = self._epoll.poll(self.switchboard.patience(last, wait))
                now = time.monotonic()
                if wait is not None and now - last > OWN_FREEZE_SECONDS + TICK_SECONDS:
                    log.warning("relay_stood_still", seconds=round(now - last, 2))
                    self.switchboard.start_afresh("this node stood still, and its spans were taken over")
                    self._notify(StoodStill())
                try:
                    self._round(events, now)
                except Exception as error:
                    # One round of a background loop: a bug must not end the thread that all blobs depend on.
                    log.exception("relay_round_failed", error)
                last = time.monotonic()
        finally:
            self._close()

    def _rest(self, now: float) -> None:
        """Let bytes gather, if they come steadily; commands come through meanwhile."""
        received_bytes, most_bytes = self.switchboard.take_received()
        left_bytes = sum(transfer.left_bytes for transfer in self._transfers.values())
        rest_seconds = self._pace.rest_seconds(now, received_bytes, most_bytes, left_bytes)
        if rest_seconds:
            self._resting.poll(rest_seconds * 1000)

    def _round(self, events: list[tuple[int, int]], now: float) -> None:
        if any(fd == self._wake for fd, _ in events):
            os.eventfd_read(self._wake)
        while self._mailbox:
            self._mailbox.popleft()()
        for fd, mask in events:
            if fd != self._wake:
                self.switchboard.ready(fd, mask, now)
        if now >= self._next_tick:
            self._next_tick = now + TICK_SECONDS
            self._tick(now)
        self._act()
        while self.switchboard.flush(now):
            self._act()

    def _needs_ticks(self) -> bool:
        busy = bool(self._transfers)
        return busy or bool(self._parking or self._retiring) or self.switchboard.needs_ticks(busy)

    def _tick(self, now: float) -> None:
        self.switchboard.tick(now, busy=bool(self._transfers))
        self.engine.tick()
        for node in self._lag.tick(self.switchboard.queues()):
            self._notify(PeerLags(node))
        for parked in self._parking.expired(now):
            self._refuse(parked)
        retiring, self._retiring = self._retiring, []
        for transfer in retiring:
            self._retire(transfer)
        for generation in list(self._watched):
            if self._dealers[generation].finished:
                self._watched.discard(generation)
                self._notify(DealsDone(generation))

    def _close(self) -> None:
        with self._door:
            self._closed_for_good = True
        self.switchboard.close()
        for transfer in [*self._transfers.values(), *self._retiring]:
            transfer.end()
        self._epoll.close()
        os.close(self._wake)

    # Commands.

    def stop(self) -> None:
        """End the loop."""
        self._stopping = True

    def trust(self, keys: Iterable[Ed25519PublicKey]) -> None:
        """Accept pieces that these keys vouch for, besides those known before."""
        for key in keys:
            self._verifier.add(key)

    def set_alone(self, alone: bool) -> None:
        """Whether the tracker is gone, so that what agents vouch for is taken too."""
        self._alone = alone
        if alone:
            for parked in self._parking.take_all():
                if self.switchboard.is_open(parked.session):
                    try:
                        self._judge_again(parked)
                    except ProtocolError as error:
                        self.switchboard.reject(parked.session, error)

    def distrust(self, nodes: Iterable[str]) -> None:
        """Take nothing more that these agents vouch for."""
        self._distrusted.update(nodes)

    def open(self, transfer: Transfer) -> None:
        """Take part in a generation."""
        generation = transfer.spec.generation
        if generation in self._transfers:
            transfer.end()
            return
        self._transfers[generation] = transfer
        transfer.agents = _Agents(self.engine, generation, self._distrusted)
        self._closed.discard(generation)
        self._dealers[generation] = Dealer(self.engine, generation, transfer.spec.layout.count, transfer)
        self.engine.open(generation, transfer, transfer.spec.layout.piece_bytes, transfer.spec.fan)

    def add_ring(self, generation: int, ring: Ring) -> None:
        """Learn an epoch's members, connect to those that are sent to, and judge what had to wait for it."""
        transfer = self._transfers.get(generation)
        if transfer is None:
            return
        self.engine.add_ring(generation, ring)
        self._connect_along(transfer, ring)
        if ring.is_leaf(self.me):
            self._soften(generation)
        for parked in self._parking.take(generation, ring.epoch):
            if self.switchboard.is_open(parked.session):
                try:
                    self._judge(parked.session, parked.frame, parked.data)
                except ProtocolError as error:
                    self.switchboard.reject(parked.session, error)

    def _soften(self, generation: int) -> None:
        """We are slow: offer what we haven't begun to send, since others have our spans now."""
        for outgoing in self.switchboard.take_queued(generation):
            offer = self.engine.soften(outgoing.frame.tag)
            if offer is not None:
                self._carry_out(offer)

    def start_dealing(
        self, generation: int, number: int, ring: Ring, pieces: frozenset[int] | None, by_offer: bool, lane: Lane
    ) -> None:
        """See `Dealer.start`."""
        transfer = self._transfers.get(generation)
        if transfer is None:
            return
        transfer.deals = True
        dealt = self._dealers[generation].start(number, ring, pieces, by_offer, lane)
        self._meet_roots(transfer, ring, lane)
        self._notify(EpochBegan(generation, ring.epoch, tuple(dealt)))

    def deal(self, generation: int, pieces: list[tuple[int, bytes, bytes]]) -> None:
        """Deal pieces (index, hash, vouch) that the file has, now or when somebody is to be dealt them."""
        transfer = self._transfers.get(generation)
        if transfer is None:
            return
        for index, hash_, vouch in pieces:
            if index not in transfer:
                transfer.vouch_for(index, hash_, vouch)
                self._dealers[generation].arrived(index)

    def inject(self, generation: int, epoch: int, pieces: list[tuple[int, bytes, bytes]], by_offer: bool) -> None:
        """Be the root of pieces (index, hash, vouch of ours) that the file has from elsewhere, if they didn't come."""
        transfer = self._transfers.get(generation)
        if transfer is None:
            return
        for index, hash_, vouch in pieces:
            if index not in transfer:
                transfer.vouch_for(index, hash_, vouch)
                self.engine.root(generation, epoch, index, by_offer)
                self._dealers[generation].arrived(index)

    def start_fill(self, generation: int, ring: Ring, indices: list[int], by_offer: bool, lane: Lane) -> None:
        """See `Dealer.fill`."""
        transfer = self._transfers.get(generation)
        if transfer is None:
            return
        transfer.fills.add(ring.epoch)
        self._dealers[generation].fill(ring, indices, by_offer, lane)
        self._meet_roots(transfer, ring, lane)

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
        del self._dealers[generation]
        self.engine.close(generation)
        self.switchboard.drop_generation(generation)
        self._retire(transfer)

    def _retire(self, transfer: Transfer) -> None:
        """Close the file once no frame under way needs it."""
        if self.switchboard.sends_from(transfer.fd):
            self._retiring.append(transfer)
        else:
            transfer.end()

    def _connect_along(self, transfer: Transfer, ring: Ring) -> None:
        """Have links to all that a member may send to before there is anything to send."""
        if self.me in ring:
            self._meet(transfer, ring.children_of(self.me, transfer.spec.fan))

    def _meet_roots(self, transfer: Transfer, ring: Ring, lane: Lane) -> None:
        self._meet(transfer, lane.roots(ring))

    def _meet(self, transfer: Transfer, nodes: Iterable[str]) -> None:
        for node in nodes:
            if node != self.me:
                self.switchboard.meet(LinkKey(node, transfer.spec.private))

    # What the switchboard tells.

    def written(self, outgoing: Outgoing) -> None:
        """See `Exchange`."""
        self.engine.written(outgoing.frame.tag)
        if self._noting is not None:
            self._noting.sent(outgoing)

    def lost(self, node: str) -> None:
        """See `Exchange`."""
        self.engine.lost(node)

    def silent(self, node: str) -> None:
        """See `Exchange`."""
        self._notify(PeerSilent(node))

    def back(self, node: str) -> None:
        """See `Exchange`."""
        self.engine.back(node)

    def reset(self, node: str) -> None:
        """See `Exchange`."""
        self.engine.reset(node)

    def owes(self, node: str) -> bool:
        """See `Exchange`."""
        return self.engine.owed_by(node)

    def rejected(self, node: str, address: str, reason: str) -> None:
        """See `Exchange`."""
        self._notify(PeerRejected(node, address, reason))

    def frame(self, session: Session, prefix: Prefix, meta: memoryview, data: memoryview) -> None:
        """See `Exchange`."""
        node, kind = session.node, prefix.kind
        self.engine.back(node)
        if kind is _PIECE:
            self._on_piece(session, decode_piece(prefix.flags, meta), data)
        elif kind is _ACK:
            self.engine.acked(node, decode_tag(meta))
        elif kind is Kind.CREDIT:
            self.engine.credited(node, decode_tag(meta))
        elif kind is Kind.OFFER:
            self._on_offer(session, decode_offer(meta))
        elif kind is Kind.WANT:
            self.engine.wanted(node, decode_tag(meta))
        elif kind is Kind.REFUSE:
            self.engine.refused(node, decode_tag(meta))
        elif kind is Kind.PING:
            self.switchboard.send(session, encode_tag(Kind.PONG, decode_tag(meta)))

    # Frames in.

    def _on_piece(self, session: Session, frame: PieceFrame, data: memoryview) -> None:
        transfer = self._transfers.get(frame.generation)
        if transfer is not None and self.engine.knows(frame.generation, frame.epoch):
            self._judge_piece(session, transfer, frame, data)
        elif frame.generation not in self._closed:
            self._park(Parked(session, frame, bytes(data)))
        elif frame.offset == 0:
            self.switchboard.send(session, encode_tag(Kind.REFUSE, frame.tag))

    def _on_offer(self, session: Session, frame: OfferFrame) -> None:
        if frame.generation in self._closed:
            self.switchboard.send(session, encode_tag(Kind.REFUSE, frame.tag))
        elif self.engine.knows(frame.generation, frame.epoch):
            self._judge(session, frame, b"")
        else:
            self._park(Parked(session, frame, b""))

    def _park(self, parked: Parked) -> None:
        """Let a frame wait for the word that explains it."""
        for late in self._parking.add(parked, time.monotonic()):
            self._refuse(late)

    def _judge_again(self, parked: Parked) -> None:
        if isinstance(parked.frame, OfferFrame):
            self._on_offer(parked.session, parked.frame)
        else:
            self._on_piece(parked.session, parked.frame, memoryview(parked.data))

    def _is_provisional(self, session: Session, frame: PieceFrame | OfferFrame, data: memoryview | bytes) -> bool:
        """Whether an agent vouches for a piece, and can't be believed at the moment; it is put off, or refused."""
        signer = signer_of(frame.vouch)
        if not signer:
            return False
        if signer in self._distrusted:
            self.switchboard.send(session, encode_tag(Kind.REFUSE, frame.tag))
        elif not self._alone:
            self._park(Parked(session, frame, bytes(data)))
        else:
            return False
        return True

    def _refuse(self, parked: Parked) -> None:
        if isinstance(parked.frame, OfferFrame) or parked.frame.offset == 0:
            self.switchboard.send(parked.session, encode_tag(Kind.REFUSE, parked.frame.tag))

    def _judge(self, session: Session, frame: PieceFrame | OfferFrame, data: memoryview | bytes) -> None:
        """Act on a frame whose generation and epoch are known; raises `ProtocolError` when it doesn't fit."""
        transfer = self._transfers.get(frame.generation)
        if transfer is None:
            self.switchboard.send(session, encode_tag(Kind.REFUSE, frame.tag))
            return
        if isinstance(frame, OfferFrame):
            self._judge_offer(session, transfer, frame)
        else:
            self._judge_piece(session, transfer, frame, memoryview(data))

    def _judge_piece(self, session: Session, transfer: Transfer, frame: PieceFrame, data: memoryview) -> None:
        if transfer.spec.private and not session.secure:
            raise ProtocolError(f"bytes of a private blob, {transfer.spec.digest}, on a connection that isn't TLS")
        length = transfer.check_part(frame, len(data))
        if frame.offset == 0:
            self.engine.admit(
                session.node, frame.generation, frame.piece, frame.epoch, frame.root, frame.span, frame.offered
            )
            if len(data) == length:
                self._take_piece(session, transfer, frame, data)
                return
        whole = session.add_part(frame, data, length)
        if whole is not None:
            self._take_piece(session, transfer, *whole)

    def _judge_offer(self, session: Session, transfer: Transfer, frame: OfferFrame) -> None:
        if not 0 <= frame.piece < transfer.spec.layout.count:
            raise ProtocolError(f"an offer of piece {frame.piece} of {transfer.spec.digest}")
        self.engine.admit(
            session.node, frame.generation, frame.piece, frame.epoch, frame.root, frame.span, offered=True
        )
        if self._is_provisional(session, frame, b""):
            return
        if frame.piece not in transfer:
            transfer.adopt(self._verifier, frame.piece, frame.hash, frame.vouch)
            if frame.piece in transfer:
                self._dealers[frame.generation].arrived(frame.piece)
        offer = Offer(self.me, frame.tag, frame.generation, frame.piece, frame.epoch, frame.root, frame.span)
        self.engine.offered(session.node, offer)

    def _take_piece(self, session: Session, transfer: Transfer, frame: PieceFrame, data: memoryview) -> None:
        if self._is_provisional(session, frame, data):
            return
        generation = transfer.spec.generation
        known = frame.piece in transfer
        try:
            new = transfer.accept(self._verifier, frame, data)
        except ProtocolError as error:
            transfer.counts.bad_pieces += 1
            self._notify(BadPiece(generation, session.node, frame.piece, str(error)))
            raise
        except (DigestInvalid, StoreError) as error:
            log.error("relay_write_failed", digest=transfer.spec.digest, reason=str(error))
            self.switchboard.send(session, encode_tag(Kind.REFUSE, frame.tag))
            self._notify(TransferFailed(generation, error))
            self.close_generation(generation)
            return
        if new:
            counts, size_bytes = transfer.counts, len(data)
            if self.switchboard.is_kept(session.node):
                counts.dealt_bytes += size_bytes
            else:
                counts.relayed_bytes += size_bytes
            counts.received_from[session.node] += size_bytes
        if self._noting is not None:
            self._noting.arrived(session.node, transfer, frame, len(data), new)
        arrived = Push(self.me, frame.tag, generation, frame.piece, frame.epoch, frame.root, frame.span, frame.offered)
        self.engine.pushed(session.node, arrived)
        if not known:
            self._dealers[generation].arrived(frame.piece)

    def _taken_over(self, lost: str, generation: int, index: int) -> None:
        transfer = self._transfers.get(generation)
        if transfer is not None:
            transfer.counts.taken_over += 1
            if self._noting is not None:
                self._noting.taken_over(lost, transfer, index)

    # Actions out.

    def _act(self) -> None:
        while actions := self.engine.take_actions():
            for action in actions:
                self._carry_out(action)

    def _carry_out(self, action: Action) -> None:
        match action:
            case Push():
                transfer = self._transfers[action.generation]
                self.switchboard.send_along(LinkKey(action.to, transfer.spec.private), transfer.outgoing(action))
            case Ack(to, tag):
                self.switchboard.reply(to, encode_tag(_ACK, tag), may_wait=True)
            case Offer():
                transfer = self._transfers[action.generation]
                offer = OfferFrame(
                    action.generation,
                    action.epoch,
                    action.index,
                    action.root,
                    action.span,
                    action.tag,
                    *transfer.proofs(action.index),
                )
                self.switchboard.send_along(LinkKey(action.to, transfer.spec.private), encode_offer(offer))
            case Want(to, tag):
                self.switchboard.reply(to, encode_tag(Kind.WANT, tag))
            case Refuse(to, tag):
                self.switchboard.reply(to, encode_tag(Kind.REFUSE, tag))
            case Credit(to, tag):
                self.switchboard.reply(to, encode_tag(Kind.CREDIT, tag))


class _Agents:
    """Those whose word counts for one generation when the tracker is gone: its members, but for proven liars."""

    def __init__(self, engine: Engine, generation: int, distrusted: set[str]) -> None:
        self._engine = engine
        self._generation = generation
        self._distrusted = distrusted

    def __contains__(self, node: object) -> bool:
        return (
            isinstance(node, str) and node not in self._distrusted and self._engine.has_member(self._generation, node)
        )
