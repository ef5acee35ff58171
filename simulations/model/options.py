"""What a run of the model may vary beside the scenario: rules, windows, the network's fine print."""

from dataclasses import dataclass

from p2pdist.relay.spans import DEFAULT_FAN
from simulations.model.variants import Variant


@dataclass(frozen=True, slots=True)
class Options:
    """`hosts` scales the scenario's groups to so many hosts in all; `piece_bytes` and `fan` replace the code's choice.

    `share` is what of a link's rate is payload (tbf counts Ethernet headers). `hop_seconds` is what a hop takes beside
    the links: wake-ups, hashing, the round trip that the scenario names comes on top. `burst_bytes` is what a link's
    token bucket holds, at least (10 ms if that is more; 0: no burst at all). `window_bytes` and `kernel_bytes`: see
    `links`. `registers`: hosts take their lease when they ask, instead of before the clock starts.
    """

    seed: int = 1
    hosts: int | None = None
    piece_bytes: int | None = None
    fan: int = DEFAULT_FAN
    share: float = 0.955
    hop_seconds: float = 0.0005
    burst_bytes: int = 128 * 1024
    window_bytes: int = 256 * 1024
    kernel_bytes: int = 128 * 1024
    registers: bool = False
    variants: frozenset[Variant] = frozenset()
