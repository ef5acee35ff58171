"""`p2pdist explain`: where one blob's bytes came from on this host, how long it waited and for what."""

import argparse
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from p2pdist.agent.explained import Explanation, Held, PullAccount, Source, Wait
from p2pdist.cli.admin import add_admin_argument, ask_and_print
from p2pdist.cli.text import format_duration, format_rate
from p2pdist.core.units import format_size

_SOURCES_SHOWN = 8
_WAITS_SHOWN = 6


def add_parser(subparsers: Any) -> None:
    """Put `explain` among the commands of `p2pdist`."""
    parser = subparsers.add_parser(
        "explain",
        description="Where the bytes of one blob came from on this host, how long it waited and for what. The agent"
        " remembers the last 256 blobs that it pulled since it started.",
    )
    parser.add_argument(
        "digest", metavar="DIGEST", help="the blob's digest, or its beginning: sha256:1a2b…, 1a2b… (at least 4 digits)"
    )
    add_admin_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object (GET /v1/explain) instead of text")


def run(args: argparse.Namespace) -> int:
    """Ask and print."""
    target = f"/v1/explain?{urlencode({'digest': args.digest})}"
    return ask_and_print(args, target, Explanation, lines)


def lines(explanation: Explanation) -> Iterator[str]:
    """What is printed for a person."""
    pull, held = explanation.pull, explanation.held
    yield f"blob       {explanation.digest}"
    yield f"host       {explanation.name} ({explanation.node_id})"
    if pull is not None:
        yield from _pull(pull, held is not None)
    elif held is not None:
        yield from _held(held)


def _held(held: Held) -> Iterator[str]:
    came = f", since {_moment(held.written_at)}" if held.written_at is not None else ""
    yield f"held       {format_size(held.size_bytes)} of {_place(held)}{came}"
    yield "pull       not remembered: it came before this agent started, or too many others came after it"


def _pull(pull: PullAccount, held: bool) -> Iterator[str]:
    size = f"{format_size(pull.size_bytes)}" if pull.size_bytes else "size not known yet"
    yield f"wanted     {_moment(pull.wanted_at)}, {size} of {_place(pull)}"
    yield f"state      {_state(pull, held)}"
    yield from _sources(pull)
    yield from _waits(pull)
    yield from (
        f"{'steps' if not n else '':<10} {_at(step.at_seconds)} {step.what}" for n, step in enumerate(pull.steps)
    )
    if pull.steps_left_out:
        yield f"{'':<10} … and {pull.steps_left_out} more"
    trouble = [
        f"{pull.overdue_pieces} overdue pieces were asked for" if pull.overdue_pieces else "",
        f"{format_size(pull.redundant_bytes)} came twice" if pull.redundant_bytes else "",
        f"{pull.taken_over} spans taken over from lost members" if pull.taken_over else "",
    ]
    if any(trouble):
        yield f"trouble    {', '.join(filter(None, trouble))}"
    if pull.sent_bytes:
        yield f"gave       {format_size(pull.sent_bytes)} to other members of its relays"


def _state(pull: PullAccount, held: bool) -> str:
    match pull.state:
        case "held":
            rate = format_rate(8 * pull.received_bytes / pull.seconds) if pull.seconds else ""
            gone = "" if held else "; no longer in the store"
            return f"held after {_seconds(pull.seconds)}{f', {rate}' if rate else ''}{gone}"
        case "running":
            share = f" ({100 * pull.received_bytes // pull.size_bytes} %)" if pull.size_bytes else ""
            return f"arriving for {_seconds(pull.seconds)}, {format_size(pull.received_bytes)} here{share}"
        case _:
            return f"{pull.state.upper()} after {_seconds(pull.seconds)}: {pull.error or 'the agent was stopped'}"


def _sources(pull: PullAccount) -> Iterator[str]:
    shown, rest = pull.sources[:_SOURCES_SHOWN], pull.sources[_SOURCES_SHOWN:]
    if not shown:
        yield "came       nothing yet" if pull.state == "running" else "came       nothing"
    for number, source in enumerate(shown):
        share = 100 * source.bytes / max(1, pull.received_bytes)
        yield f"{'came' if not number else '':<10} {format_size(source.bytes):>10} {share:3.0f} %  {_who(source)}"
    if rest:
        size_bytes = sum(source.bytes for source in rest)
        share = 100 * size_bytes / max(1, pull.received_bytes)
        yield f"{'':<10} {format_size(size_bytes):>10} {share:3.0f} %  from {len(rest)} others"


def _who(source: Source) -> str:
    node = f"{source.name} ({source.node[:12]})" if source.name else source.node
    match source.by:
        case "deal":
            return "dealt by the tracker"
        case "relay":
            return f"by relay from {node}"
        case "swarm":
            return f"by swarm from {node}" if node else "by swarm, from peers that weren't told apart"
        case _:
            return "from the origin"


def _waits(pull: PullAccount) -> Iterator[str]:
    total: dict[str, float] = {}
    for wait in pull.waits:
        total[wait.what] = total.get(wait.what, 0.0) + wait.seconds
    waited = sum(total.values())
    first = pull.first_byte_seconds
    came = f"first byte after {_seconds(first)}" if first is not None else "no byte has come"
    yield f"waited     {_seconds(waited)} of {_seconds(pull.seconds)}; {came}"
    for what, seconds in sorted(total.items(), key=lambda item: -item[1]):
        yield f"{'':<10} {_seconds(seconds):>10}  for {what}"
    begun = pull.seconds if first is None else first
    gaps = [wait for wait in pull.waits if wait.seconds > pull.gap_seconds and wait.at_seconds >= begun]
    yield from _gaps(gaps, pull.waits_left_out)


def _gaps(gaps: list[Wait], left_out: int) -> Iterator[str]:
    longest = sorted(gaps, key=lambda wait: -wait.seconds)[:_WAITS_SHOWN]
    for number, gap in enumerate(sorted(longest, key=lambda wait: wait.at_seconds)):
        yield f"{'' if number else 'gaps':<10} {_at(gap.at_seconds)} nothing for {_seconds(gap.seconds)}: {gap.what}"
    if (more := len(gaps) - len(longest) + left_out) > 0:
        yield f"{'':<10} … and {more} shorter or later ones"


def _place(where: PullAccount | Held) -> str:
    return f"{where.upstream}/{where.repository}{' (private)' if where.private else ''}"


def _at(seconds: float) -> str:
    return f"at {_seconds(seconds):>8}"


def _seconds(seconds: float) -> str:
    """Milliseconds below a second, since that is where small blobs live."""
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else format_duration(seconds)


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(at))
