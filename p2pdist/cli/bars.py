"""A progress bar for each blob of a pull; the only importer of rich among what `p2pdist pull` needs."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from p2pdist.agent.report import BlobEvent, ManifestEvent
from p2pdist.cli.text import printable
from p2pdist.core.digest import Digest


class Bars:
    """Shows the course of a pull on a terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def manifest(self, event: ManifestEvent) -> None:
        """A line above the bars."""
        line = f"{Digest.parse(event.digest).short}  manifest, {event.media_type}"
        self._progress.console.print(printable(line), markup=False, highlight=False)

    def blob(self, event: BlobEvent) -> None:
        """Move the blob's bar."""
        task = self._tasks.get(event.digest)
        if task is None:
            task = self._progress.add_task(Digest.parse(event.digest).short, total=event.size_bytes, course="")
            self._tasks[event.digest] = task
        course = event.state if event.state == "waiting" else f"{event.state}, {event.source}"
        self._progress.update(task, completed=event.received_bytes, total=event.size_bytes, course=course)


@contextmanager
def bars() -> Iterator[Bars]:
    """Bars for as long as the context lasts; they stay on the screen as they are at its end."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, TextColumn("{task.fields[course]}")) as progress:
        yield Bars(progress)
