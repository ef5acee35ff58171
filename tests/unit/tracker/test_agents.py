"""Whole agents and a whole tracker in this process: what one agent holds, the next gets from it, private or not."""

import base64
import json
import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pdist.agent.main import _Agent
from p2pdist.config import AgentConfig
from p2pdist.config.addresses import Address, OriginUrl, PeerAddress, RegistryHost
from p2pdist.config.schema import AgentAdmin, AgentRelay, Shim, Swarm, TrackerAccess, Upstream
from p2pdist.config.values import CertificateHash, NodeName, Secret
from p2pdist.core.digest import Digest
from p2pdist.pki import tokens
from p2pdist.store import BlobStore
from p2pdist.tracker.main import Tracker
from tests.fakes.origin_server import OriginServer, basic_guard
from tests.unit.tracker.bench import (
    REGISTRY,
    REPOSITORY,
    config_of,
    control_port,
    make_authority,
    tracker_with,
)
from tests.unit.tracker.test_distribution import until

DATA = random.Random(6).randbytes((6 << 20) + 77)
DIGEST = Digest.of(DATA)
ANYWHERE = (Address("127.0.0.1:0"),)


class Running:
    """An agent that runs until it is stopped, without a word to anybody when that is by `vanish`."""

    def __init__(self, agent: _Agent, store: BlobStore, scope: trio.CancelScope) -> None:
        self._agent = agent
        self._store = store
        self._scope = scope

    @property
    def is_ready(self) -> bool:
        return not self._agent._why_not_ready()

    @property
    def library(self) -> Any:
        assert self._agent._images is not None
        return self._agent._images._library

    def stop(self) -> None:
        self._scope.cancel()

    async def get(self) -> bytes:
        """Pull the blob and wait until the store has it."""
        async with self.library.blob(REGISTRY, REPOSITORY, DIGEST) as view:
            at = 0
            while at < view.size_bytes:
                at = await view.available(at)
        await until(lambda: self._store.has(DIGEST))
        with self._store.committed(DIGEST) as blob:
            return os.pread(blob.fd, blob.size_bytes + 1, 0)

    @property
    def received_bytes(self) -> int:
        return self.came_by()["relay"]

    def came_by(self) -> dict[str, int]:
        """How the bytes came."""
        totals = self.library._means.relays.totals()
        return {
            "relay": totals.relayed_bytes,
            "dealt": totals.dealt_bytes,
            "swarm": self.library.swarm_bytes,
            "origin": self.library.origin_bytes,
        }


ONLY_BY_RELAY = {"relay": len(DATA), "dealt": 0, "swarm": 0, "origin": 0}


@asynccontextmanager
async def agents(directory: Path, tracker: Tracker, count: int, **access: Any) -> AsyncIterator[list[Running]]:
    """Agents that are in the fleet; their stores are closed when all have ended."""
    running = []
    with ExitStack() as stores:
        async with trio.open_nursery() as nursery:
            for number in range(count):
                config = AgentConfig(
                    state_dir=directory / f"agent-{number}",
                    name=NodeName(f"agent-{number}"),
                    tracker=TrackerAccess(address=PeerAddress(f"127.0.0.1:{control_port(tracker)}"), **access),
                    shim=Shim(listen=ANYWHERE),
                    relay=AgentRelay(listen=ANYWHERE),
                    swarm=Swarm(listen=ANYWHERE),
                    admin=AgentAdmin(listen=ANYWHERE[0]),
                )
                store = stores.enter_context(BlobStore.open(config.state_dir))
                scope = trio.CancelScope()
                running.append(Running(_Agent(config, store, None), store, scope))
                nursery.start_soon(_serve, running[-1]._agent, scope)
            for one in running:
                await until(lambda one=one: one.is_ready)
            yield running
            nursery.cancel_scope.cancel()


async def _serve(agent: _Agent, scope: trio.CancelScope) -> None:
    with scope:
        async with trio.open_nursery() as parts:
            await agent.serve(parts)


@pytest.fixture
def origin() -> Iterator[OriginServer]:
    with OriginServer() as server:
        server.put_blob(REPOSITORY, DATA)
        yield server


async def at_rest(tracker: Tracker) -> float:
    """Wait until nothing is being distributed; how many bytes the tracker has dealt so far."""
    await until(lambda: tracker._distribution.relaying.get(DIGEST) is None)
    return tracker._metrics.dealt_bytes._value.get()


