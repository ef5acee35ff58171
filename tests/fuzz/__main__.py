"""`python -m tests.fuzz TARGET [libFuzzer options]`; with TARGET `all` an input's first byte chooses among them."""

import sys
import tempfile
from pathlib import Path


def main(argv: list[str]) -> int:
    """Fuzz until an option of libFuzzer ends it, or a target fails."""
    try:
        import atheris
    except ImportError:
        print("this needs atheris: pip install atheris", file=sys.stderr)
        return 2
    # Only what is imported here for the first time is followed.
    with atheris.instrument_imports(include=["p2pdist", "h11"]):
        from tests.fuzz.targets import SEEDS, TARGETS
    if len(argv) < 2 or argv[1] not in (*TARGETS, "all"):
        print(f"usage: python -m tests.fuzz {{{','.join([*TARGETS, 'all'])}}} [libFuzzer options]", file=sys.stderr)
        return 2
    chosen = sorted(TARGETS) if argv[1] == "all" else [argv[1]]

    def run(data: bytes) -> None:
        if data:
            TARGETS[chosen[data[0] % len(chosen)]](data[1:])

    with tempfile.TemporaryDirectory(prefix="fuzz-") as corpus:
        for place, name in enumerate(chosen):
            for number, seed in enumerate(SEEDS[name]):
                Path(corpus, f"{name}-{number}").write_bytes(bytes([place]) + seed)
        atheris.Setup([argv[0], *argv[2:], corpus], run)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
