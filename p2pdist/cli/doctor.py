"""`p2pdist doctor`: what is wrong on this host, from the agent to the container runtimes, and what to do about it."""

import argparse
import json
from collections.abc import Iterator
from typing import Any

import msgspec

from p2pdist.agent.report import Checkup, Status
from p2pdist.cli.admin import add_admin_argument, ask_for
from p2pdist.cli.checks import Finding, Level, check_agent, check_clock, check_runtimes
from p2pdist.cli.text import printable
from p2pdist.core.errors import P2PDistError

_NO_AGENT = 3
_WRONG = 1


def add_parser(subparsers: Any) -> None:
    """Put `doctor` among the commands of `p2pdist`."""
    parser = subparsers.add_parser(
        "doctor",
        description="Check this host: agent, tracker, certificate, clock, store, container runtimes, a test pull, other"
        " agents. Exit code 0 when nothing is wrong (warnings aside), 1 when something is, 3 when no agent answers.",
    )
    parser.add_argument(
        "--image", metavar="IMAGE", help="what the test pull asks for (default: what a runtime got last)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    add_admin_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Check and print."""
    findings = list(_findings(args))
    answers = not any(finding.check == "agent" and finding.level is Level.WRONG for finding in findings)
    if args.json:
        print(json.dumps({"findings": msgspec.to_builtins(findings)}, indent=2))
    else:
        for finding in findings:
            print(printable(f"{finding.level.value:<8}{finding.check:<12}{finding.says}"))
            if finding.advice:
                print(printable(f"{'':<20}{finding.advice}"))
    if not answers:
        return _NO_AGENT
    return _WRONG if any(finding.level is Level.WRONG for finding in findings) else 0


def _findings(args: argparse.Namespace) -> Iterator[Finding]:
    status = None
    try:
        status = ask_for(args.admin, "/v1/status", Status)
        checkup = ask_for(args.admin, "/v1/checkup", Checkup)
    except P2PDistError as error:
        yield Finding("agent", Level.WRONG, str(error), "start it: systemctl start p2pdist-agent; its log says more")
    else:
        yield from check_agent(status, checkup, args.image)
    yield check_clock()
    yield from check_runtimes(status)
