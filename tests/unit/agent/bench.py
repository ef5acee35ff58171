"""An agent's parts, real ones, around a tracker that a test plays and a dealer that gives pieces by relay."""

import os
import random
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client import CollectorRegistry

from p2pdist.agent.account import Accounts
from p2pdist.agent.arrival import Means
from p2pdist.agent.control import ControlLink
from p2pdist.agent.library import Library
from p2pdist.agent.relays import Relays
from p2pdist.agent.service import Advertised, Service, Upstreams
from p2pdist.core.digest import Digest
from p2pdist.core.metainfo import Metainfo
from p2pdist.core.pieces import PieceLayout, piece_hash
from p2pdist.oci.rights import Access
from p2pdist.pki.peers import id_of
from p2pdist.pki.vouch import BlobContext, Signer, Verifier
from p2pdist.relay.node import RelayNode
from p2pdist.relay.notices import Notice
from p2pdist.relay.spans import Ring
from p2pdist.relay.switchboard import NodeAddress
from p2pdist.relay.transfer import TransferSpec
from p2pdist.store import BlobStore
from p2pdist.swarm import Endpoint, Swarm, SwarmSettings
from p2pdist.telemetry.events import EventLog
from p2pdist.telemetry.metrics import AgentMetrics, OnScrape
from p2pdist.wire.messages import Message, RelayPlan, RingInfo, UpstreamInfo, members_bitmap

from .scripted_tracker import SECRET, Line, ScriptedTracker, listening

KEY = Ed25519PrivateKey.generate()
NODE = id_of(KEY.public_key())
PIECE_BYTES = 32 * 1024


class Blob:
    """Random bytes, or what is given, and how they are cut."""

    def __init__(self, size_bytes: int, seed: int = 0) -> None:
        self.data = random.Random(seed).randbytes(size_bytes)
        self.digest = Digest.of(self.data)
        self.layout = PieceLayout(size_bytes, PIECE_BYTES)

    def piece(self, index: int) -> bytes:
        start = self.layout.offset(index)
        return self.data[start : start + self.layout.length(index)]

    @property
    def hashes(self) -> list[bytes]:
        return [piece_hash(self.layout, self.piece(index)) for index in range(self.layout.count)]

    @property
    def metainfo(self) -> Metainfo:
        return Metainfo(self.digest, self.layout, tuple(self.hashes))

    def plan(self, id_: int, generation: int = 7, epoch: int = 1, private: bool = False) -> RelayPlan:
        return RelayPlan(
            id_,
            str(self.digest),
            len(self.data),
            PIECE_BYTES,
            generation,
            4,
            private,
            (RingInfo(epoch, members_bitmap([0]), "tracker"),),
        )


class _File:
    """A blob that a dealer deals from."""

    def __init__(self, blob: Blob, data: bytes) -> None:
        self.layout = blob.layout
        self.fd = os.memfd_create("dealt")
        os.pwrite(self.fd, data, 0)

    def has(self, index: int) -> bool:
        return True

    def write_piece(self, index: int, data: bytes | bytearray | memoryview) -> bool:
        raise AssertionError("nobody writes here")


