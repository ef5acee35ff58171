"""A whole tracker in this process, hosts that speak to it over real sockets, and an origin that does as it is told."""

import os
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import trio
from prometheus_client import CollectorRegistry

from p2pdist.config import TrackerConfig
from p2pdist.config.addresses import Address, OriginUrl, RegistryHost
from p2pdist.config.schema import Control, TrackerAdmin, TrackerRelay, Upstream
from p2pdist.config.values import Seconds
from p2pdist.core.digest import Digest
from p2pdist.core.pieces import PieceLayout, PieceSet, piece_hash
from p2pdist.daemon import listen_tcp
from p2pdist.pki.authority import Authority
from p2pdist.pki.vouch import Verifier, public_key_from_bytes
from p2pdist.relay.dealing import Lane
from p2pdist.relay.node import RelayNode
from p2pdist.relay.notices import DealsDone, EpochBegan, Notice
from p2pdist.relay.spans import Ring
from p2pdist.relay.switchboard import NodeAddress
from p2pdist.relay.transfer import Counts, TransferSpec
from p2pdist.relay.whole import proofs
from p2pdist.telemetry.metrics import TrackerMetrics
from p2pdist.tracker.main import Tracker
from p2pdist.wire.channel import Channel
from p2pdist.wire.messages import (
    VERSION,
    Began,
    Deal,
    Ended,
    Epoch,
    Fill,
    FromTracker,
    Greeting,
    HeldBlob,
    Hello,
    Inventory,
    Join,
    Left,
    Member,
    Message,
    RelayPlan,
    RingInfo,
    Supply,
    Table,
    Welcome,
    slots_of,
)
from p2pdist.wire.messages import DealsDone as DealsAreDone
from tests.unit.pki.tls import NOW

REGISTRY = "registry.example"
REPOSITORY = "team/app"
WAIT_SECONDS = 10
M = TypeVar("M", bound=Message)


def config_of(directory: Path, origin: str = "http://127.0.0.1:1", lease_seconds: float = 30, **changes: Any) -> Any:
    """The configuration of a tracker on free ports of the loopback."""
    fields: dict[str, Any] = {
        "state_dir": directory,
        "lease": Seconds(lease_seconds),
        "control": Control(listen=(Address("127.0.0.1:0"),)),
        "relay": TrackerRelay(listen=(Address("127.0.0.1:0"),)),
        "admin": TrackerAdmin(listen=Address("127.0.0.1:0")),
        "upstream": (Upstream(name=RegistryHost(REGISTRY), origin=OriginUrl(origin)),),
    }
    return TrackerConfig(**fields | changes)


@asynccontextmanager
async def tracker_with(config: TrackerConfig) -> AsyncIterator[Tracker]:
    """A tracker that runs in the block; whatever ends it early fails the test."""
    with ExitStack() as stack:
        tracker = Tracker(config, stack)
        async with trio.open_nursery() as nursery:
            await tracker.serve(nursery)
            yield tracker
            nursery.cancel_scope.cancel()


def make_authority(directory: Path) -> Authority:
    """A CA for the tracker whose state is in `directory`."""
    directory.mkdir(mode=0o700, exist_ok=True)
    return Authority.create(directory / "pki", "the fleet's CA", NOW - timedelta(days=60))


def metrics() -> TrackerMetrics:
    return TrackerMetrics(CollectorRegistry())


def control_port(tracker: Tracker) -> int:
    return int(tracker.listening["control"][0].rpartition(":")[2])


