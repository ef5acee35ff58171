"""`python -m simulations shim` on a blob so small that its figures say nothing: it measures both, and cleans up."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from simulations.network import namespaces

pytestmark = [pytest.mark.usefixtures("needs_namespaces"), pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]


def test_agent_and_nginx_are_measured(tmp_path: Path, require_program: Callable[[str], str]) -> None:
    for program in ("nginx", "curl"):
        require_program(program)
    before = namespaces()
    command = ["shim", "--size", "8MiB", "--repeat", "1", "--json", "--directory", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "simulations", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert list(figures) == ["MiB/s", "CPU s/GiB of the server", "small requests/s", "CPU us a small request"]
    assert all(figure[who]["median"] > 0 for figure in figures.values() for who in ("agent", "nginx", "ratio"))
    assert namespaces() == before
    assert not [*tmp_path.iterdir()]
