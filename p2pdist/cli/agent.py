"""`p2pdist agent`: run the agent of this host until it is told to stop."""

import argparse
from pathlib import Path
from typing import Any

from p2pdist.config import load_agent


def add_parser(subparsers: Any) -> None:
    """Put `agent` among the commands of `p2pdist`."""
    parser = subparsers.add_parser(
        "agent",
        description="Run the agent of this host until SIGTERM or Ctrl-C. What the options say goes before the file.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file like configs/agent.toml")
    parser.add_argument(
        "--tracker", metavar="HOST:PORT", help="the tracker's control address; without a file it must be given"
    )
    parser.add_argument(
        "--join",
        metavar="TOKEN",
        help="the join token, needed once; other users of this host can see it here, unlike P2PDIST_TRACKER_JOIN_TOKEN",
    )
    parser.add_argument(
        "--ca-hash", metavar="sha256:HEX", help="the hash of the tracker's CA, as `pki init` printed it"
    )
    parser.add_argument(
        "--events", metavar="FILE", help="append who fed whom and when to FILE, one JSON object a line (log.events)"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log at level debug")


def run(args: argparse.Namespace) -> int:
    """Load the configuration and run the daemon."""
    from p2pdist.agent.main import run as run_agent

    given = {
        "tracker.address": args.tracker,
        "tracker.join_token": args.join,
        "tracker.ca_hash": args.ca_hash,
        "log.events": args.events,
        "log.level": "debug" if args.verbose else None,
    }
    overrides = {key: value for key, value in given.items() if value is not None}
    return run_agent(load_agent(args.config, overrides=overrides).config)
