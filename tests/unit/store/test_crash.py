import random
import subprocess
import sys
from pathlib import Path

import pytest

from .crash import check

REPOSITORY = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "tests.unit.store.crash"]


def test_a_process_killed_at_any_line_of_the_store_leaves_it_sound(root: Path) -> None:
    run = subprocess.run(
        [*COMMAND, "lines", str(root), "7", "150"], cwd=REPOSITORY, capture_output=True, text=True, timeout=100
    )
    assert (run.stdout, run.stderr) == ("done\n", "")


@pytest.mark.parametrize("seed", range(3))
def test_a_process_killed_while_four_threads_write_leaves_it_sound(root: Path, seed: int) -> None:
    dice = random.Random(seed)
    for number in range(3):
        command = [*COMMAND, "threads", str(root), str(seed * 10 + number)]
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            for _ in range(dice.randrange(1, 300)):
                assert child.stdout.readline()
            child.kill()
        check(root, [])
