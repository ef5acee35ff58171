"""Event logs as files: merged by time, decoded, ids replaced by names.

Lines that can't be read (a node that was killed in the middle of one) are counted, not fatal.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from p2pdist.core.errors import InvalidInput
from p2pdist.telemetry.events import Event, Line

_MAX_BYTES = 2 << 30
_START = b'{"time":'


@dataclass(frozen=True, slots=True)
class Log:
    """What was read: `node` and `peer` of the lines are names where one is known."""

    lines: Sequence[Line]
    unreadable: int
    dropped: int


def merge(sources: Iterable[Path], target: Path) -> int:
    """Write the lines of all `sources` to `target`, the earliest first; how many. Raises `InvalidInput`."""
    found = _raw(sources)
    found.sort(key=_time_of)
    try:
        target.write_bytes(b"".join(line + b"\n" for line in found))
    except OSError as error:
        raise InvalidInput(f"{target} can't be written: {error.strerror}") from error
    return len(found)


def read(sources: Iterable[Path]) -> Log:
    """The lines of all `sources` together, in the order of time; raises `InvalidInput` for what isn't an event log."""
    decoder = msgspec.json.Decoder(Line)
    lines: list[Line] = []
    unreadable = 0
    for raw in _raw(sources):
        try:
            lines.append(decoder.decode(raw))
        except msgspec.DecodeError:
            unreadable += 1
    if not lines:
        raise InvalidInput("there is no line of an event log in what was given")
    lines.sort(key=lambda line: line.time)
    names = _names(lines)
    for line in lines:
        line.node = names.get(line.node, line.node)
        line.peer = names.get(line.peer, line.peer)
    return Log(lines, unreadable, sum(line.lines for line in lines if line.event == Event.DROPPED))


def _raw(sources: Iterable[Path]) -> list[bytes]:
    found: list[bytes] = []
    for path in sources:
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise InvalidInput(f"{path} has more than {_MAX_BYTES >> 30} GiB: cut out the time that matters first")
            found += path.read_bytes().splitlines()
        except OSError as error:
            raise InvalidInput(f"{path} can't be read: {error.strerror}") from error
    return found


def _time_of(raw: bytes) -> float:
    """Time is the first field of a line; what has none goes first."""
    try:
        return float(raw[len(_START) : raw.index(b",")]) if raw.startswith(_START) else 0.0
    except ValueError:
        return 0.0


def _names(lines: Iterable[Line]) -> dict[str, str]:
    """Ids to names; two nodes of one name keep their ids."""
    names: dict[str, str] = {}
    for line in lines:
        if line.event == Event.STARTED:
            names[line.node] = line.name
        elif line.event == Event.PEER:
            names.setdefault(line.peer, line.name)
    taken: dict[str, str] = {}
    return {node: name for node, name in names.items() if name and taken.setdefault(name, node) == node}
