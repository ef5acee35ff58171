"""How the demo looks on a terminal while it runs: a line per step, a bar per agent. Decides nothing else."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from p2pdist.demo.pull import PullProgress

_REFRESHES_PER_SECOND = 8


class Display:
    """Watches a run (`scenario.Watcher`) and draws it on `console`; bars only where that is a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def step(self, text: str) -> None:
        """Print a line."""
        self._console.print(f"{text} …", markup=False, highlight=False)

    @contextmanager
    def pulling(self, pulls: Mapping[str, PullProgress]) -> Iterator[None]:
        """Bars for these pulls; they stay on the screen as they are at the end."""
        if not self._console.is_terminal:
            yield
            return
        with _PullBars(pulls, self._console):
            yield


class _PullBars(Progress):
    """A bar per pull; how far it is gets read whenever it is drawn."""

    def __init__(self, pulls: Mapping[str, PullProgress], console: Console) -> None:
        self._pulls: list[tuple[TaskID, PullProgress]] = []
        super().__init__(
            TextColumn("  {task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeElapsedColumn(),
            console=console,
            refresh_per_second=_REFRESHES_PER_SECOND,
        )
        self._pulls = [(self.add_task(name, total=None), progress) for name, progress in pulls.items()]

    def get_renderables(self) -> Iterable[RenderableType]:
        """Called by rich for every refresh."""
        for task, progress in self._pulls:
            self.update(task, completed=progress.received_bytes, total=progress.total_bytes or None)
        return super().get_renderables()
