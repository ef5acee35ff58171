"""The one connection to the tracker: it comes back by itself, and everything is pushed over it.

Owns the connection, its lease and the questions that wait for an answer; what the tracker says on its own goes to the
listener, in order. A connection that breaks fails the questions at once; whoever asked decides what to do. Whatever
goes wrong on a connection, by the tracker's fault or by a bug of ours, ends that connection and nothing else.
"""

import math
import random
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import trio

from p2pdist.agent.control_errors import Refused, error_of, farewell, reason_in, said_by_the_system
from p2pdist.core.errors import P2PDistError, ProtocolError, Unavailable
from p2pdist.pki.contexts import explain, require_peer
from p2pdist.pki.peers import PeerKind
from p2pdist.telemetry.logging import get_logger
from p2pdist.wire.channel import Channel
from p2pdist.wire.messages import (
    VERSION,
    Beat,
    Failed,
    FromTracker,
    Goodbye,
    Greeting,
    Hello,
    Left,
    ManifestIs,
    Message,
    Probe,
    RelayPlan,
    SizeIs,
    SwarmPlan,
    Welcome,
    Working,
)

CONNECT_SECONDS = 10.0
QUIET_SECONDS = 1.0
SIGN_SECONDS = 2.0
"""How long a tracker may owe an answer to a beat when something is awaited; a lease is for when nothing is."""
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 15.0
_PAUSE_GROWTH = 1.5
_REFUSED_PAUSE_SECONDS = 60.0
_FAREWELL_SECONDS = 1.0
_LONGEST_LEASE_SECONDS = 3600.0
_QUEUE_MESSAGES = 4096
_BATCH_MESSAGES = 64
_BEATS_A_LEASE = 3
Answer = ManifestIs | SizeIs | RelayPlan | SwarmPlan
log = get_logger("agent.control")


class Listener(Protocol):
    """Who is told what happens on the connection; called on the trio thread, one call after the other.

    What `connected` and `message` raise ends the connection.
    """

    def hello(self) -> Hello:
        """How this agent introduces itself."""

    def connected(self, welcome: Welcome, tracker: str, tracker_address: str) -> None:
        """A lease was granted; what this agent holds must be said anew."""

    def disconnected(self) -> None:
        """The connection is gone."""

    def message(self, message: Message) -> None:
        """The tracker says something that nobody asked for, or answers with a RelayPlan that somebody waits for."""


@dataclass(slots=True)
class _Question:
    """A question that waits for its answer; `patience` ends the wait, and moves when the tracker is still at it."""

    done: trio.Event
    patience: trio.CancelScope
    seconds: float
    answer: Answer | None = None
    error: P2PDistError | None = None

    def wait_on(self) -> None:
        """The tracker is at it: start counting anew."""
        self.patience.deadline = trio.current_time() + self.seconds


