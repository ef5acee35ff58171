"""`python -m simulations COMMAND`: emulation and model of a fleet, and what its event logs tell.

Each command is imported only when it is asked for; it is a module with `add_parser(subparsers)` and `run(args) -> int`.
Exit codes are those of `p2pdist`.
"""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType, MappingProxyType, ModuleType

from p2pdist.core.errors import P2PDistError

COMMANDS = MappingProxyType(
    {
        "emulate": ("simulations.emulation.command", "real daemons in network namespaces with shaped links"),
        "events": ("simulations.events.command", "who fed whom and when, from the event logs of a fleet"),
        "model": ("simulations.model.command", "the relay's rules on an event heap, for fleets of any size"),
        "shim": ("simulations.shim.command", "an agent that serves what it holds, beside nginx"),
    }
)
_INTERRUPTED = 130
_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (default: the process's arguments) names; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    chosen = next((argument for argument in arguments if not argument.startswith("-")), None)
    parser = argparse.ArgumentParser(prog="python -m simulations", description="Measure a fleet without having one.")
    subparsers = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    module: ModuleType | None = None
    for name, (where, summary) in COMMANDS.items():
        if name == chosen:
            module = importlib.import_module(where)
            module.add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=summary)
    args = parser.parse_args(arguments)
    assert module is not None
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        code: int = module.run(args)
        sys.stdout.flush()
        return code
    except P2PDistError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read the output has gone (`| head`); the interpreter would complain again when it flushes at exit.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Let SIGTERM unwind the stack as SIGINT does, so that what a command made is taken away."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
