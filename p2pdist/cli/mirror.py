"""`p2pdist mirror`: let a container runtime of this host ask the agent first, see whether it does, undo it exactly."""

import argparse
import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from p2pdist.agent.report import Client, Served, Status
from p2pdist.cli.admin import add_admin_argument, ask_for
from p2pdist.cli.text import format_duration, printable
from p2pdist.config import PeerAddress, RegistryHost
from p2pdist.core.errors import InvalidInput, P2PDistError
from p2pdist.runtimes import docker, ledger
from p2pdist.runtimes.known import RUNTIMES, is_here
from p2pdist.runtimes.ledger import Change
from p2pdist.runtimes.plan import EVERY_REGISTRY, Reading, Runtime, Wish
from p2pdist.runtimes.tree import HostTree

_DEFAULT_SHIM = "127.0.0.1:7500"
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
_SAYS = (
    "Let a container runtime of this host ask the agent before the registry. What else its configuration says stays,"
    " byte for byte, and `remove` brings back what was there. Without the agent a runtime goes to the registry itself."
)


def add_parser(subparsers: Any) -> None:
    """Put `mirror` and its commands among the commands of `p2pdist`."""
    parser = subparsers.add_parser("mirror", description=_SAYS)
    commands = parser.add_subparsers(dest="mirror_command", metavar="COMMAND", required=True)
    install = commands.add_parser("install", help="write the mirror configuration; again changes what differs")
    install.add_argument("runtime", choices=RUNTIMES)
    install.add_argument(
        "--registry",
        action="append",
        type=_registry,
        dest="registries",
        metavar="REGISTRY",
        help="a registry to be asked for at the agent; may be given several times (default: all that the agent knows;"
        " containerd: every registry)",
    )
    status = commands.add_parser(
        "status", help="what is configured, and the last pull that came; exit code 1 when nothing is configured"
    )
    status.add_argument("runtimes", nargs="*", choices=[*RUNTIMES, []], metavar="RUNTIME", help="default: all")
    status.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    remove = commands.add_parser("remove", help="bring back what was there before")
    remove.add_argument("runtime", choices=RUNTIMES)
    for command in (install, remove):
        command.add_argument("--dry-run", action="store_true", help="print what would change, and change nothing")
    for command in (install, status):
        command.add_argument(
            "--shim",
            type=_address,
            metavar="HOST:PORT",
            help="where the agent takes requests (default: what the agent says, else " + _DEFAULT_SHIM + ")",
        )
        add_admin_argument(command)
    for command in (install, status, remove):
        command.add_argument(
            "--root", type=Path, default=Path("/"), metavar="DIR", help="the tree of a host's files, such as an image's"
        )


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say."""
    actions = {"install": _install, "status": _status, "remove": _remove}
    return actions[args.mirror_command](args)


def _install(args: argparse.Namespace) -> int:
    runtime, status = RUNTIMES[args.runtime], _agent_says(args.admin)
    known = tuple(status.upstreams) if status else ()
    wish = Wish(args.shim or shim_of(status), tuple(args.registries or known), named=args.registries is not None)
    tree = HostTree(args.root)
    plan, changes = ledger.install(tree, runtime, wish, dry_run=args.dry_run)
    _show(changes, dry_run=args.dry_run)
    if not changes:
        print(f"{runtime.title} is configured so already; nothing changed.")
    for note in (*plan.notes, *_agent_notes(runtime, wish, status)):
        print(f"note: {note}")
    if changes and not args.dry_run:
        print(f"{runtime.title} asks {wish.shim} first; {runtime.reload(tree)}.")
    return 0


def _remove(args: argparse.Namespace) -> int:
    runtime, tree = RUNTIMES[args.runtime], HostTree(args.root)
    changes, notes = ledger.remove(tree, runtime, dry_run=args.dry_run)
    _show(changes, dry_run=args.dry_run)
    for note in notes:
        print(f"note: {note}")
    if not changes and not notes:
        print(f"Nothing of ours is in {runtime.title}'s configuration.")
    elif changes and not args.dry_run:
        print(f"{runtime.title} goes to the registries itself again; {runtime.reload(tree)}.")
    return 0


def _status(args: argparse.Namespace) -> int:
    said = _agent_says(args.admin)
    shim = args.shim or shim_of(said)
    tree = HostTree(args.root)
    chosen = [RUNTIMES[name] for name in args.runtimes or RUNTIMES]
    readings = {runtime.name: runtime.reading(tree, shim) for runtime in chosen}
    if args.json:
        print(json.dumps({name: _as_json(each, last_pull(said, name)) for name, each in readings.items()}, indent=2))
    else:
        for runtime in chosen:
            for line in _lines(runtime, readings[runtime.name], shim, said):
                print(printable(line))
    return 0 if any(reading.files for reading in readings.values()) else 1


def _lines(runtime: Runtime, reading: Reading, shim: str, said: Status | None) -> Iterator[str]:
    title = f"{runtime.name:<11}"
    if not reading.files:
        here = "isn't configured" if is_here(runtime) else "isn't on this host"
        hint = f": p2pdist mirror install {runtime.name}" if is_here(runtime) else ""
        yield f"{title}{here}{hint}"
    else:
        which = "every registry" if EVERY_REGISTRY in reading.registries else ", ".join(reading.registries)
        yield f"{title}asks {shim} first for {which} ({', '.join(map(str, reading.files))})"
    yield from (f"{'':<11}{problem}" for problem in reading.problems)
    pull = last_pull(said, runtime.name)
    if pull is not None:
        yield f"{'':<11}last pull through this agent: {describe(pull)}"
    elif reading.files:
        why = "none since it started" if said else "unknown, the agent doesn't answer"
        yield f"{'':<11}last pull through this agent: {why}"


def last_pull(status: Status | None, runtime: str) -> tuple[Client, Served] | None:
    """What a client of a runtime got last from this agent."""
    clients = [client for client in status.clients if client.runtime == runtime] if status else []
    got = [(client, served) for client in clients for served in (client.manifest, client.blob) if served]
    return min(got, key=lambda each: each[1].seconds_ago, default=None)


def describe(pull: tuple[Client, Served]) -> str:
    """Who got what, when."""
    client, served = pull
    return f"{format_duration(served.seconds_ago)} ago, {served.name} by {client.user_agent}"


def _as_json(reading: Reading, pull: tuple[Client, Served] | None) -> dict[str, Any]:
    return {
        "registries": reading.registries,
        "files": [str(path) for path in reading.files],
        "problems": reading.problems,
        "last_pull": {"user_agent": pull[0].user_agent, **msgspec.to_builtins(pull[1])} if pull else None,
    }


def _agent_says(admin: PeerAddress) -> Status | None:
    try:
        return ask_for(admin, "/v1/status", Status)
    except P2PDistError:
        return None


def shim_of(status: Status | None) -> str:
    """Where runtimes of this host reach the agent."""
    return _reachable(status.shims[0]) if status and status.shims else _DEFAULT_SHIM


def _reachable(address: str) -> str:
    """Where runtimes of this host reach a listener; for an address that means every one, that is the loopback's."""
    host, _, port = address.rpartition(":")
    return f"{_EVERYWHERE.get(host.strip('[]'), host)}:{port}"


