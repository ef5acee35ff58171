"""The OCI distribution conformance program, against the shim in front of docker-registry and against that by itself.

It is a Go program that only the Go module proxy has, and Debian 12's Go is too old for it, so where no newer Go is
installed these tests are skipped. Its report on a test run is read from its junit.xml: names repeat, the order doesn't
change.
"""

import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.system.clients import address_of
from tests.system.fleet import UPSTREAM, Fleet, upstream
from tests.system.registries import Registry

MODULE = "github.com/opencontainers/distribution-spec/conformance@v0.0.0-20260831232431-97274622c111"
BUILD_SECONDS = 110
RUN_SECONDS = 60


@pytest.fixture(scope="session")
def conformance(tmp_path_factory: pytest.TempPathFactory, require_program: Callable[[str], str]) -> Path:
    """The program, built; Go keeps what it downloaded and compiled for the next time."""
    go = shutil.which("go", path=f"{os.environ['PATH']}:/usr/local/go/bin")
    if go is None:
        pytest.skip("Go isn't installed, and tests/run can't install one that is new enough (1.24)")
    require_program("docker-registry")
    target = tmp_path_factory.mktemp("go")
    environment = {**os.environ, "GOBIN": str(target), "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod"}
    built = subprocess.run(
        [go, "install", MODULE], env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
    )
    assert built.returncode == 0, built.stderr
    return target / "conformance"


@pytest.fixture
def registry_and_shim(tmp_path: Path) -> Iterator[tuple[Registry, str]]:
    """A docker-registry that lets delete, and the address of a shim whose default upstream it is."""
    with (
        Registry(tmp_path / "registry", deletes=True) as registry,
        Fleet(
            tmp_path / "fleet",
            [upstream(registry, metered=False)],
            1,
            agent_settings={"shim": {"default_upstream": UPSTREAM}},
        ) as fleet,
    ):
        yield registry, fleet.agents[0].shim_address


def run(program: Path, registry: str, directory: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """The outcome of every test, by its name and its place among those of the same name."""
    directory.mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "OCI_REGISTRY": registry,
        "OCI_TLS": "disabled",
        "OCI_LOG": "error",
        "OCI_RESULTS_DIR": str(directory),
        **settings,
    }
    subprocess.run([program], env=environment, cwd=directory, capture_output=True, timeout=RUN_SECONDS, check=False)
    seen: Counter[str] = Counter()
    outcomes = {}
    for case in ET.parse(directory / "junit.xml").getroot().iter("testcase"):
        name = case.attrib["name"]
        seen[name] += 1
        outcomes[f"{name} #{seen[name]}"] = case.attrib["status"]
    return outcomes


def test_nothing_fails_through_the_shim_that_passes_straight(
    conformance: Path, registry_and_shim: tuple[Registry, str], tmp_path: Path
) -> None:
    registry, shim = registry_and_shim
    straight = run(
        conformance,
        address_of(registry.direct_url),
        tmp_path / "straight",
        {"OCI_REPO1": "straight/one", "OCI_REPO2": "straight/two"},
    )
    through = run(conformance, shim, tmp_path / "through", {"OCI_REPO1": "shim/one", "OCI_REPO2": "shim/two"})
    assert Counter(straight.values())["passed"] > 500
    assert through.keys() == straight.keys()
    worse = [name for name, outcome in through.items() if outcome == "failure" and straight[name] != "failure"]
    assert worse == []
