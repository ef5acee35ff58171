"""A part of the fault matrix: every fault, place, moment and client at least once. See tests/system/faults."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.faults.bench import Bench, Result
from tests.system.faults.cells import AGENT_FAULTS, Cell, Client, Fault, Outcome, When, Where, all_cells
from tests.system.faults.expected import expected
from tests.system.faults.pullers import program_of
from tests.system.faults.report import document, problems, table

CELLS = [
    "skopeo origin 404 start",
    "skopeo origin 401 middle",
    "skopeo origin 500 start",
    "skopeo origin 503 middle",
    "skopeo origin refused middle",
    "skopeo origin hang start",
    "skopeo origin slow middle",
    "skopeo origin fin middle",
    "skopeo origin rst start",
    "skopeo origin wrong-bytes middle",
    "skopeo origin wrong-length start",
    "skopeo tracker fin headers",
    "skopeo tracker hang middle",
    "skopeo peer wrong-bytes start",
    "skopeo peer refused middle",
    "skopeo agent killed headers",
    "containerd origin 429 headers",
    "containerd origin 403 start",
    "containerd origin wrong-length middle",
    "containerd tracker rst middle",
    "containerd peer hang headers",
    "containerd agent killed middle",
    "containerd agent restarted start",
    "podman origin 404 middle",
    "podman origin hang middle",
    "podman tracker 404 headers",
    "podman agent killed start",
    "buildah origin fin start",
    "buildah peer 503 middle",
    "buildah agent restarted middle",
    "dockerd origin 500 middle",
    "dockerd tracker wrong-length start",
    "dockerd agent killed headers",
]


@pytest.mark.parametrize("client", Client)
def test_cells(client: Client, tmp_path: Path, require_program: Callable[[str], str], require_root: None) -> None:
    for program in ("docker-registry", *program_of(client)):
        require_program(program)
    with Bench(tmp_path) as bench:
        results = [bench.run(cell) for cell in map(Cell.parse, CELLS) if cell.client is client]
    assert not [problem for result in results for problem in problems(result)], table(results)


def test_the_cells_are_representative() -> None:
    cells = [Cell.parse(name) for name in CELLS]
    for kind, of in ((Client, "client"), (Where, "where"), (Fault, "fault"), (When, "when")):
        assert {getattr(cell, of) for cell in cells} == {*kind}
    assert len(cells) == len({*cells})


def test_the_whole_matrix_has_an_expected_outcome_for_each_cell() -> None:
    cells = [*all_cells()]
    assert len(cells) == len({*cells}) == len(Client) * len(When) * (3 * (len(Fault) - len(AGENT_FAULTS)) + 2)
    failing = [cell for cell in cells if expected(cell) is Outcome.FAILED]
    # Wrong bytes of the origin, for four clients; an agent that dies, for those that don't begin anew.
    assert len(failing) == 4 * 3 + 2 * (1 + 3)


def test_the_report_says_what_is_wrong() -> None:
    good = Result(Cell.parse("podman peer hang start"), Outcome.PULLED, 3.5, 3.2, "")
    late = Result(Cell.parse("podman peer hang middle"), Outcome.PULLED, 9.5, 9.2, "")
    bad = Result(Cell.parse("skopeo origin 404 start"), Outcome.FAILED, 0.1, 0.0, "no such blob", next_pulled=False)
    lines = table([good, late, bad]).splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["where", "fault", "when", "podman", "skopeo"],
        ["peer", "hang", "start", "3.2"],
        ["peer", "hang", "middle", "9.2!"],
        ["origin", "404", "start", "failed!"],
    ]
    assert lines[5:] == [
        "3 cells, 2 not as expected, slowest recovery 9.2 s",
        "! podman peer hang middle: took 9.2 s longer than without the fault",
        "! skopeo origin 404 start: failed, expected pulled: no such blob",
        "! skopeo origin 404 start: the next pull failed too",
    ]
    assert [entry["outcome"] for entry in document([good, bad])] == ["pulled", "failed"]
