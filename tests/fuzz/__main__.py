"""`python -m tests.fuzz TARGET [libFuzzer options]`; TARGET `all` lets the first byte choose among them."""

import sys
import tempfile
from pathlib import Path

from tests.fuzz.targets import SEEDS, TARGETS


def main(argv: list[str]) -> int:
    """Fuzz until an option of libFuzzer ends it, or a target fails."""
    if len(argv) < 2 or argv[1] not in (*TARGETS, "all"):
        print(f"usage: python -m tests.fuzz {{{','.join([*TARGETS, 'all'])}}} [libFuzzer options]", file=sys.stderr)
        return 2
    try:
        import atheris
    except ImportError:
        print("this needs atheris: pip install atheris", file=sys.stderr)
        return 2
    # Only what is imported under the hook is followed, so the modules are read anew.
    for name in [name for name in sys.modules if name.split(".")[0] in ("p2pdist", "h11")]:
        del sys.modules[name]
    del sys.modules["tests.fuzz.targets"]
    with atheris.instrument_imports(include=["p2pdist", "h11"]):
        from tests.fuzz import targets
    followed = targets.TARGETS
    with tempfile.TemporaryDirectory(prefix="fuzz-") as corpus:
        names = sorted(followed)
        for name in names if argv[1] == "all" else [argv[1]]:
            for number, seed in enumerate(SEEDS[name]):
                first = bytes([names.index(name)]) if argv[1] == "all" else b""
                Path(corpus, f"{name}-{number}").write_bytes(first + seed)

        def run(data: bytes) -> None:
            if argv[1] != "all":
                followed[argv[1]](data)
            elif data:
                followed[names[data[0] % len(names)]](data[1:])

        atheris.Setup([argv[0], *argv[2:], corpus], run)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
