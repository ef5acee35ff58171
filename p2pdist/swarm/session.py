"""The one libtorrent session: starting and ending it, the pump of its alerts, torrents going in and out.

libtorrent works in threads of its own. It is spoken to from trio's thread by calls that only post a message; the few
that wait for an answer are made in worker threads. It speaks by alerts: it writes a byte to a socket when its queue has
any, the pump waits for that, fetches all there are and delivers what they mean.
"""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import libtorrent as lt
import trio

from p2pdist.swarm.alerts import QUERY_NAME, translate
from p2pdist.swarm.broadcast import Broadcast
from p2pdist.swarm.endpoint import Endpoint
from p2pdist.swarm.errors import SwarmError
from p2pdist.swarm.events import (
    AlertsDropped,
    ForTorrent,
    PeerRefused,
    SessionMeasured,
    TorrentRemoved,
    TorrentsMeasured,
)
from p2pdist.swarm.stats import SwarmStats
from p2pdist.swarm.torrent import Torrent
from p2pdist.swarm.tuning import SwarmSettings, queue_settings, session_settings

_REMOVAL_SECONDS = 10.0
_ALL_ADDRESSES = (("0.0.0.0", "255.255.255.255"), ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))
_BLOCKED = 1


def _every_address_counts() -> lt.ip_filter:
    """A peer class filter without libtorrent's exemption of private and loopback addresses from all limits."""
    classes = lt.ip_filter()
    for first, last in _ALL_ADDRESSES:
        classes.add_rule(first, last, 1 << lt.session.global_peer_class_id)
    return classes


def _allow_only(addresses: frozenset[str]) -> lt.ip_filter:
    allowed = lt.ip_filter()
    for first, last in _ALL_ADDRESSES:
        allowed.add_rule(first, last, _BLOCKED)
    for address in addresses:
        allowed.add_rule(address, address, 0)
    return allowed


def _listening(session: lt.session) -> tuple[Endpoint, ...]:
    """Where `session` listens by now; raises `SwarmError` when it couldn't listen somewhere.

    `is_listening` waits for an answer of the network thread, which by then has tried every address.
    """
    session.is_listening()
    found = []
    for alert in session.pop_alerts():
        if isinstance(alert, lt.listen_failed_alert):
            raise SwarmError(
                f"the swarm can't listen on {Endpoint(alert.address, alert.port)}: {alert.error.message()};"
                " free that port or set another address"
            )
        if isinstance(alert, lt.listen_succeeded_alert) and alert.socket_type == lt.socket_type_t.tcp:
            found.append(Endpoint(alert.address, alert.port))
    if not found:
        raise SwarmError("the swarm listens nowhere: its list of addresses names no interface of this host")
    return tuple(found)


def _start(settings: SwarmSettings) -> tuple[lt.session, tuple[Endpoint, ...]]:
    params = lt.session_params(session_settings(settings))
    params.disk_io_constructor = settings.disk.value
    params.ip_filter = _allow_only(frozenset())
    session = lt.session(params)
    session.set_peer_class_filter(_every_address_counts())
    return session, _listening(session)