class Host:
    """One host's end of a control connection; every message that comes is kept until it is expected."""

    def __init__(self, name: str, port: int, context: ssl.SSLContext | None = None, node: str = "") -> None:
        self.name = name
        self.node = node or f"node-{name}"
        self._port = port
        self._context = context
        self._arrived = trio.Event()
        self._speaking = trio.Lock()
        self.messages: list[Any] = []
        self.ended = trio.Event()
        self.greeting: Greeting | None = None

    async def connect(self) -> None:
        """Connect and hear the greeting."""
        self.tcp = await trio.open_tcp_stream("127.0.0.1", self._port)
        self.stream: Any = self.tcp
        if self._context is not None:
            self.stream = trio.SSLStream(self.tcp, self._context, https_compatible=True)
            await self.stream.do_handshake()
        self.channel = Channel(self.stream, FromTracker)
        self.channel.trust()
        self.greeting = await self.channel.receive()

    def hello(self, **changes: Any) -> Hello:
        fields: dict[str, Any] = {
            "version": VERSION,
            "capabilities": (),
            "software": "test",
            "node": self.node,
            "name": self.name,
            "zone": "",
            "relay_host": "",
            "relay_port": 7501,
            "swarm_host": "",
            "swarm_port": 7502,
        }
        return Hello(**fields | changes)

    async def join_fleet(self, nursery: trio.Nursery, **changes: Any) -> Welcome:
        """Connect, say hello, and listen from now on."""
        with trio.fail_after(WAIT_SECONDS):
            await self.connect()
            await self.channel.send(self.hello(**changes))
        nursery.start_soon(self.listen)
        return await self.expect(Welcome)

    async def listen(self) -> None:
        try:
            while (message := await self.channel.receive()) is not None:
                self.take(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.ended.set()
            self._wake()

    def take(self, message: Any) -> None:
        self.messages.append(message)
        self._wake()

    def _wake(self) -> None:
        self._arrived.set()
        self._arrived = trio.Event()

    async def say(self, *messages: Message) -> None:
        async with self._speaking:
            await self.channel.send(*messages)

    async def expect(self, kind: type[M], where: Callable[[M], bool] = lambda _: True) -> M:
        """The next message of this kind; it is taken out."""
        with trio.fail_after(WAIT_SECONDS):
            while True:
                for message in self.messages:
                    if isinstance(message, kind) and where(message):
                        self.messages.remove(message)
                        return message
                assert not self.ended.is_set(), f"{self.name}: hung up on, without a {kind.__name__}"
                await self._arrived.wait()

    async def is_hung_up_on(self) -> bool:
        with trio.fail_after(WAIT_SECONDS):
            await self.ended.wait()
        return True

    async def close(self) -> None:
        await trio.aclose_forcefully(self.tcp)


@contextmanager
def host_on(tracker: Tracker, name: str, **more: Any) -> Iterator[Host]:
    host = Host(name, control_port(tracker), **more)
    try:
        yield host
    finally:
        if hasattr(host, "tcp"):
            host.tcp.socket.close()


class File:
    """A blob's file on a member; `whole` is set on the trio thread."""

    def __init__(self, layout: PieceLayout) -> None:
        self.layout = layout
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._file.truncate(layout.size_bytes)
        self.fd = self._file.fileno()
        self.pieces = PieceSet(layout.count)
        self.whole = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        if not layout.count:
            self.whole.set()

    def has(self, index: int) -> bool:
        return index in self.pieces

    def write_piece(self, index: int, data: bytes | bytearray | memoryview) -> bool:
        os.pwrite(self.fd, data, self.layout.offset(index))
        new = self.pieces.add(index)
        if self.pieces.complete:
            self._token.run_sync_soon(self.whole.set)
        return new

    def content(self) -> bytes:
        return os.pread(self.fd, self.layout.size_bytes, 0)

    def hashes(self) -> list[bytes]:
        """Those of its torrent, when it is whole."""
        layout = self.layout
        return [
            piece_hash(layout, os.pread(self.fd, layout.length(index), layout.offset(index)))
            for index in range(layout.count)
        ]

    def close(self) -> None:
        self._file.close()


class RelayHost(Host):
    """A host that takes part in relays, by the tracker's word."""

    def __init__(self, name: str, port: int, stack: ExitStack, zone: str = "") -> None:
        super().__init__(name, port)
        self._stack = stack
        self._zone = zone
        self._listeners = listen_tcp(["127.0.0.1:0"])
        self.relay_port = self._listeners[0].getsockname()[1]
        self.table: dict[int, Member] = {}
        self.files: dict[str, File] = {}
        self.generations: dict[int, str] = {}
        self.tracker: tuple[str, NodeAddress] | None = None
        self.relay: RelayNode | None = None
        self.counts: dict[int, Counts] = {}
        self._token = trio.lowlevel.current_trio_token()
        # Without a bound: a test's few deals.
        self._outgoing, self._words = trio.open_memory_channel[Message](float("inf"))

    async def start(self, nursery: trio.Nursery) -> None:
        welcome = await self.join_fleet(nursery, relay_port=self.relay_port, zone=self._zone)
        nursery.start_soon(self._talk)
        assert self.greeting is not None
        keys = [public_key_from_bytes(raw) for raw in welcome.keys]
        verifier = Verifier({})
        for key in keys:
            verifier.add(key)
        self.relay = self._stack.enter_context(RelayNode(self.node, self._listeners, verifier, self._notice))
        self.relay.set_secrets(list(welcome.relay_secrets))
        self.tracker = (self.greeting.tracker, NodeAddress("127.0.0.1", welcome.relay_port))
        for message in [message for message in self.messages if isinstance(message, Table)]:
            self._learn(message)

    def take(self, message: Any) -> None:
        if self.relay is not None:
            match message:
                case Table():
                    self._learn(message)
                case RelayPlan():
                    self._enter(message)
                case Epoch(generation, rings):
                    for info in rings:
                        self.relay.add_ring(generation, self._ring(info))
                case Fill(generation, info, pieces, by_offer, lane, lanes):
                    wanted = self._pieces(generation, pieces)
                    self.relay.start_fill(generation, self._ring(info), wanted, by_offer, Lane(lane, lanes))
                case Supply():
                    self._supply(message)
                case Deal(generation, share, info, pieces, by_offer, lane, lanes):
                    wanted = self._pieces(generation, pieces)
                    self.relay.start_dealing(generation, share, self._ring(info), wanted, by_offer, Lane(lane, lanes))
                    self.relay.watch(generation)
                case Ended(generation):
                    self.relay.close(generation)
                case _:
                    pass
        super().take(message)

    def _learn(self, table: Table) -> None:
        assert self.relay is not None
        assert self.tracker is not None
        for slot in table.removed:
            self.table.pop(slot, None)
        self.table |= {member.slot: member for member in table.added}
        nodes = {
            member.node: NodeAddress(member.relay.host, member.relay.port)
            for member in self.table.values()
            if member.node != self.node
        }
        nodes[self.tracker[0]] = self.tracker[1]
        self.relay.set_nodes(nodes, [self.tracker[0]])

    def _enter(self, plan: RelayPlan) -> None:
        assert self.relay is not None
        layout = PieceLayout(plan.size_bytes, plan.piece_bytes)
        digest = Digest.parse(plan.digest)
        file = self.file(digest, layout)
        self.generations[plan.generation] = plan.digest
        ticket = self.relay.open(TransferSpec(plan.generation, digest, layout, file, plan.private, plan.fan))
        self.counts[plan.generation] = ticket.counts
        for info in plan.rings:
            self.relay.add_ring(plan.generation, self._ring(info))

    def file(self, digest: Digest, layout: PieceLayout) -> File:
        """The blob's file, whatever is in it."""
        if str(digest) not in self.files:
            file = self.files[str(digest)] = File(layout)
            self._stack.callback(file.close)
        return self.files[str(digest)]

    def _supply(self, supply: Supply) -> None:
        assert self.relay is not None
        file = self.files[supply.digest]
        digest, layout = Digest.parse(supply.digest), file.layout
        assert (layout.size_bytes, layout.piece_bytes) == (supply.size_bytes, supply.piece_bytes)
        self.generations[supply.generation] = supply.digest
        self.counts[supply.generation] = self.relay.open(
            TransferSpec(supply.generation, digest, layout, file, supply.private, supply.fan)
        ).counts
        self.relay.deal(supply.generation, proofs(supply.key_id, file.hashes(), supply.signatures))

    def _pieces(self, generation: int, bitmap: bytes) -> PieceSet:
        return PieceSet.from_bytes(self.files[self.generations[generation]].layout.count, bitmap)

    def _ring(self, info: RingInfo) -> Ring:
        members, leaves = (
            [self.table[slot].node for slot in slots_of(bitmap)] for bitmap in (info.members, info.leaves)
        )
        return Ring(info.epoch, members, info.dealer, leaves)

    def _notice(self, notice: Notice) -> None:
        """In the relay's thread: what a dealer must tell the tracker."""
        match notice:
            case EpochBegan(generation, epoch, dealt):
                count = self.files[self.generations[generation]].layout.count
                self._tell(Began(generation, epoch, PieceSet(count, dealt).to_bytes()))
            case DealsDone(generation):
                self._tell(DealsAreDone(generation))
            case _:
                pass

    def _tell(self, message: Message) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._outgoing.send_nowait, message)

    async def _talk(self) -> None:
        """Say what the relay's thread has to say."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for message in self._words:
                await self.say(message)

    async def hold(self, digest: Digest) -> None:
        """Say that the blob is here."""
        await self.say(Inventory((HeldBlob(str(digest), self.files[str(digest)].layout.size_bytes),)))

    def vanish(self) -> None:
        """Stop the relay and hang up, as a host that dies does."""
        assert self.relay is not None
        self.relay.__exit__()
        self.tcp.socket.close()

    async def get(self, digest: Digest, id_: int = 1) -> bytes:
        """Join, wait until the blob is here, and say so."""
        await self.say(Join(id_, REGISTRY, REPOSITORY, str(digest)))
        plan = await self.expect(RelayPlan, lambda plan: plan.id == id_)
        return await self.finish(plan)

    async def finish(self, plan: RelayPlan) -> bytes:
        with trio.fail_after(WAIT_SECONDS):
            await self.files[plan.digest].whole.wait()
        await self.say(Left(plan.generation))
        return self.files[plan.digest].content()


@asynccontextmanager
async def relay_hosts(tracker: Tracker, names: str, zone: str = "") -> AsyncIterator[list[RelayHost]]:
    """Hosts named by the letters of `names`, in the fleet."""
    with ExitStack() as stack:
        hosts = [RelayHost(name, control_port(tracker), stack, zone) for name in names]
        async with trio.open_nursery() as nursery:
            for host in hosts:
                await host.start(nursery)
                stack.callback(host.tcp.socket.close)
            yield hosts
            nursery.cancel_scope.cancel()
