import resource

import libtorrent as lt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.core.pieces import BLOCK_BYTES
from p2pdist.swarm import DiskBackend, Endpoint, SwarmSettings
from p2pdist.swarm.tuning import connections_for, in_flight_bytes, queue_settings, session_settings

KIB = 1024
MBIT = 10**6
ANYWHERE = (Endpoint("0.0.0.0", 7502), Endpoint("::", 7502))


@pytest.mark.parametrize("link_bps", [None, 1, 20 * MBIT, 40 * MBIT, 50 * MBIT])
def test_slow_and_unknown_links_get_the_measured_small_queues(link_bps: int | None) -> None:
    assert queue_settings(link_bps) == {
        "max_out_request_queue": 16,
        "max_allowed_in_request_queue": 16,
        "send_buffer_watermark": 64 * KIB,
        "send_buffer_low_watermark": 32 * KIB,
        "send_socket_buffer_size": 128 * KIB,
        "recv_socket_buffer_size": 128 * KIB,
    }


@given(st.integers(1, 10**12))
def test_what_is_in_flight_is_ten_milliseconds_of_the_link_within_bounds(link_bps: int) -> None:
    flight = in_flight_bytes(link_bps)
    assert 64 * KIB <= flight <= 4096 * KIB
    if 64 * KIB < flight < 4096 * KIB:
        assert flight == pytest.approx(link_bps / 8 / 100, abs=1)
    assert in_flight_bytes(2 * link_bps) >= flight
    assert queue_settings(link_bps)["max_out_request_queue"] * BLOCK_BYTES >= 3 * flight


@pytest.mark.parametrize(
    ("missing_bytes", "connections"), [(0, 2), (1, 2), (512 * KIB, 2), (1024 * KIB, 4), (64 * 1024 * KIB, 256)]
)
def test_small_torrents_have_few_neighbours(missing_bytes: int, connections: int) -> None:
    assert connections_for(missing_bytes) == connections


def test_libtorrent_knows_every_setting() -> None:
    wanted = session_settings(SwarmSettings(listen=ANYWHERE, upload_limit_bps=80 * MBIT, download_limit_bps=8 * MBIT))
    taken = lt.session_params(wanted).settings
    assert {name: taken[name] for name in wanted} == wanted  # type: ignore[literal-required]
    assert taken["listen_interfaces"] == "0.0.0.0:7502,[::]:7502"
    assert taken["upload_rate_limit"] == 10 * MBIT
    assert taken["download_rate_limit"] == MBIT
    assert taken["max_retry_port_bind"] == 0


def test_libtorrent_knows_the_disk_back_ends() -> None:
    """The binding takes any name and falls back in silence; these are the ones that bindings/python names."""
    assert {disk.value for disk in DiskBackend} == {"posix_disk_io_constructor", "pread_disk_io_constructor"}


def test_connections_leave_half_of_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SwarmSettings(listen=ANYWHERE, max_connections=1000)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    assert session_settings(settings)["connections_limit"] == 512
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert session_settings(settings)["connections_limit"] == 1000
