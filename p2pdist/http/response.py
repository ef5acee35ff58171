"""The answer to one request, as a handler gives it: whole, or a header and then bytes and runs of files.

Framing is h11's business, sending the outlet's. A HEAD request is answered like a GET whose body doesn't leave.
"""

from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import cast

import h11

from p2pdist.http.closing import Closing
from p2pdist.http.sending import Outlet


class _FileRun:
    """Stands for `count` bytes of a file while h11 frames them."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


def _reason(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""


class Response:
    """One answer; a handler either calls `send` once, or `start` and then `write` and `send_file`.

    Every sending method raises `ClientGone` when the client hung up or takes nothing for too long. Sending more or
    less than a declared Content-Length is a bug of the handler: more raises `h11.LocalProtocolError`, less closes the
    connection short of it.
    """

    def __init__(self, protocol: h11.Connection, outlet: Outlet, closing: Closing, *, head: bool) -> None:
        self._protocol = protocol
        self._outlet = outlet
        self._closing = closing
        self._head = head
        self.status = 0
        """The status that was answered; 0 before."""
        self.abandoned = False
        """Whether `abandon` was called."""
        self.last = False
        """Whether the connection must end with this answer; the connection's handler says so before the header goes."""

    @property
    def started(self) -> bool:
        """Whether a header has gone out, so that no other status can be answered any more."""
        return self.status > 0

    async def send(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Send the whole answer; Content-Length is that of `body` unless it is among `headers` (HEAD has no body)."""
        length = {} if status in (204, 304) else {"Content-Length": str(len(body))}
        if any(name.lower() == "content-length" for name in headers):
            length = {}
        message = self._header(status, {**length, **headers})
        if body and not self._head:
            message += self._protocol.send(h11.Data(data=body))
        message += self._protocol.send(h11.EndOfMessage())
        await self._outlet.send(message)

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the header; without a Content-Length in it the body goes out chunked."""
        await self._outlet.send(self._header(status, headers))

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send the next bytes of the body."""
        if self._head or not data:
            return
        for part in self._frame(data):
            await self._outlet.send(cast(bytes, part))

    async def send_file(self, fd: int, offset: int, count: int) -> None:
        """Send `count` bytes of the open file `fd`, from `offset` on, as the next bytes of the body.

        `fd` must stay open until this returns or raises. Raises `OSError` when the file ends before or can't be read.
        """
        if self._head or count == 0:
            return
        for part in self._frame(_FileRun(count)):
            if isinstance(part, _FileRun):
                await self._outlet.send_file(fd, offset, count)
            else:
                await self._outlet.send(cast(bytes, part))

    def abandon(self) -> None:
        """Give up: the connection is closed by FIN, never by a reset, short of the declared length."""
        self.abandoned = True
        self._protocol.send_failed()

    async def finish(self) -> None:
        """End a started answer (called when the handler has returned); one that is short of its length is abandoned."""
        if self.abandoned or self._protocol.our_state is not h11.SEND_BODY:
            return
        try:
            end = self._protocol.send(h11.EndOfMessage())
        except h11.LocalProtocolError:
            self.abandon()
            return
        if end:
            await self._outlet.send(end)

    def _header(self, status: int, headers: Mapping[str, str]) -> bytes:
        fields = [("Date", formatdate(usegmt=True)), *headers.items()]
        if self.last or self._closing.begun:
            fields.append(("Connection", "close"))
        header = self._protocol.send(h11.Response(status_code=status, headers=fields, reason=_reason(status)))
        self.status = status
        return header

    def _frame(self, body: object) -> list[object]:
        event = h11.Data(data=cast(bytes, body))
        return cast("list[object]", self._protocol.send_with_data_passthrough(event))
