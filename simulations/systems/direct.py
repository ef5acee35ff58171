"""No system at all: every host pulls straight from the origin."""

from collections.abc import Mapping, Sequence

from simulations.processes import Process
from simulations.systems import Counts, Stage


class Direct:
    """Runs nothing; the origin carries everybody."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def start(self) -> None:
        """There is nothing to start."""

    def warm(self, digests: Sequence[str]) -> None:
        """There is no middle that could have a blob."""

    def blob_url(self, host: str, digest: str) -> str:
        return self._stage.origin_url + self._stage.blob_path(digest)

    def manifest_url(self, host: str, reference: str) -> str | None:
        return self._stage.origin_url + self._stage.manifest_path(reference)

    def processes(self) -> Mapping[str, Process]:
        return {}

    def counts(self) -> Counts:
        return Counts()

    def kill(self, host: str) -> None:
        """There is nothing to kill."""

    def restart(self, host: str) -> None:
        """There is nothing to restart."""

    def stop(self) -> None:
        """There is nothing to stop."""


def make(stage: Stage) -> Direct:
    """The system on `stage`."""
    return Direct(stage)