def _agent_notes(runtime: Runtime, wish: Wish, status: Status | None) -> list[str]:
    """What the agent lacks for this runtime."""
    if status is None:
        return ["the agent doesn't answer, so whether it takes these requests isn't known; p2pdist doctor says more"]
    unknown = [registry for registry in wish.registries if registry not in status.upstreams]
    notes = [f"{registry} isn't an upstream of the tracker: the agent answers 404 for it" for registry in unknown]
    defaults = {_reachable(address): default for address, default in status.default_upstreams.items()}
    if runtime is docker.RUNTIME and defaults.get(wish.shim) != docker.HUB:
        notes.append(
            f'Docker names no registry to its mirror: the agent needs [shim] default_upstream = "{docker.HUB}"'
        )
    return notes


def _show(changes: Sequence[Change], *, dry_run: bool) -> None:
    for change in changes:
        if not dry_run:
            done = "removed" if change.after is None else "changed" if change.before is not None else "made"
            print(f"{done} {change.path}")
            continue
        old, new = ("/dev/null" if content is None else str(change.path) for content in (change.before, change.after))
        before, after = ((content or b"").decode(errors="replace") for content in (change.before, change.after))
        for line in difflib.unified_diff(before.splitlines(), after.splitlines(), old, new, lineterm=""):
            print(printable(line))


def _registry(text: str) -> str:
    return _argument(RegistryHost, text)


def _address(text: str) -> str:
    return _argument(PeerAddress, text)


def _argument(kind: type[RegistryHost | PeerAddress], text: str) -> str:
    try:
        return str(kind(text))
    except InvalidInput as error:
        raise argparse.ArgumentTypeError(str(error)) from error
