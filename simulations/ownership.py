"""Who made a process, a namespace or a directory: a mark that outlives its maker, so that the next run can sweep.

A run that is killed can't clean up. Everything that it makes therefore carries its process id and that process's start
time (ids are used again, the pair isn't); what belongs to no living process may be removed by anybody.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_FORM = re.compile(r"p2pdist\.([0-9]+)\.([0-9]+)")
_START_TIME_FIELD = 19  # proc(5), /proc/pid/stat: field 22; three fields stand before the list that we split


def _start_ticks(pid: int) -> int | None:
    """When process `pid` started, in clock ticks since boot; None when there is no such process, or only its zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[_START_TIME_FIELD])


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that made something; `str()` is the mark that the thing carries."""

    pid: int
    start_ticks: int

    @classmethod
    def current(cls) -> Self:
        """The process that runs this."""
        ticks = _start_ticks(os.getpid())
        assert ticks is not None, "a running process is in /proc"
        return cls(os.getpid(), ticks)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The owner whose mark `text` starts with, if it does."""
        match = _FORM.match(text)
        return cls(int(match[1]), int(match[2])) if match else None

    @property
    def alive(self) -> bool:
        """Whether that very process still runs."""
        return _start_ticks(self.pid) == self.start_ticks

    def __str__(self) -> str:
        return f"p2pdist.{self.pid}.{self.start_ticks}"
