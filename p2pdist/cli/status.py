"""`p2pdist status`: what the agent of this host is doing, for people or (--json) as the agent said it."""

import argparse
from collections.abc import Iterator
from typing import Any

from p2pdist.agent.report import RunningPull, Status, TrackerLink
from p2pdist.cli.admin import add_admin_argument, ask_and_print
from p2pdist.cli.text import format_duration, format_rate
from p2pdist.core.units import format_size


def add_parser(subparsers: Any) -> None:
    """Put `status` among the commands of `p2pdist`."""
    parser = subparsers.add_parser(
        "status", description="What the agent of this host is doing. Exit code 3 when no agent answers."
    )
    add_admin_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object (GET /v1/status) instead of text")


def run(args: argparse.Namespace) -> int:
    """Ask and print."""
    return ask_and_print(args, "/v1/status", Status, _lines)


def _lines(status: Status) -> Iterator[str]:
    uptime = format_duration(status.uptime_seconds)
    yield f"agent      {status.name} ({status.node_id}), p2pdist {status.version}, up {uptime}"
    yield f"tracker    {_tracker(status.tracker)}"
    yield f"shims      {', '.join(status.shims) or 'none'}"
    yield f"upstreams  {', '.join(status.upstreams) or 'none known yet'}"
    yield f"held       {status.blobs.count} blobs, {format_size(status.blobs.bytes)}"
    yield f"now        {format_rate(status.rates.received_bps)} in, {format_rate(status.rates.sent_bps)} out"
    came, total = status.bytes, format_size
    yield (
        f"received   {total(came.relay)} from members of relays, {total(came.dealt)} dealt by the tracker,"
        f" {total(came.swarm)} by swarm, {total(came.origin)} from the origin"
    )
    yield f"sent       {total(came.sent_relay)} in relays, {total(came.sent_swarm)} by swarm"
    yield f"pulls      {len(status.pulls) or 'none'} under way"
    yield from (f"  {_pull(pull)}" for pull in status.pulls)


def _tracker(link: TrackerLink) -> str:
    state = "connected for" if link.connected else "NOT connected for"
    error = f": {link.last_error}" if link.last_error and not link.connected else ""
    return f"{link.address}, {state} {format_duration(link.since_seconds)}{error}"


def _pull(pull: RunningPull) -> str:
    progress = format_size(pull.received_bytes)
    if pull.size_bytes:
        progress += f" of {format_size(pull.size_bytes)} ({100 * pull.received_bytes // pull.size_bytes} %)"
    return f"{pull.digest}  {progress}  by {pull.source}, {format_duration(pull.seconds)}"
