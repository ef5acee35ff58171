"""What processes cost while something is measured, those included that an event ends meanwhile."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from simulations.processes import Process

_SERVER = "tracker"


@dataclass(slots=True)
class Scales:
    """CPU seconds since `start`, and the most memory each process ever had."""

    cpu_before: dict[int, float] = field(default_factory=dict)
    cpu_of_ended: float = 0.0
    rss_bytes: dict[str, int] = field(default_factory=dict)

    def start(self, processes: Mapping[str, Process]) -> None:
        """Begin to count with what these have used until now left out."""
        self.cpu_before = {process.pid: process.cpu_seconds() for process in processes.values() if process.running}

    def before_end(self, name: str, process: Process) -> None:
        """Take down what a process has used that is about to be ended."""
        if process.running:
            self.cpu_of_ended += self._cpu_of(process)
            self._weigh(name, process)

    def cpu_seconds(self, processes: Mapping[str, Process]) -> float:
        """What all of them have used since `start`, the ended ones included."""
        return self.cpu_of_ended + sum(self._cpu_of(process) for process in processes.values() if process.running)

    def weigh(self, processes: Mapping[str, Process]) -> None:
        """Take down how much memory each has had at the most."""
        for name, process in processes.items():
            if process.running:
                self._weigh(name, process)

    @property
    def host_rss_bytes(self) -> list[int]:
        """The most memory of each host's process."""
        return [size for name, size in self.rss_bytes.items() if name != _SERVER]

    @property
    def server_rss_bytes(self) -> int | None:
        """The most memory of what is in the middle."""
        return self.rss_bytes.get(_SERVER)

    def _cpu_of(self, process: Process) -> float:
        return process.cpu_seconds() - self.cpu_before.get(process.pid, 0.0)

    def _weigh(self, name: str, process: Process) -> None:
        self.rss_bytes[name] = max(self.rss_bytes.get(name, 0), process.peak_rss_bytes())
