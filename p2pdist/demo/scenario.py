"""The course of the demo: an origin, a fleet, every image through all agents at once, then a late agent; all measured.

Owns the order of things and which figure is taken when. How it looks while it runs is the `Watcher`'s business.
"""

import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import trio

from p2pdist.core.digest import Digest
from p2pdist.core.errors import P2PDistError
from p2pdist.demo.admin import SourceBytes, received_bytes, registry_bytes, tracker_bytes, wait_until_ok
from p2pdist.demo.configs import UpstreamSite
from p2pdist.demo.fleet import READY_SECONDS, AgentSite, Fleet
from p2pdist.demo.image import generate
from p2pdist.demo.outcome import AgentFigures, Outcome, Stage
from p2pdist.demo.ports import FreePorts
from p2pdist.demo.processes import ProcessGroup, open_processes
from p2pdist.demo.pull import PullProgress, PullResult, pull
from p2pdist.demo.requests import base_url
from p2pdist.http.client import HttpClient
from p2pdist.oci.reference import Reference

UPSTREAM_NAME = "registry.example"
"""A name without a port, so that it may also stand as a part of a repository's path (`SHIM/registry.example/…`)."""

_STALL_SECONDS = 60.0
_VERSIONS = 2


class PullFailed(P2PDistError):
    """An agent's shim didn't give an image whole."""


class Watcher(Protocol):
    """Is told how the demo comes along."""

    def step(self, text: str) -> None:
        """Something else begins."""

    def pulling(self, pulls: Mapping[str, PullProgress]) -> AbstractContextManager[None]:
        """While entered, these pulls are under way, by the agent's name; what they hold changes meanwhile."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    """What a run of the demo is to do."""

    agents: int
    """How many pull at once; one more comes late."""
    image_bytes: int
    """Of the generated image; ignored with an origin."""
    origin: str | None = None
    """Base URL of a real registry; None for the embedded one with a generated image."""
    images: Sequence[str] = ()
    """What to pull from it."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The demo after its measurements, with all its processes up."""

    outcome: Outcome
    upstream: UpstreamSite
    shims: list[str]
    """Base URLs."""


@asynccontextmanager
async def demonstration(options: Options, directory: Path, watcher: Watcher) -> AsyncIterator[Standing]:
    """Run the demo in an empty `directory`; its processes are up until the block is left.

    Raises `PullFailed`, `Unavailable` when a process doesn't get ready or ends early, and `InvalidInput` for an origin
    or image that isn't named right.
    """
    started_at, cpu_before = time.monotonic(), time.process_time()
    async with open_processes(directory) as processes:
        # Closed before the processes are stopped: a server waits for clients that keep connections open.
        with closing(HttpClient(timeout_seconds=_STALL_SECONDS)) as client:
            run = _Run(options, directory, processes, client, watcher)
            together, late, shims = await run.all_stages()
            cpu_seconds = time.process_time() - cpu_before + sum(child.cpu_seconds() for child in processes.running)
            outcome = Outcome(together, late, cpu_seconds, time.monotonic() - started_at)
        yield Standing(outcome, run.upstream, shims)


