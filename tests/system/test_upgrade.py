"""An agent is exchanged under its clients: nobody is refused, answers go out, and who resumes has no failed pull."""

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from simulations.processes import poll_until
from tests.conftest import Figure
from tests.system.activator import Activator
from tests.system.clients import skopeo_copy
from tests.system.containerd import Containerd
from tests.system.daemons import Agent
from tests.system.fleet import UPSTREAM, Fleet, upstream
from tests.system.images import Content, Image, image, layer
from tests.system.registries import Registry

MIB = 1 << 20
DRAIN_SECONDS = 2
_CURL_PARTIAL = 18


class Upgraded:
    """A registry, and an agent whose socket is held, ready to be exchanged."""

    def __init__(self, registry: Registry, agent: Agent, activator: Activator) -> None:
        self.registry = registry
        self.agent = agent
        self._activator = activator

    def exchange(self) -> float:
        """End the agent as systemd does and start it again; the seconds until it had ended."""
        started = time.monotonic()
        self.agent.stop()
        ended = time.monotonic() - started
        self._activator.start()
        return ended

    def push(self, blob: Content, name: str) -> Image:
        made = image(blob)
        self.registry.push(made, f"library/{name}", "1")
        return made

    def wait_half(self, blob: Content) -> None:
        """Return once a third of a blob is at the agent."""
        poll_until(lambda: self.agent.received().total > blob.size_bytes // 3, "a third is at the agent", 20)


@pytest.fixture
def upgraded(tmp_path: Path, require_program: Callable[[str], str]) -> Iterator[Upgraded]:
    for program in ("docker-registry", "bash"):
        require_program(program)
    settings = {"shim": {"drain": f"{DRAIN_SECONDS}s"}}
    with (
        Registry(tmp_path / "registry") as registry,
        Fleet(tmp_path / "fleet", [upstream(registry)], 0, agent_settings=settings) as fleet,
    ):
        agent = fleet.new_agent()
        with Activator(agent) as activator:
            activator.start()
            agent.wait_ready()
            yield Upgraded(registry, agent, activator)
            agent.stop()


class Knocker:
    """Asks the shim for its version over and over, each time by a new connection; what went wrong, and how long."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._stop = threading.Event()
        self.failures: list[str] = []
        self.waits: list[float] = []

    def knock(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            connection = HTTPConnection(self._agent.place.loopback, self._agent.shim_port, timeout=30)
            try:
                connection.request("GET", "/v2/")
                with connection.getresponse() as response:
                    response.read()
                    if response.status != 200:
                        self.failures.append(f"status {response.status}")
            except (OSError, HTTPException) as error:
                self.failures.append(repr(error))
            finally:
                connection.close()
            self.waits.append(time.monotonic() - started)

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.knock)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()


def curl(agent: Agent, name: str, blob: Content, file: Path) -> int:
    """Fetch a blob with curl, going on where it stopped; how many times it had to be called."""
    url = f"{agent.shim_url}/v2/library/{name}/blobs/{blob.digest}?ns={UPSTREAM}"
    for calls in range(1, 4):
        done = subprocess.run(["curl", "-sS", "--fail", "-C", "-", "-o", file, url], timeout=60, check=False)
        if done.returncode == 0:
            return calls
        assert done.returncode == _CURL_PARTIAL, f"curl: exit code {done.returncode}"
    raise AssertionError(f"curl didn't get {blob.digest} in {calls} calls")


def test_a_pull_that_outlasts_the_drain_is_resumed_and_nobody_refused(
    upgraded: Upgraded, tmp_path: Path, require_program: Callable[[str], str], require_root: None, figure: Figure
) -> None:
    for program in ("containerd", "ctr", "unshare", "curl"):
        require_program(program)
    blob = layer(24 * MIB, "outlasts", "none")
    made = upgraded.push(blob, "long")
    gate = upgraded.registry.meter.gate(blob.digest, blob.size_bytes // 2)
    knocker = Knocker(upgraded.agent)
    with Containerd(tmp_path / "containerd") as containerd, ThreadPoolExecutor() as pool, gate, knocker.running():
        containerd.mirror(UPSTREAM, upgraded.agent.shim_url)
        pull = pool.submit(containerd.pull, f"{UPSTREAM}/library/long:1")
        fetch = pool.submit(curl, upgraded.agent, "long", blob, tmp_path / "file")
        gate.wait_reached()
        upgraded.wait_half(blob)
        figure(
            "agent ends after SIGTERM with answers that stand still",
            upgraded.exchange(),
            "s",
            at_most=DRAIN_SECONDS + 4,
        )
        upgraded.agent.wait_ready()
        gate.open()
        pull.result(60)
        assert fetch.result(60) == 2
        containerd.assert_holds(made)
    assert (tmp_path / "file").read_bytes() == blob.data
    assert knocker.failures == []
    figure(
        "longest wait of a request while the agent was exchanged", max(knocker.waits), "s", at_most=DRAIN_SECONDS + 6
    )
    assert "drain_cut_short" in upgraded.agent.log_text()


def test_a_pull_within_the_drain_doesnt_notice(
    upgraded: Upgraded, tmp_path: Path, require_program: Callable[[str], str], figure: Figure
) -> None:
    require_program("skopeo")
    blob = layer(24 * MIB, "within", "none")
    made = upgraded.push(blob, "short")
    gate = upgraded.registry.meter.gate(blob.digest, blob.size_bytes // 2)
    agent = upgraded.agent
    with ThreadPoolExecutor() as pool, gate:
        source = f"{agent.shim_address}/{UPSTREAM}/library/short:1"
        copy = pool.submit(skopeo_copy, source, tmp_path / "copy")
        gate.wait_reached()
        upgraded.wait_half(blob)
        exchange = pool.submit(upgraded.exchange)
        poll_until(lambda: "draining: told to stop" in agent.admin("/readyz")[1], "the agent says that it drains", 5)
        with socket.create_connection((agent.place.loopback, agent.shim_port)) as late:
            late.sendall(b"GET /v2/ HTTP/1.1\r\nHost: shim\r\nConnection: close\r\n\r\n")
            gate.open()
            copy.result(60).assert_is(made)
            figure("agent ends after SIGTERM when its answers are out", exchange.result(20), "s")
            late.settimeout(20)
            assert late.recv(65536).startswith(b"HTTP/1.1 200")
        agent.wait_ready()
    assert "drain_cut_short" not in agent.log_text()
