"""Rules that aren't the code's (yet): each a name for `--variant`, so that its figures can be had again.

A variant that the code adopts is deleted here. README.md says what each of them gave.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum

from p2pdist.core.pieces import PieceSet
from p2pdist.tracker.generation import Generation, Order, Share

FEW = 8


class Variant(Enum):
    """What may be changed."""

    PACED_DEALS = "paced-deals"
    """A deal is on the wire until its last byte has left the host, not until the kernel has it."""
    LATE_LEAVES = "late-leaves"
    """Whoever comes after the first deal is a leaf until it has what was dealt before it, while leaves are few."""


@dataclass(slots=True)
class LateLeaves(Generation):
    """A generation whose latecomers stand beside the ring: `apart` says until they have which pieces."""

    apart: dict[str, tuple[int, ...] | None] = field(default_factory=dict)

    @classmethod
    def of(cls, plain: Generation) -> "LateLeaves":
        """The same generation under this rule."""
        return cls(**{each.name: getattr(plain, each.name) for each in fields(Generation)})

    def next_epoch(self, in_order: Sequence[str], leaves: Mapping[str, Sequence[str]] | None = None) -> list[Share]:
        """As the code's, with those who are apart beside the ring too."""
        newcomers = [node for node in in_order if node in self.waiting]
        if self.shares and FEW * (len(self.apart) + len(newcomers)) <= len(self.members):
            self.apart |= dict.fromkeys(newcomers)
        beside = {zone: list(nodes) for zone, nodes in (leaves or {}).items()}
        for node in in_order:
            if node in self.apart:
                beside.setdefault(self._zones.get(node, ""), []).append(node)
        return Generation.next_epoch(self, in_order, beside)

    def began(self, epoch: int, dealt: Iterable[int]) -> list[Order]:
        """As the code's; from now on it is known what those who are apart lack."""
        earlier = tuple(dealt)
        for node, held in self._arrivals.get(epoch, {}).items():
            if node in self.apart:
                self.apart[node] = tuple(index for index in earlier if index not in held)
        return Generation.began(self, epoch, earlier)

    def take_in(self, held_by: Callable[[str], PieceSet]) -> bool:
        """Those who have caught up may stand on the ring from its next epoch on; whether there are any."""
        ready = [
            node
            for node, lacked in self.apart.items()
            if lacked is not None and all(index in held_by(node) for index in lacked)
        ]
        for node in ready:
            del self.apart[node]
        return bool(ready)
