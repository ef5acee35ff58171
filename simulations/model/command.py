"""`python -m simulations model SCENARIO.toml`: the relay's rules on an event heap."""

import argparse
from pathlib import Path

import msgspec

from p2pdist.core.units import parse_duration, parse_size
from p2pdist.relay.spans import DEFAULT_FAN
from simulations.emulation.scenario import load
from simulations.model.comparison import lines as comparison
from simulations.model.comparison import read
from simulations.model.figures import figures
from simulations.model.fleet import run as run_once
from simulations.model.options import Options
from simulations.model.report import lines as report
from simulations.model.variants import Variant

_DEFAULT = Options()


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command's arguments."""
    parser = subparsers.add_parser("model", help="the relay's rules on an event heap, for fleets of any size")
    parser.add_argument("scenario", type=Path, metavar="SCENARIO.toml")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--compare", type=Path, metavar="RESULT.json", help="what `emulate --json` printed")
    parser.add_argument("--seed", type=int, default=_DEFAULT.seed)
    parser.add_argument("--hosts", type=int, help="scale the scenario's groups to so many hosts in all")
    parser.add_argument("--piece", type=parse_size, metavar="SIZE", help="piece length; default: the code's choice")
    parser.add_argument("--fan", type=int, default=DEFAULT_FAN)
    parser.add_argument(
        "--share", type=float, help="payload's share of a link's rate; default: what was emulated, or 0.955"
    )
    parser.add_argument("--hop", type=parse_duration, default=_DEFAULT.hop_seconds, metavar="TIME")
    parser.add_argument("--burst", type=parse_size, default=_DEFAULT.burst_bytes, metavar="SIZE")
    parser.add_argument("--kernel", type=parse_size, default=_DEFAULT.kernel_bytes, metavar="SIZE")
    parser.add_argument("--window", type=parse_size, default=_DEFAULT.window_bytes, metavar="SIZE")
    names = [variant.value for variant in Variant]
    parser.add_argument("--variant", nargs="+", choices=names, default=[], help="rules that aren't the code's")
    parser.add_argument("--registers", action="store_true", help="hosts take their lease when they ask")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    scenario = load(args.scenario)
    emulated = read(args.compare, scenario.name) if args.compare is not None else None
    measured_share = emulated.share if emulated is not None else None
    result = figures(run_once(scenario, options_of(args, measured_share)))
    if args.json:
        document = {"model": result} | ({"emulated": emulated.figures} if emulated is not None else {})
        print(msgspec.json.encode(document).decode())
        return 0
    print("\n".join(report(result)))
    if emulated is not None:
        print("\n".join(comparison(result, emulated)))
    return 0


def options_of(args: argparse.Namespace, measured_share: float | None = None) -> Options:
    """The options that the arguments give; a share that an emulation measured goes before the usual one."""
    share = args.share if args.share is not None else measured_share
    return Options(
        seed=args.seed,
        hosts=args.hosts,
        piece_bytes=args.piece,
        fan=args.fan,
        share=share if share is not None else _DEFAULT.share,
        hop_seconds=args.hop,
        burst_bytes=args.burst,
        window_bytes=args.window,
        kernel_bytes=args.kernel,
        registers=args.registers,
        variants=frozenset(Variant(name) for name in args.variant),
    )
