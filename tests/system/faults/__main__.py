"""`python -m tests.system.faults`: run the fault matrix, or a part of it, and print what each cell came to.

Exit code 1 when a cell isn't as expected.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
from enum import StrEnum
from pathlib import Path

from tests.system.faults.bench import Bench, Result
from tests.system.faults.cells import Client, Fault, When, Where, all_cells
from tests.system.faults.pullers import program_of
from tests.system.faults.report import document, problems, table


def main() -> int:
    """Run what the arguments choose."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.faults", description=__doc__)
    chosen = {name: _choice(parser, name, kind) for name, kind in _KINDS.items()}
    parser.add_argument("--json", action="store_true", help="one JSON object a cell, in a list")
    parser.add_argument("--directory", type=Path, help="for everything that is made; default: with temporary files")
    args = parser.parse_args()
    wanted = {name: set(getattr(args, name)) for name in chosen}
    cells = [cell for cell in all_cells() if all(getattr(cell, name) in values for name, values in wanted.items())]
    here = {client for client in Client if all(map(shutil.which, program_of(client)))}
    for client in sorted({cell.client for cell in cells} - here):
        print(f"{client} isn't installed here: its cells are left out", file=sys.stderr)
    # So that SIGTERM, too, takes away what was made and started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="faults.", dir=args.directory) as name, Bench(Path(name)) as bench:
        for cell in cells:
            if cell.client in here:
                results.append(bench.run(cell))
                print(_line(results[-1]), file=sys.stderr, flush=True)
    print(json.dumps(document(results), indent=1) if args.json else table(results))
    return 1 if any(map(problems, results)) else 0


_KINDS: dict[str, type[StrEnum]] = {"client": Client, "where": Where, "fault": Fault, "when": When}


def _choice(parser: argparse.ArgumentParser, name: str, kind: type[StrEnum]) -> str:
    values = [*kind]
    parser.add_argument(
        f"--{name}", nargs="+", type=kind, default=values, metavar="NAME", help=f"of {', '.join(values)}; default: all"
    )
    return name


def _line(result: Result) -> str:
    found = problems(result)
    mark = f" ! {'; '.join(found)}" if found else ""
    return f"{result.cell}: {result.outcome} {result.seconds:.2f} s, +{result.recovery_seconds:.2f} s{mark}"


if __name__ == "__main__":
    sys.exit(main())
