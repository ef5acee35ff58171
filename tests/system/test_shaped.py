"""Time against what the links allow: agents in network namespaces whose links are shaped.

The clock is this process's: its threads make their sockets inside the namespaces, so that all times are comparable. CPU
seconds stand beside every figure: with the cores full, a time says nothing about p2pdist.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import pytest

from simulations.network import Flow, Link, LinkBytes, Network, measure_flow
from simulations.processes import MachineCpu, poll_until
from tests.conftest import Figure
from tests.system.daemons import Agent
from tests.system.fetches import Fetched, at_once, fetch_blob, under_way
from tests.system.fleet import Fleet, upstream
from tests.system.images import LAYER_TYPE, Content, image
from tests.system.places import Place
from tests.system.registries import Registry

REPOSITORY = "library/app"
MBIT = 1_000_000
MIB = 1 << 20
RATE_BPS = 80 * MBIT
BLOB_BYTES = 256 * MIB
MAX_COLD_X_LINK = 1.05
MAX_WARM_X_LINK = 1.15
MAX_FIRST_BYTE_SHARE = 0.02
MAX_COPIES = 1.05
HEADERS_SHARE = 1.03
"""Ethernet, IP and TCP headers and acknowledgements, against the bytes they carry; GSO hides most of them."""

pytestmark = [pytest.mark.usefixtures("needs_namespaces"), pytest.mark.timeout(400)]


class Measured(NamedTuple):
    """A pull of one blob by several agents at once, and what the machine did meanwhile."""

    fetched: list[Fetched]
    cpu: MachineCpu
    carried: dict[str, LinkBytes]

    @property
    def slowest_seconds(self) -> float:
        return max(one.seconds for one in self.fetched)


def random_blob(size_bytes: int) -> Content:
    return Content(LAYER_TYPE, os.urandom(size_bytes))


def measure(network: Network, agents: list[Agent], blob: Content) -> Measured:
    cpu, carried = MachineCpu.now(), network.counters()
    fetched = at_once([partial(fetch_blob, agent, REPOSITORY, blob) for agent in agents])
    after = network.counters()
    assert all(one.is_whole(blob) for one in fetched), fetched
    return Measured(fetched, MachineCpu.now() - cpu, {name: after[name] - carried[name] for name in after})


class Shaped(NamedTuple):
    """Eight agents, of which the first four have pulled a blob that was nowhere but at the origin."""

    network: Network
    fleet: Fleet
    blob: Content
    link: Flow
    cold: Measured


@pytest.fixture(scope="module")
def shaped(
    tmp_path_factory: pytest.TempPathFactory, require_program: Callable[[str], str], needs_namespaces: None
) -> Iterator[Shaped]:
    require_program("docker-registry")
    directory = tmp_path_factory.mktemp("shaped")
    names = ["origin", "tracker", *(f"agent-{number}" for number in range(1, 9))]
    blob = random_blob(BLOB_BYTES)
    with (
        Network({name: Link.symmetric(RATE_BPS) for name in names}) as network,
        Registry(directory / "registry", place=Place(network["origin"])) as registry,
    ):
        link = measure_flow(network["agent-1"], network["agent-2"], BLOB_BYTES)
        registry.push(image(blob), REPOSITORY, "1")
        with Fleet(directory / "fleet", [upstream(registry, metered=False)], agents=8, network=network) as fleet:
            cold = measure(network, fleet.agents[:4], blob)
            yield Shaped(network, fleet, blob, link, cold)


def test_cold_through_four_agents_takes_what_the_link_alone_needs(shaped: Shaped, figure: Figure) -> None:
    fleet, link, cold = shaped.fleet, shaped.link, shaped.cold
    figure(f"one plain TCP flow of 256 MiB ({shaped.network.congestion_control})", link.seconds, "s")
    figure("cold, machine busy", cold.cpu.busy_share)
    figure("cold, CPU of the whole machine per GiB delivered", cold.cpu.busy_seconds * 1024 / (4 * 256), "s/GiB")
    first_byte_share = max(one.first_byte_seconds / one.seconds for one in cold.fetched)
    figure("cold, first byte / last byte, worst agent", first_byte_share, at_most=MAX_FIRST_BYTE_SHARE)
    figure("cold, slowest agent", cold.slowest_seconds / link.seconds, "x the link alone", at_most=MAX_COLD_X_LINK)
    sent = cold.carried["origin"].sent
    figure(
        "cold, bytes on the origin's link / blob", sent / BLOB_BYTES, at_least=1.0, at_most=MAX_COPIES * HEADERS_SHARE
    )
    dealt = fleet.tracker.dealt_bytes() / BLOB_BYTES
    figure("cold, seeder copies", dealt, at_least=1.0, at_most=MAX_COPIES)


def test_warm_from_four_agents_to_four(shaped: Shaped, figure: Figure) -> None:
    fleet, link = shaped.fleet, shaped.link
    pullers = fleet.agents[4:]
    dealt = fleet.tracker.dealt_bytes()
    warm = measure(shaped.network, pullers, shaped.blob)
    figure("warm, machine busy", warm.cpu.busy_share)
    figure("warm, CPU of the whole machine per GiB delivered", warm.cpu.busy_seconds * 1024 / (4 * 256), "s/GiB")
    assert [agent.received().relay for agent in pullers] == [BLOB_BYTES] * 4
    assert fleet.tracker.dealt_bytes() == dealt
    for quiet in ("origin", "tracker"):
        assert warm.carried[quiet].sent < MIB
    figure("warm, slowest agent", warm.slowest_seconds / link.seconds, "x the link alone", at_most=MAX_WARM_X_LINK)


DYING_BLOB_BYTES = 48 * MIB
MAX_COST_SECONDS = 2.0


@pytest.fixture(scope="module")
def eight(
    tmp_path_factory: pytest.TempPathFactory, require_program: Callable[[str], str], needs_namespaces: None
) -> Iterator[tuple[Network, Registry, Fleet]]:
    require_program("docker-registry")
    directory = tmp_path_factory.mktemp("eight")
    names = ["origin", "tracker", *(f"agent-{number}" for number in range(1, 9))]
    with (
        Network({name: Link.symmetric(RATE_BPS) for name in names}) as network,
        Registry(directory / "registry", place=Place(network["origin"])) as registry,
        Fleet(directory / "fleet", [upstream(registry, metered=False)], agents=8, network=network) as fleet,
    ):
        yield network, registry, fleet


@pytest.mark.parametrize("fate", ["killed", "frozen"])
def test_an_agent_that_dies_in_a_pull_of_eight_costs_the_others_two_seconds_at_most(
    fate: str, eight: tuple[Network, Registry, Fleet], figure: Figure
) -> None:
    network, registry, fleet = eight
    undisturbed, disturbed = random_blob(DYING_BLOB_BYTES), random_blob(DYING_BLOB_BYTES)
    registry.push(image(undisturbed, disturbed), REPOSITORY, fate)
    alone = measure(network, fleet.agents, undisturbed)
    *others, victim = fleet.agents
    already = victim.received().total
    with under_way([partial(fetch_blob, agent, REPOSITORY, disturbed) for agent in fleet.agents]) as fetching:
        poll_until(lambda: victim.received().total - already > DYING_BLOB_BYTES // 3, "the victim has a third", 20)
        victim.kill() if fate == "killed" else victim.freeze()
        fetched = [future.result(60) for future in fetching[: len(others)]]
        victim.kill()
        assert not fetching[-1].result(20).is_whole(disturbed)
    assert all(one.is_whole(disturbed) for one in fetched)
    cost = max(one.seconds for one in fetched) - alone.slowest_seconds
    figure(f"eight agents undisturbed, {DYING_BLOB_BYTES // MIB} MiB", alone.slowest_seconds, "s")
    figure(f"one of eight {fate} half-way costs the others", cost, "s", at_most=MAX_COST_SECONDS)
    victim.start()
    victim.wait_ready()
