"""The measured part of a run: clients start, events happen, samples are taken, and everything is weighed.

Nothing is asked of the daemons while the clock runs, apart from events and between waves. One loop in the calling
thread watches; the clients' threads only pull.
"""

import signal
import time
from dataclasses import dataclass

from p2pdist.core.errors import Unavailable
from simulations.emulation.arrivals import Wave, waves
from simulations.emulation.bound import bounds_of
from simulations.emulation.outcome import BlobOutcome, HostOutcome, Outcome, Sample, WaveOutcome
from simulations.emulation.scenario import ORIGIN, TRACKER, Event
from simulations.emulation.scene import Clients, Scene, check
from simulations.emulation.tally import Sent
from simulations.emulation.weighing import Scales
from simulations.network import LinkBytes
from simulations.processes import MachineCpu
from simulations.systems import Counts, thaw

_LEAD_SECONDS = 0.3
"""What threads get to stand ready in their namespaces."""
_SAMPLES = 300
_MIN_SAMPLE_SECONDS = 0.02
_MAX_SAMPLE_SECONDS = 0.5
_COMING_BACK = ("continue", "restart")
_SIGNALS = {"stop": signal.SIGSTOP, "continue": signal.SIGCONT}


@dataclass(frozen=True, slots=True)
class _Reading:
    """Everything that only grows, at one moment."""

    links: dict[str, LinkBytes]
    zones: dict[str, LinkBytes]
    counts: Counts
    origin: Sent


@dataclass(frozen=True, slots=True)
class _Weighed:
    """What it has cost until a moment."""

    machine: MachineCpu
    cpu_seconds: float
    elapsed_seconds: float


