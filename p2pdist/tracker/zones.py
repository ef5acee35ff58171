"""Which part of the fleet is dealt a copy of its own. Pure.

An agent's label says where it stands, the widest part first: region/zone/rack. How much of it counts is configured.
"""

from typing import Literal

Level = Literal["fleet", "region", "zone", "rack"]
_LABELS: dict[Level, int] = {"fleet": 0, "region": 1, "zone": 2, "rack": 3}


def zone_of(level: Level, label: str) -> str:
    """The part of `label` that makes a zone at this level; a label that says less than that counts whole."""
    return "/".join(label.split("/")[: _LABELS[level]])
