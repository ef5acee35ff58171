"""The relay as the rest of a process sees it: a thread with a mailbox. Every method may be called from any thread."""

import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from p2pdist.pki.vouch import Verifier
from p2pdist.relay.dealing import EVERY_ROOT, Lane
from p2pdist.relay.notices import Notice
from p2pdist.relay.reactor import Reactor
from p2pdist.relay.session import TlsContexts
from p2pdist.relay.spans import Ring
from p2pdist.relay.switchboard import NodeAddress
from p2pdist.relay.transfer import Counts, Transfer, TransferSpec
from p2pdist.telemetry.events import EventLog

_STOP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Ticket:
    """What can be read of a transfer while it goes on: its counts, and the hashes of the pieces that came by it.

    `provisional`: the pieces that an agent vouches for, and which.
    """

    counts: Counts
    hashes: Sequence[bytes | None]
    provisional: Mapping[int, str] = field(default_factory=dict)


class RelayNode:
    """One node of the relay; use as a context manager.

    `me` is the node's id. `listeners` are bound, listening, non-blocking sockets, which the node owns from now on.
    `notify` is called in the relay's thread and must be quick. Without `tls` private blobs can't be relayed. `events`
    is told of every piece.
    """

    def __init__(
        self,
        me: str,
        listeners: Iterable[socket.socket],
        verifier: Verifier,
        notify: Callable[[Notice], None],
        tls: TlsContexts | None = None,
        events: EventLog | None = None,
    ) -> None:
        self._reactor = Reactor(me, listeners, verifier, notify, tls, events)
        self._thread = threading.Thread(target=self._reactor.run, name="relay", daemon=True)

    def __enter__(self) -> "RelayNode":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._reactor.post(self._reactor.stop)
        self._thread.join(_STOP_SECONDS)

    @property
    def alive(self) -> bool:
        """Whether the relay's thread runs."""
        return self._thread.is_alive()

    @property
    def peers(self) -> int:
        """How many nodes are connected."""
        return self._reactor.switchboard.peers

    @property
    def takeovers(self) -> int:
        """How many spans were handed to an heir so far."""
        return self._reactor.engine.takeovers

    def set_secrets(self, secrets: list[bytes]) -> None:
        """The relay secrets that are valid, the one to prove with first."""
        self._reactor.post(lambda: self._reactor.switchboard.set_secrets(secrets))

    def trust(self, keys: Iterable[Ed25519PublicKey]) -> None:
        """Accept pieces that these keys vouch for, besides those known before."""
        trusted = list(keys)
        self._reactor.post(lambda: self._reactor.trust(trusted))

    def set_alone(self, alone: bool) -> None:
        """Whether the tracker is gone, so that what agents vouch for is taken too."""
        self._reactor.post(lambda: self._reactor.set_alone(alone))

    def distrust(self, nodes: Iterable[str]) -> None:
        """Take nothing more that these agents vouch for."""
        distrusted = list(nodes)
        self._reactor.post(lambda: self._reactor.distrust(distrusted))

    def set_nodes(self, nodes: dict[str, NodeAddress], keep: Iterable[str] = ()) -> None:
        """Who holds a lease, and where; links to `keep` are held open. The others' connections are closed."""
        kept = set(keep)
        self._reactor.post(lambda: self._reactor.switchboard.set_nodes(nodes, kept))

    def open(self, spec: TransferSpec) -> "Ticket":
        """Take part in a generation, once; raises OSError when no descriptor is left."""
        transfer = Transfer.begin(spec)
        self._reactor.post(lambda: self._reactor.open(transfer))
        return Ticket(transfer.counts, transfer.hashes, transfer.provisional)

    def close(self, generation: int) -> None:
        """End our part in a generation."""
        self._reactor.post(lambda: self._reactor.close_generation(generation))

    def add_ring(self, generation: int, ring: Ring) -> None:
        """Learn the members of an epoch."""
        self._reactor.post(lambda: self._reactor.add_ring(generation, ring))

    def start_dealing(
        self,
        generation: int,
        share: int,
        ring: Ring,
        pieces: Iterable[int] | None = None,
        by_offer: bool = False,
        lane: Lane = EVERY_ROOT,
    ) -> None:
        """Deal `pieces` (None: all, as they come) over `ring`, in place of the ring that this share had before.

        A ring without members ends the share. Answered by the notice `EpochBegan`.
        """
        wanted = frozenset(pieces) if pieces is not None else None
        self._reactor.post(lambda: self._reactor.start_dealing(generation, share, ring, wanted, by_offer, lane))

    def deal(self, generation: int, pieces: list[tuple[int, bytes, bytes]]) -> None:
        """Deal pieces (index, hash, encoded vouch) that the file has, now or when somebody is to be dealt them."""
        self._reactor.post(lambda: self._reactor.deal(generation, pieces))

    def inject(
        self, generation: int, epoch: int, pieces: list[tuple[int, bytes, bytes]], by_offer: bool = False
    ) -> None:
        """Pass on pieces (index, hash, encoded vouch of ours) that the file has from elsewhere, as their root.

        `by_offer` where members may have them already.
        """
        self._reactor.post(lambda: self._reactor.inject(generation, epoch, pieces, by_offer))

    def start_fill(
        self, generation: int, ring: Ring, indices: Iterable[int], by_offer: bool = False, lane: Lane = EVERY_ROOT
    ) -> None:
        """Deal these pieces over the ring of a fill, each as soon as it is here and vouched for."""
        wanted = list(indices)
        self._reactor.post(lambda: self._reactor.start_fill(generation, ring, wanted, by_offer, lane))

    def watch(self, generation: int) -> None:
        """Ask for the notice `DealsDone`."""
        self._reactor.post(lambda: self._reactor.watch(generation))
