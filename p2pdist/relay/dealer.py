"""What one node deals of one generation: its shares, and the fills that it was asked for. Pure.

A *share* is dealt over the ring of its epoch, which a later epoch replaces; a *fill* over a ring of its own. Both deal
each piece as soon as the node has it. How pieces find their roots is the engine's business; here is only which piece
goes where. The reactor has one of these for each transfer, and so has the protocol model for each node.
"""

from collections.abc import Container, Iterable
from typing import NamedTuple

from p2pdist.relay.dealing import EVERY_ROOT, Lane
from p2pdist.relay.engine import Engine
from p2pdist.relay.spans import Ring


class Share(NamedTuple):
    """A dealer's part of a generation: the epoch of its ring, and its pieces; None: all, as they come."""

    epoch: int
    pieces: frozenset[int] | None
    by_offer: bool

    def has(self, index: int) -> bool:
        """Whether a piece belongs to it."""
        return self.pieces is None or index in self.pieces


class Dealer:
    """Deals a generation of `count` pieces by `engine`; `held` says which of them this node can deal, now and later."""

    def __init__(self, engine: Engine, generation: int, count: int, held: Container[int]) -> None:
        self._engine = engine
        self._generation = generation
        self._count = count
        self._held = held
        self._shares: dict[int, Share] = {}
        self._deferred: dict[int, list[tuple[int, bool]]] = {}

    def start(
        self, number: int, ring: Ring, pieces: frozenset[int] | None, by_offer: bool, lane: Lane = EVERY_ROOT
    ) -> list[int]:
        """Deal `pieces` (None: all, as they come) over `ring`, in place of the ring that this share had before.

        Gives the pieces that were dealt before, which newcomers on the ring lack. A ring without members ends the
        share: nobody is left to deal to, or somebody else goes on.
        """
        old = self._shares.pop(number, None)
        share = Share(ring.epoch, pieces, by_offer)
        here = [index for index in range(self._count) if share.has(index) and index in self._held]
        waiting = set(here) if old is None else set(self._engine.waiting(self._generation, old.epoch))
        if not len(ring):
            if old is not None:
                self._engine.stop_dealing(self._generation, old.epoch)
            return [index for index in here if index not in waiting]
        self._shares[number] = share
        if old is None:
            self._engine.start_dealing(self._generation, ring, lane)
            for index in here:
                self._engine.deal(self._generation, ring.epoch, index, by_offer)
        else:
            self._engine.replace_dealing(self._generation, old.epoch, ring, lane)
        return [index for index in here if index not in waiting]

    def fill(self, ring: Ring, indices: Iterable[int], by_offer: bool, lane: Lane = EVERY_ROOT) -> None:
        """Deal these pieces over the ring of a fill, each as soon as it is here."""
        self._engine.start_dealing(self._generation, ring, lane)
        for index in indices:
            if index in self._held:
                self._engine.deal(self._generation, ring.epoch, index, by_offer)
            else:
                self._deferred.setdefault(index, []).append((ring.epoch, by_offer))

    def arrived(self, index: int) -> None:
        """A piece can be dealt from now on; to be said once for each."""
        for share in self._shares.values():
            if share.has(index):
                self._engine.deal(self._generation, share.epoch, index, share.by_offer)
        for epoch, by_offer in self._deferred.pop(index, ()):
            self._engine.deal(self._generation, epoch, index, by_offer)

    @property
    def finished(self) -> bool:
        """Whether this node has shares, has dealt all of them, and has heard that everything arrived."""
        if not self._shares or self._engine.undealt(self._generation) or self._engine.unfinished(self._generation):
            return False
        everything = range(self._count)
        return all(
            index in self._held
            for share in self._shares.values()
            for index in (everything if share.pieces is None else share.pieces)
        )
