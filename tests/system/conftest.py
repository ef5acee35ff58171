"""System tests: what they need, and that they leave nothing behind."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from simulations.network import namespaces, sweep
from simulations.ownership import Owner
from simulations.processes import marked_processes, poll_until, sweep_processes
from tests.system.fleet import Fleet

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.system)


@pytest.fixture(scope="session")
def _swept() -> None:
    """What earlier, killed runs left is gone before the first test."""
    sweep_processes()
    sweep()


@pytest.fixture(scope="module", autouse=True)
def nothing_left(_swept: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No process, namespace or mount of a module's tests outlives the module."""
    yield
    poll_until(lambda: not _left_processes(), "processes of these tests gone", 5)
    assert [name for name in namespaces() if Owner.parse(name) == Owner.current()] == []
    assert _mounts_below(tmp_path_factory.getbasetemp()) == []


def _left_processes() -> list[int]:
    mine = Owner.current()
    return [pid for pid, owner in marked_processes().items() if owner == mine and pid != mine.pid]


def _mounts_below(directory: Path) -> list[str]:
    mounts = (line.split(" ")[1] for line in Path("/proc/self/mounts").read_text().splitlines())
    return [mount for mount in mounts if Path(mount).is_relative_to(directory)]


@pytest.fixture(scope="session")
def needs_namespaces(require_root: None, require_program: Callable[[str], str]) -> None:
    """Network namespaces with shaped links can be made here."""
    require_program("ip")
    require_program("tc")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what the daemons of the fleets that ran meanwhile had to say."""
    report = yield
    if report.failed:
        for fleet in Fleet.running:
            report.sections += [(f"log of {daemon.name}", daemon.log_tail()) for daemon in fleet.daemons()]
    return report