class Measurement:
    """One measurement on a scene; `run` once."""

    def __init__(self, scene: Scene, share: float | None, expected_seconds: float, seed: int) -> None:
        self._scene = scene
        self._share = share
        self._waves = waves(scene.scenario, expected_seconds, seed)
        self._events = [(event.at.after(expected_seconds), event) for event in scene.scenario.event]
        self._events.sort(key=lambda pair: pair[0])
        self._ignored: list[str] = []
        self._every_seconds = min(max(expected_seconds / _SAMPLES, _MIN_SAMPLE_SECONDS), _MAX_SAMPLE_SECONDS)
        self._clients = Clients([scene.puller(host) for wave in self._waves for host in wave])
        self._scales = Scales()
        self._samples: list[Sample] = []
        self._bounds: dict[str, float] = {}
        self._zero = 0.0
        self._machine = self._sampled = MachineCpu.now()

    def run(self, system_name: str) -> Outcome:
        """Let everybody pull; raises `Unavailable` when somebody can't whom nothing befell."""
        readings = [self._read()]
        self._scales.start(self._scene.system.processes())
        with self._clients:
            for wave in self._waves:
                self._pull_wave(wave)
                weighed = self._weigh()
                thaw(self._scene.system)
                readings.append(self._read())
        self._verify()
        self._ignored += [f"{event.action} {event.target}: all had ended before" for _, event in self._events]
        return self._outcome(system_name, readings, weighed)

    def _pull_wave(self, wave: Wave) -> None:
        scenario = self._scene.scenario
        held_by = [*scenario.holders, *self._bounds]
        self._bounds |= bounds_of(scenario, self._share or 1.0, wave, held_by=held_by)
        start = time.monotonic() + _LEAD_SECONDS
        self._clients.start({host: start + at for host, at in wave.items()})
        time.sleep(max(0.0, start - time.monotonic()))
        if not self._zero:
            self._zero = start
            self._machine = self._sampled = MachineCpu.now()
        self._watch(set(wave) - self._gone())

    def _gone(self) -> set[str]:
        """Hosts whose daemon doesn't come back from what befalls it."""
        last = {event.target: event.action for _, event in self._events}
        return {host for host, action in last.items() if action not in _COMING_BACK}

    def _watch(self, hosts: set[str]) -> None:
        """Sample, and let events happen, until all these hosts have ended."""
        scenario, next_sample = self._scene.scenario, self._now()
        while not self._clients.wait(hosts, min([next_sample, *(at for at, _ in self._events[:1])]) - self._now()):
            now = self._now()
            if now > float(scenario.give_up):
                waiting = [host for host in sorted(hosts) if self._clients.pullers[host].pull.finished_at is None]
                raise Unavailable(
                    f"{', '.join(waiting)} didn't finish within {float(scenario.give_up):g} s (give_up)\n"
                    + self._scene.log_tail(waiting[0])
                )
            if self._events and self._events[0][0] <= now:
                self._happen(self._events.pop(0)[1])
            if next_sample <= now:
                self._sample(now)
                next_sample = now + self._every_seconds
        self._sample(self._now())

    def _now(self) -> float:
        return time.monotonic() - self._zero

    def _sample(self, now: float) -> None:
        machine = MachineCpu.now()
        received = {host: puller.pull.received_bytes for host, puller in self._clients.pullers.items()}
        self._samples.append(Sample(now, received, (machine - self._sampled).busy_share))
        self._sampled = machine

    def _happen(self, event: Event) -> None:
        system, target = self._scene.system, event.target
        process = system.processes().get(target)
        if target == ORIGIN:
            self._happen_to_origin(event)
        elif process is None:
            self._ignored.append(f"{event.action} {target}: nothing of this system runs there")
        elif event.action == "kill":
            self._scales.before_end(target, process)
            system.kill(target)
        elif event.action == "restart":
            if process.running:
                self._scales.before_end(target, process)
                system.kill(target)
            system.restart(target)
        else:
            process.send(_SIGNALS[event.action])

    def _happen_to_origin(self, event: Event) -> None:
        origin = self._scene.origin
        if event.action in _SIGNALS:
            origin.send(_SIGNALS[event.action])
            return
        origin.kill()
        if event.action == "restart":
            origin.run()

    def _read(self) -> _Reading:
        scene = self._scene
        return _Reading(
            scene.network.counters(), scene.network.zone_counters(), scene.system.counts(), scene.origin.sent()
        )

    def _weigh(self) -> _Weighed:
        processes = self._scene.system.processes()
        weighed = _Weighed(MachineCpu.now() - self._machine, self._scales.cpu_seconds(processes), self._now())
        self._scales.weigh(processes)
        return weighed

    def _verify(self) -> None:
        for host, puller in self._clients.pullers.items():
            if host not in self._scene.scenario.disturbed or puller.pull.finished_at is not None:
                check(self._scene, puller)

    def _outcome(self, system_name: str, readings: list[_Reading], weighed: _Weighed) -> Outcome:
        scene, first, last = self._scene, readings[0], readings[-1]
        zones = [last.zones[zone] - first.zones[zone] for zone in first.zones]
        return Outcome(
            scenario=scene.scenario.name,
            system=system_name,
            image_bytes=scene.image.size_bytes,
            hosts=tuple(self._host_outcome(host, n) for n, wave in enumerate(self._waves) for host in wave),
            waves=tuple(
                WaveOutcome(len(wave), after.origin - before.origin, _grown(before, after))
                for wave, before, after in zip(self._waves, readings[:-1], readings[1:], strict=True)
            ),
            usable_share=self._share,
            redundant_bytes=_difference(first.counts.redundant_bytes, last.counts.redundant_bytes),
            server_link_bytes=(last.links[TRACKER] - first.links[TRACKER]).sent,
            zone_link_bytes=max(max(each.sent, each.received) for each in zones) if zones else None,
            cpu_seconds=weighed.cpu_seconds,
            machine_cpu_seconds=weighed.machine.busy_seconds,
            elapsed_seconds=weighed.elapsed_seconds,
            busy_share=weighed.machine.busy_share,
            host_rss_bytes=tuple(self._scales.host_rss_bytes),
            server_rss_bytes=self._scales.server_rss_bytes,
            origin_kind=scene.origin.kind,
            congestion_control=scene.network.congestion_control,
            ignored_events=tuple(self._ignored),
            samples=tuple(self._samples),
        )

    def _host_outcome(self, host: str, wave: int) -> HostOutcome:
        pull, scenario = self._clients.pullers[host].pull, self._scene.scenario
        started = pull.started_at if pull.started_at is not None else self._zero
        return HostOutcome(
            host=host,
            group=scenario.group_of(host).name,
            wave=wave,
            at_seconds=started - self._zero,
            seconds=None if pull.finished_at is None else pull.finished_at - started,
            bound_seconds=self._bounds[host],
            blobs=tuple(
                BlobOutcome(blob.blob.size_bytes, blob.first_byte_at - blob.asked_at, blob.finished_at - blob.asked_at)
                for blob in pull.blobs
                if blob.asked_at is not None and blob.first_byte_at is not None and blob.finished_at is not None
            ),
            received_bytes=pull.received_bytes,
            resumed=pull.resumed,
            disturbed=host in scenario.disturbed,
        )


def _grown(before: _Reading, after: _Reading) -> int | None:
    return _difference(before.counts.seeder_bytes, after.counts.seeder_bytes)


def _difference(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before