class Session:
    """A running session; made by `open_session`."""

    def __init__(
        self,
        session: lt.session,
        addresses: tuple[Endpoint, ...],
        nursery: trio.Nursery,
    ) -> None:
        self.addresses = addresses
        self.nursery = nursery
        """For work that outlives its caller; it is cancelled when the session ends."""
        self.on_event: Callable[[PeerRefused | AlertsDropped], None] = lambda event: None
        self.torrents: dict[str, Torrent] = {}
        self._session = session
        self._measured: Broadcast[None] = Broadcast()
        self._totals: Broadcast[SwarmStats] = Broadcast()

    # Torrents

    async def settled(self, name: str) -> Torrent | None:
        """The torrent of that name, if there is one, as soon as none is on its way out."""
        while (torrent := self.torrents.get(name)) is not None and torrent.closing:
            await torrent.gone.wait()
        return torrent

    async def add(self, torrent: Torrent, params: lt.add_torrent_params) -> None:
        """Load `torrent` and wait until it serves what it has; one that is on its way out is waited for first.

        Raises `SwarmError` when it is loaded already or doesn't get ready; it is out of the session again then.
        """
        if await self.settled(torrent.name) is not None:
            raise SwarmError(f"{torrent.digest} is in the swarm already")
        self.torrents[torrent.name] = torrent
        try:
            torrent.handle = await trio.to_thread.run_sync(self._session.add_torrent, params)
        except BaseException as error:
            self._deliver(ForTorrent(torrent.name, TorrentRemoved()))
            if isinstance(error, RuntimeError):
                raise SwarmError(f"libtorrent doesn't take the torrent of {torrent.digest}: {error}") from error
            raise
        if torrent.closing:
            self._session.remove_torrent(torrent.handle)
        try:
            await torrent.wait_ready()
        except BaseException:
            await self.remove(torrent)
            raise

    async def remove(self, torrent: Torrent) -> None:
        """Take `torrent` out of the session, its file left as it is; returns when libtorrent has let go of the file.

        Completes even when it is cancelled. Raises `SwarmError` when libtorrent doesn't let go within ten seconds.
        """
        if not torrent.closing:
            torrent.closing = True
            if torrent.handle is not None:
                self._session.remove_torrent(torrent.handle)
        with trio.move_on_after(_REMOVAL_SECONDS, shield=True):
            await torrent.gone.wait()
        if not torrent.gone.is_set():
            raise SwarmError(f"libtorrent still holds {torrent.path} {_REMOVAL_SECONDS:.0f} s after it was unloaded")

    # The session

    def allow(self, addresses: frozenset[str]) -> None:
        """Talk to peers at these addresses only; connections with others end."""
        self._session.set_ip_filter(_allow_only(addresses))

    def size_queues(self, link_bps: int) -> None:
        """Use the queues and buffers that fit a link of `link_bps` bits per second for new connections."""
        self._session.apply_settings(queue_settings(link_bps))

    async def measure(self) -> None:
        """Bring the `stats` of every torrent up to date."""
        self._session.post_torrent_updates(QUERY_NAME)
        await self._measured.next()

    async def totals(self) -> SwarmStats:
        """The session's totals."""
        self._session.post_session_stats()
        return await self._totals.next()

    # The pump

    async def pump(self, ready: socket.socket, until: trio.CancelScope) -> None:
        """Deliver alerts until `until` is cancelled; `ready` becomes readable when there are any.

        Nothing else ends it: whoever is cancelled still waits for torrents to be removed.
        """
        with until:
            while True:
                await trio.lowlevel.wait_readable(ready)
                ready.recv(4096)
                for alert in self._session.pop_alerts():
                    event = translate(alert)
                    if event is not None:
                        self._deliver(event)

    def _deliver(self, event: object) -> None:
        match event:
            case ForTorrent(name, inner):
                torrent = self.torrents.get(name)
                if torrent is None:
                    return
                if isinstance(inner, TorrentRemoved):
                    del self.torrents[name]
                torrent.deliver(inner)
            case TorrentsMeasured(stats):
                for name, figures in stats.items():
                    if name in self.torrents:
                        self.torrents[name].stats = figures
                self._measured.send(None)
            case SessionMeasured(totals):
                self._totals.send(totals)
            case PeerRefused() | AlertsDropped():
                self.on_event(event)

    def forget(self) -> None:
        """Drop the reference to libtorrent's session: the last one ends it, and waits for its threads."""
        del self._session


@asynccontextmanager
async def open_session(settings: SwarmSettings) -> AsyncIterator[Session]:
    """A session that listens; raises `SwarmError` when it can't."""
    started, addresses = await trio.to_thread.run_sync(_start, settings)
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        started.set_alert_fd(writer.fileno())
        pumping = trio.CancelScope(shield=True)
        async with trio.open_nursery() as outer:
            try:
                async with trio.open_nursery() as nursery:
                    session = Session(started, addresses, nursery)
                    del started
                    outer.start_soon(session.pump, reader, pumping)
                    yield session
                    nursery.cancel_scope.cancel()
            finally:
                pumping.cancel()
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(session.forget)
