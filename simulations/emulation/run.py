"""One run: everything is made anew, the image is pulled as the scenario says, what came of it is an `Outcome`.

Owns the order of things and that all of it is taken away again.
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from simulations import systems
from simulations.delay import Delay
from simulations.emulation.bound import bounds_of
from simulations.emulation.calibration import usable_share
from simulations.emulation.content import REPOSITORY, TAG, make_image
from simulations.emulation.measurement import Measurement
from simulations.emulation.origin import Origin
from simulations.emulation.outcome import Outcome
from simulations.emulation.scenario import ORIGIN, TRACKER, Scenario
from simulations.emulation.scene import Scene, pull_now
from simulations.events.reading import merge
from simulations.network import Link, Network
from simulations.systems import Noting, Stage

Say = Callable[[str], None]


def run(
    scenario: Scenario, system_name: str, directory: Path, seed: int, say: Say, events: Path | None = None
) -> Outcome:
    """Measure `system_name` in `scenario` once; `directory` is empty, and the caller's to remove.

    `events` gets the event logs of all nodes, merged by time, when the system keeps any.

    Raises `P2PDistError` when something doesn't start, or a host doesn't get its image.
    """
    with ExitStack() as stack:
        say(f"making {scenario.image_bytes / 2**20:.0f} MiB and {len(list(scenario.places()))} hosts")
        image = make_image(directory / "image", scenario.layer_sizes)
        zones = {name: scenario.zone_of(place) for name, place in scenario.places()}
        links = {name: place.shape for name, place in scenario.places()}
        network = stack.enter_context(Network(links, zones=zones, zone_bps=scenario.zone_link))
        share = usable_share(network, [*scenario.pullers, *scenario.holders, TRACKER, ORIGIN], zones)
        if scenario.round_trip:
            stack.enter_context(Delay(network, float(scenario.round_trip) / 2, directory / "delay.log"))
        origin = Origin(network[ORIGIN], directory / "origin", image)
        origin.start()
        home = directory / "system"
        home.mkdir()
        hosts = tuple(name for name in links if name not in (ORIGIN, TRACKER))
        system = systems.make(
            system_name, Stage(network, home, origin.url, REPOSITORY, hosts, zones, events is not None)
        )
        stack.callback(system.stop)
        say(f"starting {system_name}")
        system.start()
        scene = Scene(scenario, network, origin, system, image, TAG)
        _prepare(scene, say)
        expected = max(bounds_of(scenario, share or 1.0, dict.fromkeys(scenario.pullers, 0.0)).values())
        say(f"pulling; expected are {expected:.1f} s at least")
        outcome = Measurement(scene, share, expected, seed).run(system_name)
        if events is not None and isinstance(system, Noting):
            say(f"{merge(system.end_events(), events)} events are in {events}")
        return outcome


def _prepare(scene: Scene, say: Say) -> None:
    """Put the image where the scenario wants it beforehand, over links without limits."""
    scenario, network = scene.scenario, scene.network
    if scenario.start == "cold" and not scenario.holders:
        return
    say("putting the image where it is to be before")
    opened = [ORIGIN, TRACKER, *scenario.holders]
    shapes = {name: network[name].link for name in opened}
    for name in opened:
        network.reshape(name, Link())
    if scenario.start == "warm":
        scene.system.warm([str(layer.digest) for layer in scene.image.layers])
    if scenario.holders:
        pull_now(scene, scenario.holders)
    for name, shape in shapes.items():
        network.reshape(name, shape)
