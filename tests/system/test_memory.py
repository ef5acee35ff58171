"""How much memory an agent takes: idle, with many blobs, and while a large blob streams through it."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from simulations.processes import poll_until
from tests.conftest import Figure
from tests.system.fetches import fetch_blob
from tests.system.fleet import Fleet, open_fleet, upstream
from tests.system.images import LAYER_TYPE, Content, image
from tests.system.registries import Registry

REPOSITORY = "library/app"
BLOBS = 2000
BLOB_BYTES = 2048
PARALLEL_FETCHES = 8
GIB = 1 << 30


def test_idle_and_with_two_thousand_blobs(
    tmp_path: Path, require_program: Callable[[str], str], figure: Figure
) -> None:
    require_program("docker-registry")
    made = image(*(Content(LAYER_TYPE, os.urandom(BLOB_BYTES)) for _ in range(BLOBS)))
    with open_fleet(tmp_path, agents=1) as (registry, fleet):
        agent = fleet.agents[0]
        figure("resident memory of an idle agent", agent.rss_mib(), "MiB", at_most=80)
        registry.push(made, REPOSITORY, "1")
        with ThreadPoolExecutor(PARALLEL_FETCHES) as pool:
            fetched = pool.map(lambda blob: (blob, fetch_blob(agent, REPOSITORY, blob)), made.layers)
            assert all(one.is_whole(blob) for blob, one in fetched)
        poll_until(lambda: agent.blobs_held() == BLOBS, "all blobs are in the store", 20)
        figure("resident memory with 2,000 blobs", agent.rss_mib(), "MiB", at_most=120)
        agent.stop()
        agent.start()
        agent.wait_ready()
        poll_until(lambda: agent.blobs_held() == BLOBS, "the restarted agent knows all its blobs", 20)
        figure("resident memory with 2,000 blobs after a restart", agent.rss_mib(), "MiB", at_most=120)


def test_streaming_a_gibibyte(tmp_path: Path, require_program: Callable[[str], str], figure: Figure) -> None:
    require_program("docker-registry")
    blob = Content(LAYER_TYPE, os.urandom(GIB))
    with Registry(tmp_path / "registry") as registry:
        registry.push(image(blob), REPOSITORY, "1")
        with Fleet(tmp_path / "fleet", [upstream(registry, metered=False)], agents=2) as fleet:
            first, second = fleet.agents
            assert fetch_blob(first, REPOSITORY, blob).is_whole(blob)
            figure("most memory of an agent while 1 GiB is relayed", first.peak_rss_mib(), "MiB", at_most=200)
            assert fetch_blob(second, REPOSITORY, blob).is_whole(blob)
            assert second.received().relay == GIB
            figure("most memory of an agent while 1 GiB comes from another", second.peak_rss_mib(), "MiB", at_most=200)
            assert fetch_blob(first, REPOSITORY, blob).is_whole(blob)
            figure("most memory of an agent after serving 1 GiB", first.peak_rss_mib(), "MiB", at_most=200)
            figure("most memory of the tracker", fleet.tracker.peak_rss_mib(), "MiB", at_most=200)
