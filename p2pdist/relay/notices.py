"""What the relay's thread tells the rest of its process."""

from dataclasses import dataclass

from p2pdist.core.errors import P2PDistError


@dataclass(frozen=True, slots=True)
class BadPiece:
    """A piece with wrong bytes or a wrong signature came from `node`; it was dropped, with the connection."""

    generation: int
    node: str
    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class PeerRejected:
    """A connection was closed because its peer broke the protocol or doesn't belong to the fleet."""

    node: str
    address: str
    reason: str


@dataclass(frozen=True, slots=True)
class TransferFailed:
    """The node can't go on with a generation, for example because its disk is full."""

    generation: int
    error: P2PDistError


@dataclass(frozen=True, slots=True)
class DealsDone:
    """All that this node dealt of a generation is acknowledged."""

    generation: int


@dataclass(frozen=True, slots=True)
class EpochBegan:
    """The node deals over a new ring, whose new members lack the pieces that were `dealt` before."""

    generation: int
    epoch: int
    dealt: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PeerLags:
    """Pieces wait for `node` although they don't wait for its siblings."""

    node: str


@dataclass(frozen=True, slots=True)
class PeerSilent:
    """`node` owes an acknowledgement and gives no sign of life; its spans were taken over."""

    node: str


@dataclass(frozen=True, slots=True)
class StoodStill:
    """The node itself stood still for a while (it was stopped, or its host was) and goes on."""


Notice = BadPiece | EpochBegan | PeerLags | PeerSilent | PeerRejected | StoodStill | TransferFailed | DealsDone
