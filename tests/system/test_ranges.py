"""Ranges through a shim: lazy pullers, daemons that ask for many parts at once, readers that hang up."""

import io
import random
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from pathlib import Path

import pytest

from simulations.processes import poll_until
from tests.conftest import Figure
from tests.system.clients import Podman, run
from tests.system.daemons import Agent
from tests.system.fetches import fetch_blob, get_manifest
from tests.system.fleet import UPSTREAM, Fleet, open_fleet
from tests.system.images import LAYER_TYPE, Content, Image, image
from tests.system.registries import Registry

REPOSITORY = "library/app"
MIB = 1 << 20


@pytest.fixture(scope="module")
def origin_and_fleet(
    tmp_path_factory: pytest.TempPathFactory, require_program: Callable[[str], str]
) -> Iterator[tuple[Registry, Fleet]]:
    require_program("docker-registry")
    with open_fleet(tmp_path_factory.mktemp("ranges"), agents=2) as both:
        yield both


def pushed(registry: Registry, tag: str, size_bytes: int) -> tuple[Image, Content]:
    """An image of one layer at the origin."""
    blob = Content(LAYER_TYPE, random.Random(tag).randbytes(size_bytes))
    made = image(blob)
    registry.push(made, REPOSITORY, tag)
    return made, blob


class Request:
    """A GET of a blob with a Range field, whose body a test reads as far as it likes."""

    def __init__(self, agent: Agent, blob: Content, field: str | None) -> None:
        self.connection = agent.shim()
        headers = {"Range": field} if field else {}
        self.connection.request("GET", f"/v2/{REPOSITORY}/blobs/{blob.digest}?ns={UPSTREAM}", headers=headers)
        self.response: HTTPResponse = self.connection.getresponse()

    def hang_up(self) -> None:
        self.response.close()
        self.connection.close()


def ranged(agent: Agent, blob: Content, field: str) -> tuple[HTTPResponse, bytes]:
    """The answer to one such request, and its whole body."""
    request = Request(agent, blob, field)
    body = request.response.read()
    request.hang_up()
    assert request.response.status == 206, f"{body[:300]!r}\n{agent.log_tail()}"
    assert request.response.headers["Content-Length"] == str(len(body))
    return request.response, body


def parts_of(response: HTTPResponse, body: bytes, size_bytes: int) -> list[tuple[int, bytes]]:
    """Offset and bytes of each part, by the lengths that Content-Range gives."""
    match = re.fullmatch(r"multipart/byteranges; boundary=(\S+)", response.headers["Content-Type"])
    assert match is not None
    delimiter, found = b"\r\n--" + match[1].encode(), []
    while not body.startswith(delimiter + b"--"):
        head, _, body = body.removeprefix(delimiter).partition(b"\r\n\r\n")
        said = re.search(rb"Content-Range: bytes (\d+)-(\d+)/(\d+)$", head)
        assert said is not None
        start, last, whole = (int(number) for number in said.groups())
        assert whole == size_bytes
        found.append((start, body[: last + 1 - start]))
        body = body[last + 1 - start :]
    return found


def test_three_hundred_parts_in_one_header_come_from_the_origin_as_parts(
    origin_and_fleet: tuple[Registry, Fleet],
) -> None:
    registry, fleet = origin_and_fleet
    agent = fleet.agents[0]
    _, blob = pushed(registry, "parts", 64 * MIB)
    get_manifest(agent, REPOSITORY, "parts")
    starts = sorted(random.Random(5).sample(range(10_000_000, 64_000_000, 100_000), 300))
    spans = [(start, start + 1000 + start % 777) for start in starts]
    field = "bytes=" + ",".join(f"{start}-{end - 1}" for start, end in spans)
    assert len(field) > 5 * 1024
    response, body = ranged(agent, blob, field)
    assert parts_of(response, body, blob.size_bytes) == [(start, blob.data[start:end]) for start, end in spans]
    wanted = sum(end - start for start, end in spans)
    assert registry.meter.blob_bytes()[blob.digest] == wanted
    assert agent.received().origin == wanted
    assert not agent.status()["pulls"]
    # Whoever wants all of it gets it as if nothing had been.
    assert fetch_blob(agent, REPOSITORY, blob).is_whole(blob)
    assert ranged(agent, blob, "bytes=-1234")[1] == blob.data[-1234:]
    assert registry.meter.blob_bytes()[blob.digest] == blob.size_bytes + wanted


