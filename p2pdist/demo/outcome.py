"""What a run of the demo measured: figures per agent and for the fleet, and the object that `--json` prints.

Pure. The object is a contract with whoever measures by it: its keys stay as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from p2pdist.demo.admin import SourceBytes


@dataclass(frozen=True, slots=True)
class AgentFigures:
    """One agent's pull of one image."""

    name: str
    seconds: float
    first_byte_seconds: float
    received: SourceBytes

    def as_json(self) -> dict[str, Any]:
        """An element of the list `agents`."""
        return {
            "seconds": round(self.seconds, 4),
            "first_byte_seconds": round(self.first_byte_seconds, 4),
            "relay_bytes": self.received.relay,
            "dealt_bytes": self.received.dealt,
            "swarm_bytes": self.received.swarm,
        }


@dataclass(frozen=True, slots=True)
class Stage:
    """One image pulled through some agents at once, and what the fleet took from the origin and dealt meanwhile."""

    image: str
    image_bytes: int
    agents: tuple[AgentFigures, ...]
    origin_bytes: int
    dealt_bytes: int
    wrong: tuple[str, ...]
    """A sentence for everything that wasn't what its digest names."""

    @property
    def slowest_seconds(self) -> float:
        """When the last agent had the image."""
        return max(agent.seconds for agent in self.agents)

    @property
    def origin_copies(self) -> float:
        """Bytes from the origin / bytes of the image."""
        return self.origin_bytes / self.image_bytes

    @property
    def seeder_copies(self) -> float:
        """Bytes that the tracker dealt / bytes of the image."""
        return self.dealt_bytes / self.image_bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """All stages of a run: the images one after the other through the first agents, the last one through the late."""

    together: Sequence[Stage]
    late: Stage
    cpu_seconds: float
    """User and system time of all processes of the demo."""
    seconds: float

    @property
    def wrong(self) -> tuple[str, ...]:
        """What wasn't what its digest names, in all stages."""
        return tuple(sentence for stage in (*self.together, self.late) for sentence in stage.wrong)

    @property
    def images(self) -> list[str]:
        """The references that were pulled."""
        return [stage.image for stage in self.together]

    def as_json(self, shims: Sequence[str] = ()) -> dict[str, Any]:
        """The object that `p2pdist demo --json` prints; `shims` are the base URLs of those that stay up."""
        first = self.together[0]
        second = self.together[1] if len(self.together) > 1 else None
        document: dict[str, Any] = {
            "agents": [agent.as_json() for agent in (*first.agents, *self.late.agents)],
            "origin_copies": round(first.origin_copies, 4),
            "seeder_copies": round(first.seeder_copies, 4),
            "image_bytes": first.image_bytes,
            "second_version_origin_bytes": None if second is None else second.origin_bytes,
            "digests_ok": not self.wrong,
        }
        if shims:
            document |= {"shims": list(shims), "images": self.images}
        return document
