"""Rules that aren't the code's (yet): each a name for `--variant`, so that its figures can be had again.

A variant that the code adopts is deleted here. README.md says what each of them gave.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum

from p2pdist.tracker.generation import Generation, Share

FEW = 8


class Variant(Enum):
    """What may be changed."""

    PACED_DEALS = "paced-deals"
    """A deal is on the wire until its last byte has left the host, not until the kernel has it."""
    LATE_LEAVES = "late-leaves"
    """Whoever comes after the first deal, or comes back, stands beside the ring to the end, while leaves are few."""


@dataclass(slots=True)
class LateLeaves(Generation):
    """A generation whose latecomers, who are `apart`, stand beside the ring."""

    apart: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, plain: Generation) -> "LateLeaves":
        """The same generation under this rule."""
        return cls(**{each.name: getattr(plain, each.name) for each in fields(Generation)})

    def next_epoch(self, in_order: Sequence[str], leaves: Mapping[str, Sequence[str]] | None = None) -> list[Share]:
        """As the code's, with those who are apart beside the ring too."""
        newcomers = [node for node in in_order if node in self.waiting]
        if self.shares and FEW * (len(self.apart) + len(newcomers)) <= len(self.members):
            self.apart.update(newcomers)
        beside = {zone: list(nodes) for zone, nodes in (leaves or {}).items()}
        for node in in_order:
            zone = beside.setdefault(self._zones.get(node, ""), [])
            if node in self.apart and node not in zone:
                zone.append(node)
        return Generation.next_epoch(self, in_order, beside)
