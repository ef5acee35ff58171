"""`python -m simulations events`: who fed whom and when, from the event logs of a run or of a real fleet."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from p2pdist.core.errors import InvalidInput
from simulations.emulation.plot import require
from simulations.events.flows import flows_of
from simulations.events.plot import draw
from simulations.events.reading import read
from simulations.events.report import table

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_parser(subparsers: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command's arguments."""
    parser = subparsers.add_parser(
        "events",
        help="who fed whom and when, from event logs",
        description="What event logs (`--events FILE` of a tracker, an agent or `emulate`) tell, a line a host.",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="logs of one or of many nodes")
    parser.add_argument("--digest", type=_digest, help="of one blob only: its digest, or its beginning")
    parser.add_argument("--plot", type=Path, metavar="OUT.png", help="draw who fed whom, and each host's time line")


def run(args: argparse.Namespace) -> int:
    """Read, print, draw; raises `InvalidInput`."""
    if args.plot is not None:
        require()
    log = read(args.files)
    flows = flows_of(log.lines, args.digest or "")
    if not flows.blobs:
        raise InvalidInput(f"these logs say nothing of a blob {args.digest or 'at all'}")
    print(table(log, flows))
    if args.plot is not None:
        draw(flows, ", ".join(path.name for path in args.files[:3]), args.plot)
    return 0


def _digest(text: str) -> str:
    """The digits as they stand in a log, which has the first sixteen."""
    digits = re.sub("^sha(256|512):", "", text.lower())[:16]
    if not re.fullmatch("[0-9a-f]+", digits):
        raise argparse.ArgumentTypeError(f"{text!r} isn't a digest")
    return digits