def test_containerd_reads_a_blob_in_parallel_and_hangs_up_after_each_part(
    origin_and_fleet: tuple[Registry, Fleet],
) -> None:
    """As containerd 2.1 does: the first request asks for all, the others from some byte on; each is read for its part.

    Four of them at a time, while the blob arrives.
    """
    registry, fleet = origin_and_fleet
    agents = fleet.agents
    _, blob = pushed(registry, "parallel", 48 * MIB)
    part_bytes = 4 * MIB
    registry.meter.pace(32 * MIB)
    try:

        def read(agent: Agent, start: int) -> bytes:
            request = Request(agent, blob, f"bytes={start}-" if start else None)
            assert request.response.status == (206 if start else 200)
            assert request.response.headers["Content-Length"] == str(blob.size_bytes - start)
            data = request.response.read(part_bytes)
            request.hang_up()
            return data

        def pull(agent: Agent) -> bytes:
            first = Request(agent, blob, None)
            with ThreadPoolExecutor(4) as pool:
                others = pool.map(lambda start: read(agent, start), range(part_bytes, blob.size_bytes, part_bytes))
                data = first.response.read(part_bytes)
                first.hang_up()
                return data + b"".join(others)

        for agent in agents:
            get_manifest(agent, REPOSITORY, "parallel")
        with ThreadPoolExecutor(len(agents)) as pool:
            assert all(data == blob.data for data in pool.map(pull, agents))
    finally:
        registry.meter.pace(0)
    assert registry.meter.blob_bytes()[blob.digest] == blob.size_bytes


def test_a_reader_that_hangs_up_leaves_the_rest_where_it_is(
    origin_and_fleet: tuple[Registry, Fleet], figure: Figure
) -> None:
    registry, fleet = origin_and_fleet
    agent = fleet.agents[0]
    _, blob = pushed(registry, "hang-up", 64 * MIB)
    get_manifest(agent, REPOSITORY, "hang-up")
    for start in (1, 16 * MIB):
        request = Request(agent, blob, f"bytes={start}-")
        assert request.response.read(MIB) == blob.data[start : start + MIB]
        request.hang_up()
    poll_until(lambda: not reads_parts(agent), "what was passed through is called off", 10)
    assert not agent.status()["pulls"]
    assert agent.metric("p2pdist_agent_pulls_total", outcome="failed") == 0
    taken = registry.meter.blob_bytes()[blob.digest] / MIB
    figure("fetched of 64 MiB for two readers from some byte on that hung up after 1 MiB", taken, "MiB", at_most=24)


def reads_parts(agent: Agent) -> bool:
    """Whether the agent has a file open through which parts are passed."""
    links = Path(f"/proc/{agent.process.pid}/fd").iterdir()
    return any(f"{agent.state_dir.name}/blobs/part-" in str(link.readlink()) for link in links if link.is_symlink())


def test_one_that_resumes_gets_the_rest_and_the_fleet_pulls_meanwhile(
    origin_and_fleet: tuple[Registry, Fleet], figure: Figure
) -> None:
    registry, fleet = origin_and_fleet
    agent = fleet.agents[1]
    _, blob = pushed(registry, "resume", 64 * MIB)
    get_manifest(agent, REPOSITORY, "resume")
    assert ranged(agent, blob, "bytes=20000000-")[1] == blob.data[20_000_000:]
    twice = registry.meter.blob_bytes()[blob.digest] / blob.size_bytes - 1
    figure("fetched twice of a blob of 64 MiB that is resumed at 20 MB", twice, "of it", at_most=0.3)


