"""The model beside an emulation of the same scenario: what `emulate --json` printed, and how far apart the two are."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from p2pdist.core.errors import InvalidInput
from simulations.model.figures import Figures

_SYSTEM = "p2pdist"
_SHARE = "payload of a link's rate"


class _Figure(msgspec.Struct, frozen=True):
    median: float
    worst: float


class _System(msgspec.Struct, frozen=True):
    summary: dict[str, _Figure]


class _Document(msgspec.Struct, frozen=True):
    scenario: Annotated[str, msgspec.Meta(min_length=1)]
    systems: dict[str, _System]


@dataclass(frozen=True, slots=True)
class Emulated:
    """The medians of one scenario's figures, by the names that the emulation gives them."""

    figures: dict[str, float]

    @property
    def share(self) -> float | None:
        """What of a link's rate was payload there."""
        return self.figures.get(_SHARE)


def read(path: Path, scenario: str) -> Emulated:
    """The figures of `scenario` in a file of JSON objects, one a line; raises `InvalidInput` when they aren't there."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: can't be read: {error}") from error
    for line in lines:
        if not line.strip():
            continue
        try:
            document = msgspec.json.decode(line, type=_Document)
        except msgspec.DecodeError as error:
            raise InvalidInput(f"{path}: isn't what `emulate --json` prints, an object a line: {error}") from error
        if document.scenario == scenario and _SYSTEM in document.systems:
            summary = document.systems[_SYSTEM].summary
            return Emulated({name: figure.median for name, figure in summary.items()})
    raise InvalidInput(f"{path}: has no run of {_SYSTEM} in {scenario}; emulate that scenario first")


def modelled(figures: Figures) -> dict[str, float]:
    """The model's figures by the names of the emulation's."""
    found = {
        "first byte of a blob, p50": figures.first_byte_p50_seconds * 1000,
        "origin copies": figures.origin_copies,
        "seeder copies": figures.dealt_copies,
    }
    groups = {"": figures.everybody}
    if len(figures.groups) > 1:
        groups |= {f", {name}": group for name, group in figures.groups.items()}
    for suffix, group in groups.items():
        found |= {
            f"p50{suffix}": group.p50_seconds,
            f"p99{suffix}": group.p99_seconds,
            f"slowest{suffix}": group.slowest_seconds,
            f"p50{suffix} x bound": group.p50_x,
            f"slowest{suffix} x bound": group.slowest_x,
        }
    return found


def lines(figures: Figures, emulated: Emulated) -> Iterator[str]:
    """Every figure that both have, and the model's difference in percent of the emulation's."""
    yield f"  {'against the emulation':<34}{'emulated':>10}{'model':>10}{'model is':>10}"
    for name, value in modelled(figures).items():
        measured = emulated.figures.get(name)
        if measured is not None:
            difference = f"{(value / measured - 1) * 100:+.1f} %" if measured else ""
            yield f"  {name:<34}{measured:>10.3f}{value:>10.3f}{difference:>10}"
