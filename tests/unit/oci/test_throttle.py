from collections.abc import Iterator
from time import monotonic

import pytest
import trio

from p2pdist.core.digest import Digest
from p2pdist.oci.origin import OriginClient, Upstream
from p2pdist.oci.throttle import Throttle
from tests.fakes.origin_server import OriginServer

BLOB = bytes(400_000)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_bytes_are_due_at_the_rate(clock: Clock) -> None:
    throttle = Throttle(1000, clock)
    waited = 0.0
    for _ in range(20):
        delay = throttle.delay(500)
        clock.now += delay
        waited += delay
    assert waited == pytest.approx(20 * 0.5)


def test_what_a_slow_upstream_didnt_send_isnt_made_up_for(clock: Clock) -> None:
    throttle = Throttle(1000, clock)
    clock.now += 3600
    assert throttle.delay(200) == 0.0
    assert throttle.delay(1000) == pytest.approx(0.95)


def test_without_a_rate_nobody_waits(clock: Clock) -> None:
    assert Throttle(0, clock).delay(1 << 40) == 0.0


@pytest.fixture
def server() -> Iterator[OriginServer]:
    with OriginServer() as server:
        yield server


async def test_all_blobs_of_an_upstream_share_its_rate(server: OriginServer) -> None:
    digest = server.put_blob("app", BLOB)
    rate = 2 * len(BLOB)
    with OriginClient(Upstream("registry.test", server.url, rate_bytes_per_second=rate)) as client:
        began = monotonic()
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(client.blob, "app", digest, lambda data: None)
        assert monotonic() - began > 2 * len(BLOB) / rate - 0.3


async def test_a_fetch_that_waits_for_its_rate_is_called_off_at_once(server: OriginServer) -> None:
    digest = server.put_blob("app", BLOB)
    with OriginClient(Upstream("registry.test", server.url, rate_bytes_per_second=1)) as client:
        came = trio.Event()
        token = trio.lowlevel.current_trio_token()
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.blob, "app", Digest.of(BLOB), lambda data: token.run_sync_soon(came.set))
                await came.wait()
                nursery.cancel_scope.cancel()
    assert digest == Digest.of(BLOB)
