"""Asks the admin address of a daemon; the one place where the commands of a host meet HTTP."""

import argparse
import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from p2pdist.cli.text import printable
from p2pdist.config import PeerAddress
from p2pdist.core.errors import Denied, InvalidInput, NotFound, P2PDistError, ProtocolError, Unavailable
from p2pdist.oci.errors import parse_error_body

DEFAULT_ADMIN = "127.0.0.1:7503"
_MAX_BODY_BYTES = 16 * 1024 * 1024
_MAX_LINE_BYTES = 1024 * 1024
_ERRORS: dict[int, type[P2PDistError]] = {400: InvalidInput, 403: Denied, 404: NotFound, 503: Unavailable}
_TIMEOUT_SECONDS = 10.0
_Said = TypeVar("_Said")


def add_admin_argument(parser: Any) -> None:
    """Let the caller say where the agent's admin address is."""
    parser.add_argument(
        "--admin",
        type=_address,
        default=PeerAddress(DEFAULT_ADMIN),
        metavar="HOST:PORT",
        help="the agent's admin address (default: %(default)s)",
    )


def _address(text: str) -> PeerAddress:
    try:
        return PeerAddress(text)
    except InvalidInput as error:
        raise argparse.ArgumentTypeError(str(error)) from error


class Answer:
    """A daemon's successful answer."""

    def __init__(self, address: PeerAddress, response: http.client.HTTPResponse) -> None:
        self._address = address
        self._response = response

    def body(self) -> bytes:
        """The whole body; raises `Unavailable` when it doesn't come, `ProtocolError` beyond 16 MiB."""
        with _mapped(self._address):
            data = self._response.read(_MAX_BODY_BYTES + 1)
            if len(data) <= _MAX_BODY_BYTES and self._response.length:
                raise http.client.IncompleteRead(data, self._response.length)
        if len(data) > _MAX_BODY_BYTES:
            raise ProtocolError(f"{self._address} answers with more than {_MAX_BODY_BYTES} bytes; is that an agent?")
        return data

    def lines(self) -> Iterator[bytes]:
        """The lines of the body as they come; raises `Unavailable` when they stop, `ProtocolError` beyond 1 MiB."""
        while True:
            with _mapped(self._address):
                line = self._response.readline(_MAX_LINE_BYTES + 1)
            if not line:
                return
            if len(line) > _MAX_LINE_BYTES:
                raise ProtocolError(f"{self._address} sends a line of over {_MAX_LINE_BYTES} bytes; is that an agent?")
            yield line


@contextmanager
def ask(address: PeerAddress, method: str, target: str, *, timeout_seconds: float) -> Iterator[Answer]:
    """Send a request and give the answer, when it is 200; raises the error that another answer stands for.

    `timeout_seconds` is for every wait: to connect, for the headers, between any two parts of the body.
    """
    connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout_seconds)
    try:
        with _mapped(address):
            connection.request(method, target, headers={"Accept": "application/json"})
            response = connection.getresponse()
        answer = Answer(address, response)
        if response.status != http.client.OK:
            entries = parse_error_body(answer.body())
            said = "; ".join(message or code for code, message in entries) or f"HTTP {response.status}"
            raise _ERRORS.get(response.status, P2PDistError)(f"the agent on {address} answers: {said}")
        yield answer
    finally:
        connection.close()


@contextmanager
def _mapped(address: PeerAddress) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise Unavailable(f"the agent on {address} doesn't answer in time") from error
    except http.client.IncompleteRead as error:
        raise Unavailable(f"the agent on {address} closed the connection in the middle of its answer") from error
    except http.client.HTTPException as error:
        raise ProtocolError(f"what answers on {address} isn't an agent: {error!r}") from error
    except OSError as error:
        raise Unavailable(
            f"no agent answers on {address} ({error.strerror or error}); is `p2pdist agent` running on this host?"
            " --admin names another address"
        ) from error


def ask_for(address: PeerAddress, target: str, kind: type[_Said]) -> _Said:
    """Ask the agent for one JSON object of type `kind`."""
    with ask(address, "GET", target, timeout_seconds=_TIMEOUT_SECONDS) as answer:
        return _decoded(answer.body(), address, kind)


def ask_and_print(
    args: argparse.Namespace, target: str, kind: type[_Said], lines: Callable[[_Said], Iterator[str]]
) -> int:
    """Ask the agent for one JSON object of type `kind`, and print it: as it is with `--json`, else as `lines` says."""
    with ask(args.admin, "GET", target, timeout_seconds=_TIMEOUT_SECONDS) as answer:
        body = answer.body()
    said = _decoded(body, args.admin, kind)
    if args.json:
        print(json.dumps(json.loads(body), indent=2))
    else:
        for line in lines(said):
            print(printable(line))
    return 0


def _decoded(body: bytes, address: PeerAddress, kind: type[_Said]) -> _Said:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"what answers on {address} isn't an agent of this version: {error}") from error
