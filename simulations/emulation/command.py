"""`python -m simulations emulate`: runs scenarios, prints what came of them, and takes everything away again."""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from p2pdist.core.errors import InvalidInput, Unavailable
from simulations.emulation import plot
from simulations.emulation.outcome import Outcome
from simulations.emulation.report import document, table
from simulations.emulation.run import run as run_once
from simulations.emulation.scenario import Scenario, load
from simulations.network import NetworkUnavailable, unavailable_reason
from simulations.ownership import Owner
from simulations.processes import ProcessFailed, sweep_processes
from simulations.systems import NAMES, module_of

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_parser(subparsers: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command's arguments."""
    parser = subparsers.add_parser("emulate", help="measure real daemons in network namespaces")
    parser.add_argument("scenarios", nargs="+", type=Path, metavar="SCENARIO.toml")
    parser.add_argument("--json", action="store_true", help="one JSON object a scenario and line")
    parser.add_argument("--repeat", type=_positive, default=1, metavar="K", help="runs; median and worst are shown")
    parser.add_argument(
        "--system",
        nargs="+",
        default=["p2pdist"],
        metavar="NAME",
        help=f"{', '.join(NAMES)}, or a module's dotted name; default: p2pdist",
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.png",
        help="draw bytes over time (of the first run); of several scenarios one file each",
    )
    parser.add_argument(
        "--events",
        type=Path,
        metavar="FILE",
        help="keep p2pdist's event log of the first run, for `python -m simulations events`; of several scenarios one"
        " file each",
    )
    parser.add_argument("--directory", type=Path, help="for blobs, meanwhile; default: with temporary files")


def run(args: argparse.Namespace) -> int:
    """Run all scenarios; raises `P2PDistError` at the first thing that goes wrong."""
    scenarios = [load(path) for path in args.scenarios]
    for name in args.system:
        module_of(name)
    if (reason := unavailable_reason()) is not None:
        raise Unavailable(f"nothing can be emulated here: {reason}")
    if args.plot is not None:
        plot.require()
    if args.events is not None and not args.events.absolute().parent.is_dir():
        raise InvalidInput(f"{args.events} can't be written: there is no directory {args.events.absolute().parent}")
    _sweep(args.directory)
    for scenario in scenarios:
        events = _own(args.events, scenario, scenarios)
        outcomes = {
            name: _runs(scenario, name, args.repeat, args.directory, events) for name in dict.fromkeys(args.system)
        }
        if args.json:
            print(json.dumps(document(scenario, outcomes, samples=args.plot is not None)), flush=True)
        else:
            print(table(scenario, outcomes), flush=True)
        if args.plot is not None:
            plot.draw(scenario, outcomes, _own(args.plot, scenario, scenarios) or args.plot)
    return 0


def _own(path: Path | None, scenario: Scenario, scenarios: list[Scenario]) -> Path | None:
    """Where a scenario's file goes: of several each has its own."""
    if path is None or len(scenarios) == 1:
        return path
    return path.with_stem(f"{path.stem}-{scenario.name}")


def _runs(
    scenario: Scenario, system: str, times: int, parent: Path | None, events: Path | None = None
) -> list[Outcome]:
    outcomes = []
    for number in range(times):

        def say(what: str, number: int = number) -> None:
            print(f"{scenario.name}, {system}, run {number + 1} of {times}: {what}", file=sys.stderr, flush=True)

        with _directory(parent) as directory:
            try:
                outcomes.append(run_once(scenario, system, directory, number, say, None if number else events))
            except (ProcessFailed, NetworkUnavailable, OSError) as error:
                raise Unavailable(f"{scenario.name}, {system}: {error}") from error
    return outcomes


@contextmanager
def _directory(parent: Path | None) -> Iterator[Path]:
    """A directory that carries our mark, and is gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix=f"{Owner.current()}.", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _sweep(parent: Path | None) -> None:
    """Take away what runs left that were killed."""
    sweep_processes()
    for path in (parent or Path(tempfile.gettempdir())).glob("p2pdist.*"):
        owner = Owner.parse(path.name)
        if owner is not None and not owner.alive:
            shutil.rmtree(path, ignore_errors=True)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number of runs")
    return int(text)