class Dealer:
    """The tracker's side of the relay."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.signer = Signer(Ed25519PrivateKey.generate())
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self.port = int(listener.getsockname()[1])
        verifier = Verifier({self.signer.key_id: self.signer.public_key})
        self.node = stack.enter_context(RelayNode("tracker", [listener], verifier, lambda notice: None))
        self.node.set_secrets([SECRET])

    def open(self, blob: Blob, agent_port: int, generation: int = 7, *, data: bytes | None = None) -> None:
        """Begin a generation, of which nothing is dealt yet, over the agent alone."""
        self.node.set_nodes({NODE: NodeAddress("127.0.0.1", agent_port)})
        file = _File(blob, blob.data if data is None else data)
        self.stack.callback(os.close, file.fd)
        self.node.open(TransferSpec(generation, blob.digest, blob.layout, file))
        self.node.start_dealing(generation, 1, Ring(1, [NODE], "tracker"))

    def deal(self, blob: Blob, indices: Iterable[int], generation: int = 7, *, data: bytes | None = None) -> None:
        """Deal these pieces; with `data`, wrong ones that are vouched for all the same."""
        layout = blob.layout
        context = BlobContext(blob.digest, layout.size_bytes, layout.piece_bytes, generation)
        source = blob.data if data is None else data
        pieces = []
        for index in indices:
            start = layout.offset(index)
            hashed = piece_hash(layout, source[start : start + layout.length(index)])
            (vouch,) = self.signer.vouch(context, index, [hashed])
            pieces.append((index, hashed, vouch.encode()))
        self.node.deal(generation, pieces)


class Bench:
    """The parts; `line` is the tracker's end of the control connection."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.refresh: Callable[[], None] = lambda: None
        self.registry.register(OnScrape(lambda: self.refresh()))
        self.metrics = AgentMetrics(self.registry)
        self.tracker: ScriptedTracker
        self.line: Line
        self.store: BlobStore
        self.dealer: Dealer
        self.relay: RelayNode
        self.relay_port = 0
        self.relays: Relays
        self.swarm: Swarm
        self.control: ControlLink
        self.library: Library
        self.accounts: Accounts
        self.service: Service
        self.access = Access.FLEET
        """To whom the content of every upstream is given."""

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"p2pdist_agent_{name}", labels) or 0.0

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until `true()` is."""
        with trio.fail_after(10):
            while not true():  # noqa: ASYNC110 - it becomes true in other threads, too
                await trio.sleep(0.005)


@asynccontextmanager
async def running(
    root: Path, *, origin: str | None = None, quota_bytes: int | None = None, events: EventLog | None = None
) -> AsyncIterator[Bench]:
    """An agent that has just been welcomed."""
    bench = Bench()
    infos = (UpstreamInfo("registry.example", origin),) if origin else ()
    with ExitStack() as stack:
        bench.store = stack.enter_context(BlobStore.open(root, quota_bytes))
        bench.dealer = Dealer(stack)
        token = trio.lowlevel.current_trio_token()
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        bench.relay_port = int(sock.getsockname()[1])

        def notify(notice: Notice) -> None:
            token.run_sync_soon(bench.relays.notice, notice)

        def say(message: Message) -> None:
            bench.control.say(message)

        settings = SwarmSettings(listen=(Endpoint("127.0.0.1", 0),))
        async with listening() as tracker, Swarm.open(settings) as swarm, trio.open_nursery() as parts:
            tracker.upstreams = infos
            tracker.relay_port = bench.dealer.port
            tracker.keys = (bench.dealer.signer.public_key.public_bytes_raw(),)
            bench.tracker, bench.swarm = tracker, swarm
            bench.relay = RelayNode(NODE, [sock], Verifier({}), notify, events=events)
            bench.relays = Relays(
                NODE, bench.relay, bench.metrics, say, lambda: bench.service.allow_swarm_peers(), events
            )
            bench.accounts = Accounts(events)
            upstreams = Upstreams({})
            stack.callback(upstreams.close)
            where = Advertised("", bench.relay_port, "", swarm.addresses[0].port)
            bench.service = Service(
                NODE, NODE, "", where, bench.store, bench.relay, bench.relays, swarm, upstreams, bench.metrics, parts
            )
            bench.control = ControlLink("127.0.0.1", tracker.port, lambda: None, bench.service)
            means = Means(
                bench.store,
                bench.control,
                bench.relays,
                swarm,
                bench.metrics,
                upstreams.client,
                Signer(KEY, agent=True),
                bench.accounts,
            )
            bench.library = Library(means, parts, lambda _: bench.access)
            bench.service.attach(bench.control, bench.library, None)
            stop = bench.store.on_evicted(bench.service.evicted)
            with bench.relay:
                parts.start_soon(bench.control.run)
                parts.start_soon(bench.service.watch_store)
                parts.start_soon(bench.service.watch_swarm)
                bench.line = await tracker.welcome()
                await bench.until(lambda: bench.control.connected)
                yield bench
                stop()
                parts.cancel_scope.cancel()
