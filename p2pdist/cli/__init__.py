"""The command `p2pdist`: finds the module of the command that was asked for, and renders what it raises.

One module a command, each with `add_parser(subparsers)` and `run(args) -> int`; only the one that runs is imported, so
that a daemon doesn't carry the demo. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 a part that is
needed doesn't answer, 4 the store can't be used, 130 interrupted, 141 nobody reads the output.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import MappingProxyType, ModuleType

from p2pdist import __version__
from p2pdist.core.errors import P2PDistError

COMMANDS = MappingProxyType(
    {
        "tracker": "run the tracker of a fleet",
        "agent": "run the agent of this host",
        "pull": "let the agent of this host have an image",
        "status": "what the agent of this host is doing",
        "doctor": "what is wrong on this host, and what to do about it",
        "explain": "where the bytes of a blob came from, and what it waited for",
        "mirror": "let a container runtime ask the agent first; undo it",
        "config": "check a configuration, or show the one in effect",
        "pki": "the tracker's CA and join tokens",
        "demo": "see it work: a registry, a tracker and agents on this machine",
    }
)
_INTERRUPTED = 130
_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (default: the process's arguments) names; returns the exit code."""
    try:
        code = _run(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()
        return code
    except P2PDistError as error:
        return _tell([error])
    except BaseExceptionGroup as group:
        return _tell_group(group)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has gone; the interpreter would complain again when it flushes at exit.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return _BROKEN_PIPE


def _run(arguments: list[str]) -> int:
    chosen = next((argument for argument in arguments if not argument.startswith("-")), None)
    parser = argparse.ArgumentParser(prog="p2pdist", description="Container image layers, distributed peer to peer.")
    parser.add_argument("--version", action="version", version=f"p2pdist {__version__}")
    subparsers = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    module: ModuleType | None = None
    for name, summary in COMMANDS.items():
        if name == chosen:
            module = importlib.import_module(f"p2pdist.cli.{name}")
            module.add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=summary)
    try:
        args = parser.parse_args(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    assert module is not None
    code: int = module.run(args)
    return code


def _tell(errors: Sequence[P2PDistError]) -> int:
    """Print `errors` for a person; the exit code is that of the first."""
    for line in dict.fromkeys(line for error in errors for line in str(error).splitlines()):
        print(f"p2pdist: error: {line}", file=sys.stderr)
    return errors[0].exit_code


def _tell_group(group: BaseExceptionGroup[BaseException]) -> int:
    """The same for what a trio nursery raised, unless there is anything in it that wasn't raised on purpose."""
    expected, others = group.split((P2PDistError, KeyboardInterrupt))
    if others is not None or expected is None:
        raise group
    errors = [error for error in _leaves(expected) if isinstance(error, P2PDistError)]
    return _tell(errors) if errors else _INTERRUPTED


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