async def test_the_second_agent_gets_the_blob_from_the_first(origin: OriginServer, tmp_path: Path) -> None:
    async with (
        tracker_with(config_of(tmp_path / "tracker", origin.url)) as tracker,
        agents(tmp_path, tracker, 2) as (first, second),
    ):
        assert await first.get() == DATA
        assert first.came_by() == {"relay": 0, "dealt": len(DATA), "swarm": 0, "origin": 0}
        before = await at_rest(tracker)
        assert await second.get() == DATA
        assert second.came_by() == ONLY_BY_RELAY
        assert await at_rest(tracker) == before == len(DATA)
        await until(lambda: first.library._means.relays.live == 0)
    assert len(origin.seen(f"/v2/{REPOSITORY}/blobs/{DIGEST}")) == 1


async def test_later_agents_at_once_are_dealt_by_the_earlier_ones(origin: OriginServer, tmp_path: Path) -> None:
    async with (
        tracker_with(config_of(tmp_path / "tracker", origin.url)) as tracker,
        agents(tmp_path, tracker, 5) as (first, *others),
    ):
        assert await first.get() == DATA
        before = await at_rest(tracker)
        for batch in (others[:2], others[2:]):
            got: list[bytes] = []

            async def get(one: Running, got: list[bytes] = got) -> None:
                got.append(await one.get())

            async with trio.open_nursery() as pulls:
                for one in batch:
                    pulls.start_soon(get, one)
            assert got == [DATA] * len(batch)
            assert [one.came_by() for one in batch] == [ONLY_BY_RELAY] * len(batch)
            assert await at_rest(tracker) == before


async def test_a_holder_that_stops_in_the_middle_is_made_up_for_by_the_other(
    origin: OriginServer, tmp_path: Path
) -> None:
    async with (
        tracker_with(config_of(tmp_path / "tracker", origin.url)) as tracker,
        agents(tmp_path, tracker, 3) as (first, second, third),
        trio.open_nursery() as pulls,
    ):
        assert await first.get() == await second.get() == DATA
        before = await at_rest(tracker)
        got: list[bytes] = []

        async def get() -> None:
            got.append(await third.get())

        pulls.start_soon(get)
        await until(lambda: third.received_bytes > 0)
        first.stop()
        await until(lambda: bool(got))
        assert got == [DATA]
        assert third.came_by() == ONLY_BY_RELAY
        assert await at_rest(tracker) == before


async def test_the_last_holder_that_stops_in_the_middle_costs_nobody_the_blob(
    origin: OriginServer, tmp_path: Path
) -> None:
    async with (
        tracker_with(config_of(tmp_path / "tracker", origin.url)) as tracker,
        agents(tmp_path, tracker, 2) as (first, second),
        trio.open_nursery() as pulls,
    ):
        assert await first.get() == DATA
        await at_rest(tracker)
        got: list[bytes] = []

        async def get() -> None:
            got.append(await second.get())

        pulls.start_soon(get)
        await until(lambda: second.received_bytes > 0)
        first.stop()
        await until(lambda: bool(got))
        assert got == [DATA]
        # What was missing came from the tracker's store, and nothing from the origin.
        assert second.came_by()["origin"] == 0
    assert len(origin.seen(f"/v2/{REPOSITORY}/blobs/{DIGEST}")) == 1


async def test_a_private_blob_goes_from_agent_to_agent_over_tls(origin: OriginServer, tmp_path: Path) -> None:
    origin.guard = basic_guard("user", "secret")
    credentials = tmp_path / "config.json"
    auth = base64.b64encode(b"user:secret").decode()
    credentials.write_text(json.dumps({"auths": {REGISTRY: {"auth": auth}}}))
    upstream = Upstream(
        name=RegistryHost(REGISTRY), origin=OriginUrl(origin.url), access="fleet", credentials_file=credentials
    )
    state = tmp_path / "tracker"
    authority = make_authority(state)
    async with AsyncExitStack() as stack:
        tracker = await stack.enter_async_context(tracker_with(config_of(state, upstream=(upstream,))))
        token = tokens.create(state / "tracker.sqlite", uses=2)
        access = {"join_token": Secret(token), "ca_hash": CertificateHash(authority.ca_hash)}
        first, second = await stack.enter_async_context(agents(tmp_path, tracker, 2, **access))
        assert await first.get() == DATA
        before = await at_rest(tracker)
        assert await second.get() == DATA
        assert second.came_by() == ONLY_BY_RELAY
        assert await at_rest(tracker) == before == len(DATA)
        with second._store.committed(DIGEST) as blob:
            assert blob.private
