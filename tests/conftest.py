"""What every test can rely on: nothing leaks into the next test, what is missing is named, figures are printed.

With `CI=true` in the environment a test whose program or rights are missing fails; elsewhere it is skipped with the
reason. Must not know anything about p2pdist.
"""

import gc
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

_SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
_LAST_SECONDS = 2.0


def _descriptors() -> set[tuple[str, str]]:
    """Open descriptors of this process and what each stands for; device files aren't counted."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue
        if not target.startswith(("/dev/", "/proc/")):
            found.add((number, target))
    return found


def _left_running(before: set[threading.Thread]) -> list[threading.Thread]:
    """Threads that a test started and that neither end by themselves nor wait idle in trio's cache."""
    started = [thread for thread in threading.enumerate() if thread not in before]
    for thread in started:
        if not thread.name.startswith("Trio thread "):
            thread.join(_LAST_SECONDS)
    return [thread for thread in started if thread.is_alive() and not thread.name.startswith("Trio thread ")]


@pytest.fixture(autouse=True)
def _nothing_leaks() -> Iterator[None]:
    threads, descriptors = set(threading.enumerate()), _descriptors()
    yield
    running = _left_running(threads)
    if running:
        pytest.fail(f"the test left threads running: {', '.join(thread.name for thread in running)}", pytrace=False)
    if _descriptors() - descriptors:
        gc.collect()
        still_open = sorted(_descriptors() - descriptors)
        if still_open:
            listing = ", ".join(f"{number} ({target})" for number, target in still_open)
            pytest.fail(f"the test left descriptors open: {listing}", pytrace=False)


def _missing(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and CI=true asks for everything", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def require_program() -> Callable[[str], str]:
    """`require_program("skopeo")` is the program's path; where it is missing the test is skipped (CI: fails)."""

    def find(name: str) -> str:
        path = shutil.which(name, path=_SEARCH_PATH)
        if path is None:
            _missing(f"the program {name} isn't installed (tests/run installs it)")
        assert path is not None
        return path

    return find


@pytest.fixture(scope="session")
def require_root() -> None:
    """Ask for this where a test makes network namespaces, mounts or containers."""
    if os.geteuid() != 0:
        _missing("this test needs root")


class Figure(Protocol):
    """What the fixture `figure` is."""

    def __call__(
        self, name: str, value: float, unit: str = "", *, at_most: float | None = None, at_least: float | None = None
    ) -> None: ...


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    """`figure("slowest agent, cold", 1.03, "x bound", at_most=1.05)` prints it at the end, and fails beyond a limit."""

    def record(
        name: str, value: float, unit: str = "", *, at_most: float | None = None, at_least: float | None = None
    ) -> None:
        limits = [f"{sign} {limit:g}" for sign, limit in (("<=", at_most), (">=", at_least)) if limit is not None]
        line = f"{name}: {value:.4g} {unit}".rstrip() + (f" ({', '.join(limits)})" if limits else "")
        record_property("figure", line)
        assert at_most is None or value <= at_most, line
        assert at_least is None or value >= at_least, line

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print every recorded figure above pytest's closing line."""
    lines = [
        f"{report.nodeid}: {value}"
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for key, value in report.user_properties
        if key == "figure"
    ]
    if lines:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.write_line(line)