class ControlLink:
    """The connection to one tracker; `run` keeps it up."""

    def __init__(self, host: str, port: int, context: Callable[[], ssl.SSLContext | None], listener: Listener) -> None:
        self._host, self._port = host, port
        self._context = context
        self._listener = listener
        self._questions: dict[int, _Question] = {}
        self._next_id = 1
        self._queue: trio.MemorySendChannel[Message] | None = None
        self._scope: trio.CancelScope | None = None
        self._useless = ""
        self._asked_at: float | None = None
        self._heard_at = 0.0
        self._writing = False
        self._refused = False
        self.secure = False
        """Whether the connection that stands, or the last one, is mutual TLS."""
        self.since = trio.current_time()
        self.last_error = "not connected yet"
        self.connects = 0
        self.tracker = ""
        """The id of the tracker that was connected last."""
        self._changed = trio.Event()

    @property
    def address(self) -> str:
        """Where the tracker is, as configured."""
        return f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"

    @property
    def connected(self) -> bool:
        """Whether the lease was granted on a connection that stands."""
        return self._queue is not None

    def say(self, message: Message) -> None:
        """Queue a message; dropped when there is no connection, since everything is said anew on the next one.

        A tracker that doesn't read loses its connection: a message that is left out would never be made up for.
        """
        if self._queue is not None:
            try:
                self._queue.send_nowait(message)
            except trio.WouldBlock:
                self._give_up(f"it doesn't read: {_QUEUE_MESSAGES} messages wait for it")
            except trio.BrokenResourceError:
                return  # the connection is ending

    def demand_sign(self, quiet_seconds: float) -> None:
        """What should come doesn't: see whether a tracker that says nothing for `quiet_seconds` is there at all.

        To be called again while nothing comes. A connection on which it owes a sign of life for SIGN_SECONDS is closed:
        it hangs, or the way to it does.
        """
        now = trio.current_time()
        if self._queue is None or now - self._heard_at < quiet_seconds:
            return
        if self._asked_at is None:
            self._asked_at = now
            self.say(Beat())
        elif now - self._asked_at > SIGN_SECONDS:
            self._give_up(f"gave no sign of life for {SIGN_SECONDS:g} s when it was asked for one")

    def _give_up(self, reason: str) -> None:
        if self._scope is not None:
            self._useless = self._useless or reason
            self._scope.cancel()

    async def wait_connected(self, seconds: float) -> bool:
        """Wait for a connection, at most so long; whether there is one."""
        with trio.move_on_after(seconds):
            while not self.connected:
                await self._changed.wait()
        return self.connected

    async def ask(self, build: Callable[[int], Message], seconds: float) -> Answer:
        """Ask and wait; raises what the tracker answers as an error, and `Unavailable` when it can't answer.

        That is when no connection stands, when it breaks, and when for `seconds` the tracker neither answers nor says
        that it is still at it.
        """
        if self._queue is None:
            raise Unavailable(f"the tracker {self.address} isn't connected: {self.last_error}")
        number, self._next_id = self._next_id, self._next_id % 0xFFFF_FFFE + 1
        question = self._questions[number] = _Question(trio.Event(), trio.move_on_after(seconds), seconds)
        try:
            self.say(build(number))
            with question.patience:
                while not question.done.is_set():
                    with trio.move_on_after(QUIET_SECONDS) as quiet:
                        await question.done.wait()
                    if quiet.cancelled_caught:
                        self.demand_sign(QUIET_SECONDS)
        finally:
            del self._questions[number]
        if question.error is not None:
            raise question.error
        if question.answer is None:
            raise Unavailable(f"the tracker {self.address} gave no answer within {seconds:g} s")
        return question.answer

    # Keeping it up.

    async def run(self) -> None:
        """Connect, and connect again whenever the connection ends."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            started = trio.current_time()
            self.last_error = await self._one_connection() or "the tracker closed the connection"
            if trio.current_time() - started > _LONGEST_PAUSE_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            wait = (_REFUSED_PAUSE_SECONDS if self._refused else pause) * random.uniform(0.5, 1.5)
            log.warning("tracker_lost", tracker=self.address, reason=self.last_error, again_seconds=round(wait, 2))
            await trio.sleep(wait)
            pause = min(pause * _PAUSE_GROWTH, _LONGEST_PAUSE_SECONDS)

    async def _one_connection(self) -> str:
        """One connection, from dialling to its end; why it ended, nothing if the tracker closed it."""
        self._refused = False
        try:
            await self._dial()
        except P2PDistError as error:
            self._refused = isinstance(error, Refused)
            return str(error)
        except Exception as error:
            log.exception("control_connection_failed_by_bug", error, tracker=self.address)
            return "a bug of this agent, see its log"
        return ""

    async def _dial(self) -> None:
        """Connect and talk; every way that a connection can fail comes out as a `P2PDistError`."""
        try:
            with trio.fail_after(CONNECT_SECONDS):
                tcp = await trio.open_tcp_stream(self._host, self._port)
        except trio.TooSlowError:
            raise Unavailable(f"can't be reached within {CONNECT_SECONDS:g} s") from None
        except OSError as error:
            raise Unavailable(f"can't be reached: {said_by_the_system(error)}") from error
        try:
            await self._talk(tcp)
        except trio.TooSlowError:
            raise Unavailable(f"doesn't answer within {CONNECT_SECONDS:g} s") from None
        except trio.BrokenResourceError as error:
            cause = error.__cause__
            reason = explain(cause) if isinstance(cause, ssl.SSLError) else "the connection broke"
            raise Unavailable(reason) from error
        except OSError as error:
            raise Unavailable(f"the connection broke: {said_by_the_system(error)}") from error
        finally:
            await trio.aclose_forcefully(tcp)

    async def _talk(self, tcp: trio.SocketStream) -> None:
        context = self._context()
        address = str(tcp.socket.getpeername()[0])
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = tcp
        with trio.fail_after(CONNECT_SECONDS):
            if context is not None:
                stream = trio.SSLStream(tcp, context, https_compatible=True)
                await stream.do_handshake()
                require_peer(stream, PeerKind.TRACKER)
            self.secure = context is not None
            channel = Channel(stream, FromTracker)
            greeting = await channel.receive()
            if greeting is None:
                raise Unavailable("it hung up before it said anything")
            if not isinstance(greeting, Greeting):
                raise ProtocolError("what answers there doesn't greet like a tracker")
            if greeting.version != VERSION:
                raise ProtocolError(f"the tracker speaks version {greeting.version} of the protocol, we {VERSION}")
            if context is None and greeting.ca_der:
                raise ProtocolError("the tracker wants TLS: this host must enrol first")
            await channel.send(self._listener.hello())
            channel.trust()
            welcome = await channel.receive()
        match welcome:
            case None:
                raise Unavailable("it hung up on our hello")
            case Goodbye():
                raise farewell(welcome)
            case Welcome(lease_seconds=seconds):
                if not (math.isfinite(seconds) and 0 < seconds <= _LONGEST_LEASE_SECONDS):
                    raise ProtocolError(f"the tracker grants a lease of {seconds} s; that can't be right")
            case _:
                raise ProtocolError(f"the tracker answers our hello with {type(welcome).__name__}")
        try:
            await self._serve(channel, greeting, welcome, address)
        except BaseExceptionGroup as group:
            reason = reason_in(group)
            if reason is None:
                raise
            raise reason from group
        finally:
            self._lost()

    async def _serve(self, channel: Channel, greeting: Greeting, welcome: Welcome, address: str) -> None:
        send, receive = trio.open_memory_channel[Message](_QUEUE_MESSAGES)
        self._queue = send
        self.since, self.last_error = trio.current_time(), ""
        self.connects += 1
        self.tracker = greeting.tracker
        self._wake()
        log.info("tracker_connected", tracker=self.address, node=greeting.tracker, slot=welcome.slot)
        self._asked_at, self._heard_at, self._useless = None, trio.current_time(), ""
        with trio.CancelScope() as self._scope:
            try:
                self._listener.connected(welcome, greeting.tracker, address)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, channel, receive)
                    nursery.start_soon(self._beat, welcome.lease_seconds / _BEATS_A_LEASE)
                    await self._read(channel, welcome.lease_seconds)
                    nursery.cancel_scope.cancel()
            finally:
                if trio.current_effective_deadline() == -math.inf:
                    await self._say_goodbye(channel)
        if self._scope.cancelled_caught:
            raise Unavailable(self._useless)

    async def _say_goodbye(self, channel: Channel) -> None:
        """Give the lease back when we stop; not in the middle of another message."""
        if not self._writing:
            with trio.move_on_after(_FAREWELL_SECONDS, shield=True), suppress(trio.BrokenResourceError):
                await channel.send(Goodbye("the agent stops"))

    async def _read(self, channel: Channel, lease_seconds: float) -> None:
        while True:
            try:
                with trio.fail_after(lease_seconds):
                    message = await channel.receive()
            except trio.TooSlowError:
                raise Unavailable(f"gave no sign of life for a whole lease, {lease_seconds:g} s") from None
            self._asked_at, self._heard_at = None, trio.current_time()
            match message:
                case None:
                    return
                case Goodbye():
                    raise farewell(message)
                case Beat():
                    continue
                case Probe():
                    self.say(Beat())
                case RelayPlan(id_, generation=generation):
                    if id_ in self._questions:
                        self._listener.message(message)
                        self._settle(id_, message, None)
                    else:
                        self.say(Left(generation, "nobody waits for it any more"))
                case ManifestIs(id_) | SizeIs(id_) | SwarmPlan(id_):
                    self._settle(id_, message, None)
                case Working(id_):
                    if id_ in self._questions:
                        self._questions[id_].wait_on()
                case Failed(id_, code, status, text, challenge):
                    self._settle(id_, None, error_of(code, status, text, challenge if self.secure else ""))
                case _:
                    self._listener.message(message)

    async def _write(self, channel: Channel, queue: trio.MemoryReceiveChannel[Message]) -> None:
        async for message in queue:
            batch = [message]
            while len(batch) < _BATCH_MESSAGES:
                try:
                    batch.append(queue.receive_nowait())
                except (trio.WouldBlock, trio.EndOfChannel):
                    break
            self._writing = True
            with trio.fail_after(CONNECT_SECONDS):
                await channel.send(*batch)
            self._writing = False

    async def _beat(self, seconds: float) -> None:
        while True:
            await trio.sleep(seconds)
            self.say(Beat())

    def _settle(self, number: int, answer: Answer | None, error: P2PDistError | None) -> None:
        question = self._questions.get(number)
        if question is not None:
            question.answer, question.error = answer, error
            question.done.set()

    def _lost(self) -> None:
        if self._queue is None:
            return
        self._queue.close()
        self._queue = self._scope = None
        self._writing = False
        # One that hung was gone since its last word.
        self.since = self._heard_at if self._useless else trio.current_time()
        for question in self._questions.values():
            question.error = Unavailable(f"the connection to the tracker {self.address} broke before it answered")
            question.done.set()
        self._wake()
        self._listener.disconnected()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
