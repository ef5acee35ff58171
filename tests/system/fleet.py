"""A tracker and agents as processes, enrolled by join token, on loopback or each on a host of a network."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

from simulations.network import Network
from tests.system.daemons import Agent, Daemon, Settings, Tracker, merged
from tests.system.places import Place
from tests.system.registries import Registry

UPSTREAM = "registry.test"


def upstream(registry: Registry, *, metered: bool = True, **more: Any) -> dict[str, Any]:
    """The `[[upstream]]` of a tracker that leads to `registry`; past its meter when nobody counts."""
    return {"name": UPSTREAM, "origin": registry.url if metered else registry.direct_url, **more}


class Fleet:
    """Started when the context is entered, all of it ready then; every process is gone when it is left.

    `network` has hosts named `tracker` and as the agents are: `agent-1`, `agent-2`, …
    """

    running: ClassVar[list["Fleet"]] = []

    def __init__(
        self,
        directory: Path,
        upstreams: Sequence[Settings],
        agents: int,
        *,
        network: Network | None = None,
        ipv6: bool = False,
        tracker_settings: Settings | None = None,
        agent_settings: Settings | None = None,
    ) -> None:
        self.directory = directory
        self._network = network
        self._ipv6 = ipv6
        self._agent_settings = agent_settings or {}
        self._first_agents = agents
        self._join: dict[str, Any] = {}
        self._cleanup = ExitStack()
        directory.mkdir(parents=True, exist_ok=True)
        settings = merged({"upstream": list(upstreams)}, tracker_settings or {})
        self.tracker = Tracker(directory, self._place("tracker"), settings)
        self.agents: list[Agent] = []

    def _place(self, name: str) -> Place:
        return Place(self._network[name] if self._network else None, self._ipv6)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._clean_up)
            self.running.append(self)
            self.tracker.make_pki()
            self._join = {"join_token": self.tracker.join_token(uses=1000), "ca_hash": self.tracker.ca_hash()}
            self.tracker.start()
            self.tracker.wait_ready()
            self.add_agents(self._first_agents)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._cleanup.close()

    def _clean_up(self) -> None:
        """End everything; only configurations and logs stay, since blobs would fill the disk from run to run."""
        for daemon in self.daemons():
            daemon.kill()
            shutil.rmtree(daemon.state_dir, ignore_errors=True)
        self.running.remove(self)

    def daemons(self) -> list[Daemon]:
        return [self.tracker, *self.agents]

    def new_agent(self, settings: Mapping[str, Any] | None = None) -> Agent:
        """One more agent, configured to join but not started."""
        name = f"agent-{len(self.agents) + 1}"
        join = {"tracker": {"address": self.tracker.address, **self._join}}
        own = merged(merged(join, self._agent_settings), settings or {})
        agent = Agent(name, self.directory, self._place(name), own)
        self.agents.append(agent)
        return agent

    def add_agents(self, count: int) -> list[Agent]:
        """So many more agents, started together, ready."""
        added = [self.new_agent() for _ in range(count)]
        for agent in added:
            agent.start()
        for agent in added:
            agent.wait_ready()
        return added

    def add_agent(self) -> Agent:
        return self.add_agents(1)[0]


@contextmanager
def open_fleet(directory: Path, agents: int, **settings: Any) -> Iterator[tuple[Registry, Fleet]]:
    """The usual arrangement: an origin that is open to all, metered, and a fleet on loopback in front of it."""
    with (
        Registry(directory / "registry") as registry,
        Fleet(directory / "fleet", [upstream(registry)], agents, **settings) as fleet,
    ):
        yield registry, fleet