class LazyPodman(Podman):
    """Podman that pulls zstd:chunked images file by file: overlay storage, on which partial pulls work."""

    def __init__(self, registry: str, mirror: str) -> None:
        super().__init__(registry, mirror)
        self._storage = self._directory / "storage.conf"
        self._storage.write_text(
            f'[storage]\ndriver = "overlay"\nrunroot = "{self._directory}/run"\ngraphroot = "{self._directory}/root"\n'
            "[storage.options]\n"
            'pull_options = {enable_partial_images = "true", use_hard_links = "false", ostree_repos = ""}\n'
        )

    def _podman(self, *arguments: str | Path) -> str:
        options: list[str | Path] = ["--tmpdir", self._directory / "tmp", "--events-backend", "none"]
        options += ["--cgroup-manager", "cgroupfs"]
        return run(
            ["podman", *options, *arguments], {**self._environment, "CONTAINERS_STORAGE_CONF": str(self._storage)}
        )

    def push(self, files: dict[str, bytes], archive: Path, target: str) -> None:
        """Make an image of `files` and push it as zstd:chunked."""
        with tarfile.open(archive, "w") as tar:
            directory = tarfile.TarInfo("data")
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(directory)
            for name, data in files.items():
                entry = tarfile.TarInfo(f"data/{name}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        policy = ("--signature-policy", self._policy)
        self._podman("import", *policy, "--quiet", archive, target)
        self._podman("push", *policy, "--tls-verify=false", "--compression-format", "zstd:chunked", target)

    def files(self, reference: str) -> dict[str, bytes]:
        """What stands in the image's /data."""
        root = Path(self._podman("image", "mount", reference).strip())
        try:
            return {path.name: path.read_bytes() for path in (root / "data").iterdir()}
        finally:
            self._podman("image", "unmount", reference)

    def __exit__(self, *_exception: object) -> None:
        # The overlay's own directory may still be a mount of itself.
        for mount in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            where = mount.split(" ")[1]
            if Path(where).is_relative_to(self._directory):
                run(["umount", where])
        shutil.rmtree(self._directory)


def test_podman_pulls_only_the_files_that_changed(
    origin_and_fleet: tuple[Registry, Fleet],
    tmp_path: Path,
    require_program: Callable[[str], str],
    require_root: None,
    figure: Figure,
) -> None:
    require_program("podman")
    registry, fleet = origin_and_fleet
    agent = fleet.agents[0]
    content = random.Random(9)
    old = {f"f{number}": content.randbytes(20_000) for number in range(400)}
    new = old | {f"f{number}": content.randbytes(20_000) for number in range(0, 400, 10)}
    origin = registry.direct_url.removeprefix("http://")
    with LazyPodman(UPSTREAM, agent.shim_address) as podman:
        podman.push(old, tmp_path / "old.tar", f"{origin}/library/lazy:1")
        podman.push(new, tmp_path / "new.tar", f"{origin}/library/lazy:2")
    with LazyPodman(UPSTREAM, f"{agent.shim_address}/{UPSTREAM}") as podman:
        podman.pull(f"{UPSTREAM}/library/lazy:1")
        assert podman.files(f"{UPSTREAM}/library/lazy:1") == old
        before, received = registry.meter.total_blob_bytes(), agent.received()
        podman.pull(f"{UPSTREAM}/library/lazy:2")
        assert podman.files(f"{UPSTREAM}/library/lazy:2") == new
    taken = registry.meter.total_blob_bytes() - before
    share = taken / sum(map(len, new.values()))
    figure("bytes of an image that a lazy Podman gets when a tenth of its files is new", share, "of it", at_most=0.2)
    assert (agent.received() - received).origin > 0.9 * 40 * 20_000
    statuses = agent.growing_metric("p2pdist_agent_shim_requests_total", kind="blob", status="206")
    assert statuses >= 2
