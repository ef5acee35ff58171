"""One client's connection: requests in, one handler call each, answers out, and an end that never is a reset.

This is one of the three places that catch everything: whatever a handler raises ends as a status, or, once a header is
out, as a body that stops short of its length (facts.md, "Container clients": a body cut by FIN is resumed, a reset
fails the pull). So every close shuts the sending side down first and reads on for a moment, because closing a socket
with unread bytes in it makes the kernel send a reset.
"""

import os
import select
import socket
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from http import HTTPStatus

import h11
import trio

from p2pdist.core.errors import InvalidInput, P2PDistError
from p2pdist.http.closing import FRESH_SECONDS, Closing
from p2pdist.http.headers import Headers
from p2pdist.http.limits import Limits
from p2pdist.http.request import BadRequest, BodyTooLarge, Request, RequestTimeout, Target
from p2pdist.http.response import Response
from p2pdist.http.sending import ClientGone, Outlet
from p2pdist.telemetry.logging import get_logger

_READ_BYTES = 16 * 1024
_SOME_BYTES = 256 * 1024
"""How much of a body that is passed on while it comes is handed over at once: a hop to a worker thread costs 175 us."""

log = get_logger(__name__)

Handler = Callable[[Request, Response], Awaitable[None]]
"""Answers one request. A wait in it is cancelled when the client hangs up; its sends raise `ClientGone` then."""


