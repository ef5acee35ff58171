"""`python -m simulations shim`: what it costs an agent to serve a blob that it holds, beside nginx with the same file.

Both servers run all the time; the client turns from one to the other, so that whatever else the machine does befalls
both alike. All of it stands in a network namespace of its own, because a machine whose congestion control paces (bbr)
does so on loopback too, and then timers decide who pays for a byte: measured here, nginx between 0.08 and 0.35 s/GiB.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from p2pdist.core.errors import InvalidInput, Unavailable
from p2pdist.core.units import parse_size
from simulations.network import Host, Link, Network, NetworkUnavailable, unavailable_reason
from simulations.processes import ProcessFailed
from simulations.shim.report import Round, document, rows, table
from simulations.shim.servers import Held, Server, agent, fill_store, nginx
from simulations.shim.transfers import fetch

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_LARGE_REQUESTS = 4
_SMALL_BYTES = 1024
_SMALL_REQUESTS = 1000


def add_parser(subparsers: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command's arguments."""
    parser = subparsers.add_parser("shim", help="an agent that serves what it holds, beside nginx")
    parser.add_argument("--size", type=parse_size, default=parse_size("1GiB"), help="of the blob (1GiB)")
    parser.add_argument("--repeat", type=int, default=5, metavar="K", help="rounds; median and worst are shown (5)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--directory", type=Path, help="for the blob, meanwhile; default: with temporary files")


def run(args: argparse.Namespace) -> int:
    """Measure and print; raises `P2PDistError` when that can't be done."""
    if args.size < 1 or args.repeat < 1:
        raise InvalidInput("there is nothing to measure: size and rounds must be above zero")
    if (reason := unavailable_reason()) is not None:
        raise Unavailable(f"nothing can be measured here: {reason}")
    with tempfile.TemporaryDirectory(prefix="p2pdist-shim.", dir=args.directory) as name:
        directory = Path(name)
        held = fill_store(directory / "agent", args.size, _SMALL_BYTES)
        try:
            with Network({"shim": Link()}) as network, ThreadPoolExecutor(1) as thread:
                rounds = thread.submit(_measure, network["shim"], directory, held, args.repeat).result()
        except (NetworkUnavailable, ProcessFailed) as error:
            raise Unavailable(str(error)) from error
    found = rows(rounds)
    print(json.dumps(document(found)) if args.json else table(found), flush=True)
    return 0


def _measure(host: Host, directory: Path, held: Held, repeat: int) -> list[Round]:
    """In a thread of its own, which moves to `host`; programs that it starts are there too."""
    host.enter()
    with agent(directory, held) as ours, nginx(directory, held) as theirs:
        _round([ours, theirs], held)  # what is only needed once: page cache, modules, growing buffers
        rounds = []
        for number in range(repeat):
            rounds.append(_round([ours, theirs] if number % 2 else [theirs, ours], held))
            print(f"round {number + 1} of {repeat}", file=sys.stderr, flush=True)
        return rounds


def _round(servers: Sequence[Server], held: Held) -> Round:
    return Round(
        {server.name: fetch(server, server.urls[held.large], _LARGE_REQUESTS) for server in servers},
        {server.name: fetch(server, server.urls[held.small], _SMALL_REQUESTS) for server in servers},
    )
