"""`p2pdist demo`: a registry, a tracker and agents on this machine, an image pulled through them, and the bill."""

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import trio
from rich.console import Console

from p2pdist.core.errors import InvalidInput
from p2pdist.core.units import parse_size
from p2pdist.demo.display import Display
from p2pdist.demo.image import MIN_SIZE_BYTES
from p2pdist.demo.report import instructions, print_outcome, write_hosts
from p2pdist.demo.scenario import Options, Standing, demonstration

_MOST_AGENTS = 64
_WIDTH_WITHOUT_TERMINAL = 120
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def add_parser(subparsers: Any) -> None:
    """Put `demo` among the commands of `p2pdist`."""
    parser = subparsers.add_parser(
        "demo",
        description="Start an origin registry with a generated image, a tracker and agents on this machine; pull"
        " version 1 through every agent at once, then version 2, then version 2 through an agent that comes late; check"
        " every digest and show where the bytes came from. Nothing is left behind.",
    )
    parser.add_argument("--agents", type=int, default=5, metavar="N", help="agents that pull at once (default: 5)")
    parser.add_argument(
        "--image-size", default="128MiB", metavar="SIZE", help="of the generated image (default: %(default)s)"
    )
    parser.add_argument("--origin", metavar="URL", help="a real registry to pull from, such as http://127.0.0.1:5000")
    parser.add_argument("--keep", action="store_true", help="stay up until interrupted, and say how to pull by hand")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="with --origin: what to pull, such as app/web:1.2")


def run(args: argparse.Namespace) -> int:
    """Run the demo; 1 when a digest was wrong."""
    options = _options(args)
    with tempfile.TemporaryDirectory(prefix="p2pdist-demo-") as directory:
        return trio.run(_run_until_signal, options, Path(directory), args.keep, args.json)


def _options(args: argparse.Namespace) -> Options:
    if not 1 <= args.agents <= _MOST_AGENTS:
        raise InvalidInput(f"--agents is {args.agents}; take 1 to {_MOST_AGENTS}: all of them run on this machine")
    if args.origin is None and args.images:
        raise InvalidInput(f"{args.images[0]!r} needs --origin URL, the registry that has it")
    if args.origin is not None and not args.images:
        raise InvalidInput("--origin needs at least one IMAGE to pull from it")
    size_bytes = parse_size(args.image_size)
    if size_bytes < MIN_SIZE_BYTES:
        raise InvalidInput(f"--image-size {args.image_size} is too small to cut into layers; take 1MiB at least")
    return Options(args.agents, size_bytes, args.origin, args.images)


async def _run_until_signal(options: Options, directory: Path, keep: bool, as_json: bool) -> int:
    """The exit code: that of the run, also when a signal ended the stay after it, else 128 + the signal."""
    ended_by: signal.Signals | None = None
    code: int | None = None
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:

            async def end_at_signal() -> None:
                nonlocal ended_by
                async for number in signals:
                    ended_by = signal.Signals(number)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(end_at_signal)
            display = Display(Console(stderr=as_json, width=_width(sys.stderr if as_json else sys.stdout)))
            async with demonstration(options, directory, display) as standing:
                code = _print(standing, directory, keep, as_json)
                if keep:
                    await trio.sleep_forever()
            nursery.cancel_scope.cancel()
    if code is not None:
        return code
    assert ended_by is not None
    return 128 + ended_by


def _print(standing: Standing, directory: Path, keep: bool, as_json: bool) -> int:
    """Say what came out; 1 when a digest was wrong."""
    outcome = standing.outcome
    if as_json:
        print(json.dumps(outcome.as_json(standing.shims if keep else ())), flush=True)
    else:
        console = Console(width=_width(sys.stdout))
        print_outcome(console, outcome)
        if keep:
            hosts = write_hosts(directory, standing.upstream, standing.shims[0])
            for line in instructions(standing.shims, outcome.images[-1], hosts):
                print(line)
            sys.stdout.flush()
    for sentence in outcome.wrong:
        print(f"p2pdist: error: {sentence}", file=sys.stderr)
    return 1 if outcome.wrong else 0


def _width(stream: Any) -> int | None:
    """Let a terminal decide; a file or pipe gets enough for the table."""
    return None if stream.isatty() else _WIDTH_WITHOUT_TERMINAL