class Connection:
    """Serves one connected socket, which it owns and closes.

    `idle` is entered while the connection waits for its next request, with a scope that the server may cancel when it
    needs the place. When `closing` begins, the connection ends with the answer that is under way.
    """

    def __init__(
        self,
        stream: trio.SocketStream,
        handler: Handler,
        limits: Limits,
        threads: trio.CapacityLimiter,
        idle: Callable[[trio.CancelScope], AbstractContextManager[None]],
        closing: Closing,
    ) -> None:
        self._socket = stream.socket
        self._peer = _peer(stream.socket)
        self._handler = handler
        self._limits = limits
        self._idle = idle
        self._closing = closing
        self._fresh = True
        self._outlet = Outlet(stream.socket, limits.stall_seconds, threads)
        self._protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.header_bytes)
        self._body_parts: list[bytes] = []
        self._body_complete = True
        self._headers_only = False

    async def serve(self) -> None:
        """Answer requests until either side wants to end."""
        try:
            async with trio.open_nursery() as watches:
                await self._serve_requests(watches)
        finally:
            await self._close()

    async def _serve_requests(self, watches: trio.Nursery) -> None:
        try:
            while await self._next_exchange(watches):
                self._protocol.start_next_cycle()
        except ClientGone as error:
            log.debug("client_gone", peer=self._peer, error=error)
        except Exception as error:
            log.exception("connection_failed_by_bug", error, peer=self._peer)

    async def _next_exchange(self, watches: trio.Nursery) -> bool:
        """Handle one request; False when the connection ends."""
        try:
            head = await self._receive_head()
            if head is None:
                return False
            target = Target.parse(head.target.decode("latin-1"))
        except InvalidInput as error:
            await self._refuse(error)
            return False
        response = self._response()
        with self._closing.answer():
            await self._exchange(watches, head, target, response)
            await response.finish()
        self._fresh = False
        return not self._closing.begun and self._protocol.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}

    async def _exchange(self, watches: trio.Nursery, head: h11.Request, target: Target, response: Response) -> None:
        """Run the handler, and beside it, once the request is complete, the watch for a hang-up that cancels it."""
        handling, watching = trio.CancelScope(), trio.CancelScope()

        def request_is_complete() -> None:
            response.last = False
            watches.start_soon(self._watch, handling, watching)

        async def receive_body(limit_bytes: int) -> bytes:
            was_complete = self._body_complete
            body = await self._receive_body(limit_bytes)
            if not was_complete:
                request_is_complete()
            return body

        async def receive_some() -> bytes:
            was_complete = self._body_complete
            some = await self._receive_some()
            if self._body_complete and not was_complete:
                request_is_complete()
            return some

        if self._body_complete:
            request_is_complete()
        else:
            response.last = True
        try:
            with handling:
                await self._handle(self._request(head, target, receive_body, receive_some), response)
        finally:
            watching.cancel()
        if handling.cancelled_caught:
            raise ClientGone("it hung up while its request was handled")

    def _request(
        self,
        head: h11.Request,
        target: Target,
        receive_body: Callable[[int], Awaitable[bytes]],
        receive_some: Callable[[], Awaitable[bytes]],
    ) -> Request:
        return Request(
            method=head.method.decode("ascii"),
            path=target.path,
            raw_target=head.target.decode("latin-1"),
            query=target.query,
            headers=Headers((name.decode("ascii"), value.decode("latin-1")) for name, value in head.headers),
            peer=self._peer,
            receive_body=receive_body,
            receive_some=receive_some,
        )

    async def _handle(self, request: Request, response: Response) -> None:
        try:
            await self._handler(request, response)
            if not response.started and not response.abandoned:
                raise RuntimeError("the handler returned without an answer")
        except ClientGone:
            raise
        except P2PDistError as error:
            told = log.warning if error.http_status >= 500 else log.debug
            told("request_failed", **_named(request), error=error)
            await self._fail(response, error.http_status, str(error))
        except Exception as error:
            log.exception("request_failed_by_bug", error, **_named(request))
            await self._fail(response, 500, "the server has a bug; its log says more")

    async def _fail(self, response: Response, status: int, sentence: str) -> None:
        """Answer with `status` when nothing has been answered yet, else stop short."""
        if response.started:
            response.abandon()
        else:
            await response.send(status, {"Content-Type": "text/plain; charset=utf-8"}, f"{sentence}\n".encode())

    def _response(self) -> Response:
        return Response(self._protocol, self._outlet, self._closing, head=self._headers_only)

    async def _refuse(self, error: InvalidInput) -> None:
        """Answer a request that can't be handled, and end the connection: where the next one begins is unknown."""
        log.debug("request_refused", peer=self._peer, error=error)
        if self._protocol.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        response = self._response()
        response.last = True
        await self._fail(response, error.http_status, str(error))

    async def _receive_head(self) -> h11.Request | None:
        """The next request's header; None at the end of the connection, or when no request comes in time."""
        self._headers_only = False
        if not self._protocol.trailing_data[0] and not await self._wait_for_request():
            return None
        with trio.move_on_after(self._limits.header_seconds) as scope:
            event = await self._next_event()
        if scope.cancelled_caught:
            raise RequestTimeout(f"the request's header didn't arrive within {self._limits.header_seconds:g} s")
        if not isinstance(event, h11.Request):
            return None
        self._headers_only = event.method == b"HEAD"
        self._body_parts = []
        self._body_complete = False
        self._take_body_that_is_here()
        return event

    async def _wait_for_request(self) -> bool:
        grace_seconds = FRESH_SECONDS if self._fresh else 0.0
        with trio.move_on_after(self._limits.idle_seconds) as scope, self._idle(scope):
            with self._closing.ends(scope, grace_seconds):
                await trio.lowlevel.wait_readable(self._socket)
            return True
        return self._closing.begun and self._something_arrived()

    def _something_arrived(self) -> bool:
        """Whether a request came in the very moment in which the connection was to be closed."""
        arrival = select.poll()
        arrival.register(self._socket.fileno(), select.POLLIN)
        return bool(arrival.poll(0))

    def _take_body_that_is_here(self) -> None:
        """Learn, without waiting, whether the request is complete; mostly it has no body and is."""
        event = self._parse()
        if isinstance(event, h11.Data):
            self._body_parts.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            self._body_complete = True

    async def _receive_body(self, limit_bytes: int) -> bytes:
        with trio.move_on_after(self._limits.body_seconds) as scope:
            await self._invite_body()
            while not self._body_complete:
                if sum(map(len, self._body_parts)) > limit_bytes:
                    break
                event = await self._next_event()
                if isinstance(event, h11.Data):
                    self._body_parts.append(bytes(event.data))
                else:
                    self._body_complete = True
        if scope.cancelled_caught:
            raise RequestTimeout(f"the request's body didn't arrive within {self._limits.body_seconds:g} s")
        body = b"".join(self._body_parts)
        if len(body) > limit_bytes:
            raise BodyTooLarge(f"the request's body is larger than the {limit_bytes} bytes that are read of it")
        return body

    async def _receive_some(self) -> bytes:
        """What is there of the body, waiting for its first bytes only; empty at its end."""
        parts, self._body_parts = self._body_parts, []
        some_bytes = sum(map(len, parts))
        with trio.move_on_after(self._limits.body_seconds) as scope:
            await self._invite_body()
            while not self._body_complete and some_bytes < _SOME_BYTES:
                event = self._parse()
                if isinstance(event, h11.Data):
                    parts.append(bytes(event.data))
                    some_bytes += len(parts[-1])
                elif event is not h11.NEED_DATA:
                    self._body_complete = True
                elif (data := self._receive_nowait()) is not None:
                    self._protocol.receive_data(data)
                elif parts:
                    break
                else:
                    await trio.lowlevel.wait_readable(self._socket)
        if scope.cancelled_caught:
            raise RequestTimeout(f"nothing of the request's body came for {self._limits.body_seconds:g} s")
        return b"".join(parts)

    async def _invite_body(self) -> None:
        """Answer a client that waits for `100 Continue` before it sends the body (RFC 9110, 10.1.1)."""
        if self._protocol.they_are_waiting_for_100_continue and not self._body_complete:
            go_on = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
            await self._outlet.send(self._protocol.send(go_on))

    async def _next_event(self) -> object:
        while (event := self._parse()) is h11.NEED_DATA:
            await trio.lowlevel.wait_readable(self._socket)
            data = self._receive_nowait()
            if data is not None:
                self._protocol.receive_data(data)
        return event

    def _parse(self) -> object:
        try:
            return self._protocol.next_event()
        except h11.RemoteProtocolError as error:
            raise _refusal(error) from None

    def _receive_nowait(self) -> bytes | None:
        """What has arrived; empty at the end of the stream, None when nothing is there; raises `ClientGone`."""
        try:
            return os.read(self._socket.fileno(), _READ_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            raise ClientGone(f"it hung up: {error.strerror}") from error

    async def _watch(self, handling: trio.CancelScope, watching: trio.CancelScope) -> None:
        """Cancel `handling` when the client is gone; keep what a pipelining client sends ahead."""
        with watching:
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                await self._read_ahead_until_end()
                await self._wait_while_half_closed_client_takes()
            except ClientGone as error:
                log.debug("client_gone", peer=self._peer, error=error)
            handling.cancel()

    async def _read_ahead_until_end(self) -> None:
        """Return at the end of the stream; a client that sends too much ahead isn't watched any longer."""
        ahead_bytes = 0
        while ahead_bytes <= self._limits.header_bytes:
            await trio.lowlevel.wait_readable(self._socket)
            # Woken and cancelled at once: the socket is the main task's again, which may wait on it already.
            await trio.lowlevel.checkpoint_if_cancelled()
            data = self._receive_nowait()
            if data is None:
                continue
            self._protocol.receive_data(data)
            if not data:
                return
            ahead_bytes += len(data)
        await trio.sleep_forever()

    async def _wait_while_half_closed_client_takes(self) -> None:
        """A client may close its sending side and still read: it is there as long as it takes what is sent."""
        sent_bytes = -1
        while self._outlet.sending or self._outlet.sent_bytes != sent_bytes:
            sent_bytes = self._outlet.sent_bytes
            await trio.sleep(self._limits.half_close_seconds)

    async def _close(self) -> None:
        """FIN, then read on until the client's FIN or for a moment."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
            with trio.move_on_after(self._limits.linger_seconds, shield=True):
                while self._receive_nowait() != b"":
                    await trio.lowlevel.wait_readable(self._socket)
        except (OSError, ClientGone):
            log.debug("client_reset", peer=self._peer)
        finally:
            self._socket.close()


def _named(request: Request) -> dict[str, object]:
    return {"method": request.method, "target": request.raw_target, "peer": request.peer}


def _refusal(error: h11.RemoteProtocolError) -> InvalidInput:
    status = HTTPStatus(error.error_status_hint)
    refusal = BadRequest(f"{status.phrase}: {error}")
    refusal.http_status = status
    return refusal


def _peer(sock: trio.socket.SocketType) -> str:
    try:
        host, port = sock.getpeername()[:2]
    except OSError:
        return "a client that hung up at once"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