class _Run:
    """One run of the demo."""

    def __init__(
        self, options: Options, directory: Path, processes: ProcessGroup, client: HttpClient, watcher: Watcher
    ) -> None:
        self._options = options
        self._directory = directory
        self._processes = processes
        self._client = client
        self._watcher = watcher
        self._expected: dict[Reference, Digest] = {}
        ports = FreePorts()
        if options.origin is None:
            self.upstream = UpstreamSite(UPSTREAM_NAME, f"http://127.0.0.1:{ports.take(1)[0]}")
        else:
            url = base_url(options.origin)
            self.upstream = UpstreamSite(urlsplit(url).netloc, url)
        self._images = [named_at(self.upstream.name, image) for image in options.images]
        self._fleet = Fleet(directory, self.upstream, options.agents + 1, processes, client, ports)

    async def all_stages(self) -> tuple[list[Stage], Stage, list[str]]:
        """Every image through the first agents, the last one through a late one; and the shims of all."""
        embedded = " and making an image in two versions" if self._options.origin is None else ""
        self._watcher.step(f"Starting a tracker and {self._options.agents} agents{embedded}")
        agents: list[AgentSite] = []
        async with trio.open_nursery() as nursery:
            if self._options.origin is None:
                nursery.start_soon(self._start_origin)
            await self._fleet.start_tracker()
            agents += await self._fleet.start_agents(range(self._options.agents))
        together = [await self._stage(image, agents) for image in self._images]
        self._watcher.step("Starting one more agent, which comes late")
        late = await self._fleet.start_agents([self._options.agents])
        last = await self._stage(self._images[-1], late)
        return together, last, [agent.shim for agent in (*agents, *late)]

    async def _start_origin(self) -> None:
        """Make the image and start the embedded registry with it."""
        layout = self._directory / "images"
        made = await trio.to_thread.run_sync(generate, layout, self._options.image_bytes, _VERSIONS)
        self._expected = {named_at(self.upstream.name, image.name): image.index.digest for image in made}
        self._images = list(self._expected)
        address = self.upstream.origin.removeprefix("http://")
        command = [sys.executable, "-m", "p2pdist.demo.registry", "--dir", str(layout), "--listen", address]
        process = self._processes.start("registry", command)
        await wait_until_ok(
            self._client,
            f"{self.upstream.origin}/v2/",
            READY_SECONDS,
            lambda: f"the registry doesn't answer; {process.last_words()}",
        )

    async def _stage(self, image: Reference, agents: Sequence[AgentSite]) -> Stage:
        """Pull `image` through `agents` at once, and measure."""
        count = f"{len(agents)} agents at once" if len(agents) > 1 else agents[0].name
        self._watcher.step(f"Pulling {image} through {count}")
        pulls = {agent.name: PullProgress() for agent in agents}
        results: dict[str, PullResult] = {}
        before = await self._count(agents)
        with self._watcher.pulling(pulls):
            async with trio.open_nursery() as nursery:
                for agent in agents:
                    nursery.start_soon(self._pull, image, agent, pulls[agent.name], results)
        after = await self._count(agents)
        figures = tuple(
            AgentFigures(
                agent.name,
                results[agent.name].seconds,
                results[agent.name].first_byte_seconds,
                after.received[agent.name] - before.received[agent.name],
            )
            for agent in agents
        )
        return Stage(
            str(image),
            max(result.blob_bytes for result in results.values()),
            figures,
            after.origin - before.origin,
            after.dealt - before.dealt,
            tuple(self._faults(image, results)),
        )

    async def _pull(
        self, image: Reference, agent: AgentSite, progress: PullProgress, results: dict[str, PullResult]
    ) -> None:
        try:
            results[agent.name] = await pull(self._client, agent.shim, image, progress)
        except P2PDistError as error:
            raise PullFailed(
                f"{agent.name} didn't give {image}: {error}\n{agent.name}: {self._fleet.last_words(agent.name)}\n"
                f"tracker: {self._fleet.last_words('tracker')}"
            ) from error

    def _faults(self, image: Reference, results: Mapping[str, PullResult]) -> Iterator[str]:
        """What isn't as it must be: bytes of blobs, and what the image's name stands for."""
        expected = self._expected.get(image, min(result.digest for result in results.values()))
        for name, result in results.items():
            yield from (f"{name}: {sentence}" for sentence in result.wrong)
            if result.digest != expected:
                yield f"{name}: {image} is {result.digest} there, it should be {expected}"

    async def _count(self, agents: Sequence[AgentSite]) -> "_Counts":
        tracker = await tracker_bytes(self._client, self._fleet.tracker_admin)
        received = {agent.name: await received_bytes(self._client, agent.admin) for agent in agents}
        if self._options.origin is None:
            origin = await registry_bytes(self._client, self.upstream.origin)
        else:
            origin = tracker.origin + sum(source.origin for source in received.values())
        return _Counts(origin, tracker.dealt, received)


@dataclass(frozen=True, slots=True)
class _Counts:
    """Bytes since the start of the processes: from the origin, dealt, and received by agents."""

    origin: int
    dealt: int
    received: Mapping[str, SourceBytes]


def named_at(registry: str, image: str) -> Reference:
    """`image` (`name:tag`, or the same behind `registry/`) as a reference to `registry`; raises `NameInvalid`."""
    return Reference.parse(image if image.startswith(f"{registry}/") else f"{registry}/{image}")
