"""`p2pdist pull`: let the agent of this host have an image; a bar per layer on a terminal, else a line per change."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import urlencode

import msgspec

from p2pdist.agent.report import BlobEvent, DoneEvent, ErrorEvent, ManifestEvent, PullEvent
from p2pdist.cli.admin import add_admin_argument, ask
from p2pdist.cli.text import format_duration, printable
from p2pdist.core.digest import Digest
from p2pdist.core.errors import P2PDistError, ProtocolError, Unavailable
from p2pdist.core.units import format_size

_SILENCE_SECONDS = 30.0


class PullFailed(P2PDistError):
    """The agent says that the image can't be had."""


class Display(Protocol):
    """Shows the course of a pull."""

    def manifest(self, event: ManifestEvent) -> None: ...

    def blob(self, event: BlobEvent) -> None: ...


def add_parser(subparsers: Any) -> None:
    """Put `pull` among the commands of `p2pdist`."""
    parser = subparsers.add_parser(
        "pull",
        description="Let the agent of this host have an image, so that the container daemon finds it there."
        " Ctrl-C stops watching; the agent goes on.",
    )
    parser.add_argument("image", metavar="IMAGE", help="such as docker.io/library/nginx:1.27 or …@sha256:…")
    add_admin_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Ask for the image and show how it comes."""
    target = f"/v1/pull?{urlencode({'image': args.image})}"
    with ask(args.admin, "POST", target, timeout_seconds=_SILENCE_SECONDS) as answer:
        done = _follow(map(_decoded, answer.lines()))
    came = done.bytes
    sources = {"relay": came.relay, "deal": came.dealt, "swarm": came.swarm, "origin": came.origin, "store": came.store}
    parts = ", ".join(f"{name} {format_size(size)}" for name, size in sources.items() if size) or "nothing to fetch"
    print(printable(f"{args.image} is {done.digest}, held after {format_duration(done.seconds)} ({parts})"))
    return 0


def _decoded(line: bytes) -> PullEvent:
    try:
        event: PullEvent = msgspec.json.decode(line, type=PullEvent)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"the agent sent something else than the progress of a pull: {error}") from error
    return event


def _follow(events: Iterator[PullEvent]) -> DoneEvent:
    """Show `events` up to the last; raises `PullFailed` with the agent's reason."""
    with _display() as display:
        for event in events:
            match event:
                case ManifestEvent():
                    display.manifest(event)
                case BlobEvent():
                    display.blob(event)
                case ErrorEvent():
                    raise PullFailed(printable(f"{event.message} ({event.code})"))
                case DoneEvent():
                    return event
    raise Unavailable("the agent ended the connection before the pull had ended; see its log")


@contextmanager
def _display() -> Iterator[Display]:
    if sys.stdout.isatty():
        from p2pdist.cli.bars import bars

        with bars() as display:
            yield display
    else:
        yield _Lines()


class _Lines:
    """For files and pipes: a line when something else than the number of bytes changed."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, str]] = {}

    def manifest(self, event: ManifestEvent) -> None:
        print(printable(f"{Digest.parse(event.digest).short}  manifest, {event.media_type}"), flush=True)

    def blob(self, event: BlobEvent) -> None:
        now = (event.state, event.source)
        if self._last.get(event.digest) == now:
            return
        self._last[event.digest] = now
        source = "" if event.state == "waiting" else f", {event.source}"
        print(f"{Digest.parse(event.digest).short}  {format_size(event.size_bytes)}, {event.state}{source}", flush=True)
