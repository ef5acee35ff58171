"""The OCI distribution conformance program, against the shim in front of docker-registry and against that by itself.

It is a Go program that only the Go module proxy has, and Debian 12's Go is too old for it, so where no newer Go is
installed these tests are skipped.
"""

import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import Figure
from tests.system import images
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


def run(program: Path, registry: str, directory: Path, settings: Mapping[str, str]) -> str:
    """What the program prints of a run against `registry`; its reports are in `directory`."""
    directory.mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "OCI_REGISTRY": registry,
        "OCI_TLS": "disabled",
        "OCI_LOG": "error",
        "OCI_RESULTS_DIR": str(directory),
        **settings,
    }
    finished = subprocess.run(
        [program], env=environment, cwd=directory, capture_output=True, text=True, timeout=RUN_SECONDS, check=False
    )
    return finished.stdout


def outcomes(directory: Path) -> Counter[tuple[str, str]]:
    """How often a test of each name had each outcome: names repeat, in an order that changes from run to run."""
    cases = ET.parse(directory / "junit.xml").getroot().iter("testcase")
    return Counter((case.attrib["name"], case.attrib["status"]) for case in cases)


def total(counted: Counter[tuple[str, str]], outcome: str) -> int:
    return sum(times for (_, one), times in counted.items() if one == outcome)


def test_nothing_fails_through_the_shim_that_passes_straight(
    conformance: Path, registry_and_shim: tuple[Registry, str], tmp_path: Path, figure: Figure
) -> None:
    registry, shim = registry_and_shim
    run(
        conformance,
        address_of(registry.direct_url),
        tmp_path / "straight",
        {"OCI_REPO1": "straight/one", "OCI_REPO2": "straight/two"},
    )
    run(conformance, shim, tmp_path / "through", {"OCI_REPO1": "shim/one", "OCI_REPO2": "shim/two"})
    straight, through = outcomes(tmp_path / "straight"), outcomes(tmp_path / "through")
    assert straight.total() == through.total()
    lost = [
        name for (name, outcome), times in straight.items() if outcome == "passed" and through[name, outcome] < times
    ]
    assert lost == []
    for outcome in ("passed", "failure", "skipped"):
        figure(f"{outcome}, straight", total(straight, outcome))
        figure(f"{outcome}, through the shim", total(through, outcome))
    assert total(straight, "passed") > 500


def test_reading_through_the_shim_fails_nothing(
    conformance: Path, registry_and_shim: tuple[Registry, str], tmp_path: Path
) -> None:
    registry, shim = registry_and_shim
    one = images.image(images.layer(100_000, "conformance"))
    several = images.index(one)
    registry.push(several, "read/only", "1")
    settings = {
        "OCI_REPO1": "read/only",
        "OCI_API_PUSH": "false",
        "OCI_RO_DATA_TAGS": "1",
        "OCI_RO_DATA_MANIFESTS": f"{several.manifest.digest} {one.manifest.digest}",
        "OCI_RO_DATA_BLOBS": " ".join(blob.digest for blob in one.blobs),
        # docker-registry 2.8 has no referrers, and says so by a 404, which goes on to the client.
        "OCI_API_REFERRER": "false",
        # The program deletes what it reads where it may.
        "OCI_API_MANIFESTS_DELETE": "false",
        "OCI_API_BLOBS_DELETE": "false",
        "OCI_API_TAGS_DELETE": "false",
    }
    # In this mode the program crashes before it writes its reports, but after it has printed them.
    said = re.findall(r"^ *(OCI Conformance Test.*): (\w+)$", run(conformance, shim, tmp_path / "out", settings), re.M)
    assert Counter(outcome for _, outcome in said)["Pass"] > 15
    assert [name for name, outcome in said if outcome not in ("Pass", "Skip", "Disabled")] == []
