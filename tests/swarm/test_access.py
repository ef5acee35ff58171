"""Where a swarm listens, whom it lets in, and that it looks for nobody by itself."""

import socket
from pathlib import Path

import libtorrent as lt
import pytest
import trio

from p2pdist.core.errors import InvalidInput
from p2pdist.swarm import AlertsDropped, Endpoint, PeerRefused, Swarm, SwarmError, SwarmSettings
from tests.swarm.blobs import Blob
from tests.swarm.conftest import OpenSwarm, until, within

MIB = 1024 * 1024


async def test_an_unknown_address_is_turned_away(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    blob = Blob.of_size(MIB)
    partial = blob.partial_in(tmp_path / "puller")
    async with open_swarm() as holder, open_swarm() as puller:
        holder.allow_peers({"192.0.2.1", "2001:db8::1"})
        await holder.seed(blob.whole_in(tmp_path / "holder"), blob.metainfo)
        async with puller.pull(partial, blob.metainfo, holder.addresses) as pull:
            with within(10):
                assert await holder.events.receive() == PeerRefused("127.0.0.1")
            assert not partial.marked
            holder.allow_peers({"127.0.0.1"})
            with within(20):
                await pull.wait_finished()
        holder.allow_peers(())


async def test_a_peer_that_isnt_allowed_any_more_is_cut_off(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    blob = Blob.of_size(MIB)
    async with open_swarm(upload_limit_bps=MIB) as holder, open_swarm() as puller:
        await holder.seed(blob.whole_in(tmp_path / "holder"), blob.metainfo)
        async with puller.pull(blob.partial_in(tmp_path / "puller"), blob.metainfo, holder.addresses) as pull:
            await until(lambda: pull.peers == frozenset(holder.addresses))
            holder.allow_peers(())
            await until(lambda: not pull.peers)


async def test_nobody_is_let_in_or_dialled_at_first(tmp_path: Path) -> None:
    blob = Blob.of_size(MIB)
    settings = SwarmSettings(listen=(Endpoint("127.0.0.1", 0),))
    peers = [Endpoint("127.0.0.1", 9)]
    async with Swarm.open(settings) as swarm, swarm.pull(blob.partial_in(tmp_path), blob.metainfo, peers) as pull:
        with within(10):
            assert await swarm.events.receive() == PeerRefused("127.0.0.1")
        assert not pull.peers


async def test_what_strangers_cause_is_dropped_before_it_fills_the_memory(open_swarm: OpenSwarm) -> None:
    async with open_swarm() as swarm:
        for _ in range(1100):
            swarm._announce(PeerRefused("192.0.2.1"))
        swarm._announce(AlertsDropped())
        assert swarm.events.statistics().current_buffer_used == 1000


async def test_addresses_must_be_addresses(open_swarm: OpenSwarm) -> None:
    async with open_swarm() as swarm:
        with pytest.raises(InvalidInput, match="'localhost' isn't an IP address"):
            swarm.allow_peers({"127.0.0.1", "localhost"})


async def test_a_port_in_use_is_a_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = Endpoint("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(SwarmError, match=rf"can't listen on {endpoint}: Address already in use"):
            async with Swarm.open(SwarmSettings(listen=(endpoint,))):
                pass
        with pytest.raises(SwarmError, match=r"can't listen on 192\.0\.2\.1:0"):
            async with Swarm.open(SwarmSettings(listen=(Endpoint("192.0.2.1", 0),))):
                pass


async def test_ipv6_works_beside_ipv4(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    blob = Blob.of_size(MIB)
    loopbacks = (Endpoint("127.0.0.1", 0), Endpoint("::1", 0))
    async with open_swarm(listen=loopbacks) as holder, open_swarm(listen=loopbacks[1:]) as puller:
        assert {endpoint.address for endpoint in holder.addresses} == {"127.0.0.1", "::1"}
        assert all(endpoint.port for endpoint in holder.addresses)
        await holder.seed(blob.whole_in(tmp_path / "holder"), blob.metainfo)
        six = [endpoint for endpoint in holder.addresses if endpoint.address == "::1"]
        async with puller.pull(blob.partial_in(tmp_path / "puller"), blob.metainfo, six) as pull:
            with within(20):
                await pull.wait_finished()


async def test_peers_are_only_those_handed_in(open_swarm: OpenSwarm, tmp_path: Path) -> None:
    """Two pullers of one holder would hear of each other by PEX; the flags that stop it are set on every torrent."""
    blob = Blob.of_size(MIB)
    async with open_swarm() as swarm:
        async with swarm.pull(blob.partial_in(tmp_path / "puller"), blob.metainfo):
            pass
        await swarm.seed(blob.whole_in(tmp_path / "holder"), blob.metainfo)
        torrent = next(iter(swarm._session.torrents.values()))
        assert torrent.handle is not None
        flags = await trio.to_thread.run_sync(torrent.handle.flags)
        for flag in (lt.torrent_flags.disable_pex, lt.torrent_flags.disable_lsd, lt.torrent_flags.disable_dht):
            assert flags & flag
        settings = await trio.to_thread.run_sync(swarm._session._session.get_settings)
        for name in ("enable_dht", "enable_lsd", "enable_upnp", "enable_natpmp", "enable_incoming_utp"):
            assert settings[name] is False
