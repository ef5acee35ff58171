"""`p2pdist tracker`: run the tracker of a fleet until it is told to stop."""

import argparse
from pathlib import Path
from typing import Any

from p2pdist.config import load_tracker


def add_parser(subparsers: Any) -> None:
    """Put `tracker` among the commands of `p2pdist`."""
    parser = subparsers.add_parser("tracker", description="Run the tracker of a fleet until SIGTERM or Ctrl-C.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file like configs/tracker.toml")
    parser.add_argument(
        "--events", metavar="FILE", help="append who fed whom and when to FILE, one JSON object a line (log.events)"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log at level debug")


def run(args: argparse.Namespace) -> int:
    """Load the configuration and run the daemon."""
    from p2pdist.tracker.main import run as run_tracker

    given = {"log.events": args.events, "log.level": "debug" if args.verbose else None}
    overrides = {key: value for key, value in given.items() if value is not None}
    return run_tracker(load_tracker(args.config, overrides=overrides).config)
