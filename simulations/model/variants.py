"""Rules that aren't the code's (yet): each a name for `--variant`, so that its figures can be had again.

A variant that the code adopts is deleted here. README.md says what each of them gave.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from p2pdist.core.pieces import PieceSet
from p2pdist.relay.spans import Ring
from p2pdist.tracker.generation import Generation, Order

SPREAD = 16
STRIPE_PIECES = 8
FEW = 8


class Variant(Enum):
    """What may be changed."""

    SPREAD_FILLS = "spread-fills"
    """A fill is striped over many of those who came before, other ones each time; who is being filled deals too."""
    PACED_DEALS = "paced-deals"
    """A deal is on the wire until its last byte has left the host, not until the kernel has it."""
    REPORT_FROZEN = "report-frozen"
    """Whom two members find frozen is left out by an epoch, and joins again when it is back."""
    QUIET_JOINS = "quiet-joins"
    """When every piece has been dealt, newcomers get fills, and nobody else hears of a new epoch."""
    LATE_LEAVES = "late-leaves"
    """Whoever comes after the first deal is a leaf until it has what was dealt before it, while leaves are few."""


@dataclass(slots=True)
class VariantGeneration(Generation):
    """A generation under the variants' rules: `apart` are leaves at the next epoch."""

    spread: bool = False
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    apart: set[str] = field(default_factory=set)

    def put_apart(self, newcomers: Sequence[str]) -> None:
        """Have these be leaves at the next epoch, unless leaves would be more than one in `FEW`."""
        if FEW * (len(self.apart) + len(newcomers)) <= len(self.members):
            self.apart.update(newcomers)

    def next_epoch(self, in_order: Sequence[str], leaves: Sequence[str] = ()) -> Ring:
        """As the code's, with those who are apart beside the ring too."""
        beside = [node for node in in_order if node in self.apart or node in leaves]
        return Generation.next_epoch(self, in_order, beside if len(beside) < len(in_order) else leaves)

    def began(self, epoch: int, dealt: Iterable[int]) -> list[Order]:
        """As the code's; those who came in an earlier epoch can all deal, since they wait for nobody who came later."""
        if not self.spread:
            return Generation.began(self, epoch, dealt)
        newcomers = self._arrivals.pop(epoch, {})
        able = self.members - newcomers.keys() - set[str]().union(*self._arrivals.values())
        cohorts: dict[tuple[int, ...], list[str]] = {}
        earlier = tuple(dealt)
        for node, held in newcomers.items():
            missing = tuple(index for index in earlier if index not in held)
            if missing and node in self.members:
                cohorts.setdefault(missing, []).append(node)
        return [order for missing, cohort in cohorts.items() for order in self._fill(missing, cohort, able)]

    def _fill(self, missing: tuple[int, ...], cohort: list[str], able: set[str]) -> list[Order]:
        if not self.spread:
            return Generation._fill(self, missing, cohort, able)
        candidates = sorted(able)
        finished = [node for node in candidates if node in self.done]
        pool = finished if len(finished) >= SPREAD else candidates
        number = min(SPREAD, len(pool), -(-len(missing) // STRIPE_PIECES))
        dealers = self.rng.sample(pool, number) or [self.tracker]
        return [
            Order(self._ring(cohort, dealer), missing[stripe :: len(dealers)]) for stripe, dealer in enumerate(dealers)
        ]


@dataclass(slots=True)
class Latecomer:
    """Who is a leaf until these pieces are there."""

    name: str
    held: PieceSet
    missing: tuple[int, ...]

    @property
    def caught_up(self) -> bool:
        """Whether they are."""
        return all(index in self.held for index in self.missing)
