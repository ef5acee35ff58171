"""The event log: what is written, that nobody waits for it, and that what is missing is said."""

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from p2pdist.core.digest import Digest
from p2pdist.core.errors import InvalidInput
from p2pdist.telemetry import events as module
from p2pdist.telemetry.events import By, Event, EventLog, Line

_BLOB = Digest.of(b"blob")
_NODE, _PEER = "a" * 32, "b" * 32


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def log(path: Path) -> Iterator[EventLog]:
    with EventLog.open(path) as events:
        yield events


def wait_for(path: Path, count: int) -> list[dict[str, Any]]:
    """The lines of the file, once there are so many."""
    tick = threading.Event()
    for _ in range(500):
        if path.exists() and len(found := lines(path)) >= count:
            return found
        tick.wait(0.01)
    raise AssertionError(f"{path} has {path.read_text() if path.exists() else 'not come'}")


def test_a_line_has_what_belongs_to_it_and_nothing_else(log: EventLog, path: Path) -> None:
    log.introduce(_NODE, "web-1", "agent")
    log.note(Event.RECEIVED, _BLOB, peer=_PEER, by=By.DEAL, piece=0, bytes=5, generation=1 << 62 | 7, epoch=2)
    log.note(Event.SWARMED, _BLOB, peer="192.0.2.17:7502", bytes=9)
    log.close()
    started, received, swarmed = lines(path)
    assert (started["event"], started["node"], started["name"], started["by"]) == (
        "started",
        "a" * 12,
        "web-1",
        "agent",
    )
    assert abs(received.pop("time") - started["time"]) < 1
    assert received == {
        "node": "a" * 12,
        "event": "received",
        "digest": _BLOB.hex[:16],
        "peer": "b" * 12,
        "by": "deal",
        "piece": 0,
        "bytes": 5,
        "generation": 7,
        "epoch": 2,
    }
    assert swarmed["peer"] == "192.0.2.17:7502"
    assert msgspec.json.decode(json.dumps(swarmed), type=Line).piece == -1


def test_lines_come_while_it_is_open_and_a_peer_is_named_once(log: EventLog, path: Path) -> None:
    for name in ("web-2", "web-2", "web-3"):
        log.name_peer(_PEER, name)
    assert [line["name"] for line in wait_for(path, 2)] == ["web-2", "web-3"]
    log.note(Event.HELD, _BLOB)
    assert wait_for(path, 3)[2]["event"] == "held"


def test_threads_lose_nothing(log: EventLog, path: Path) -> None:
    def note(number: int) -> None:
        for piece in range(2000):
            log.note(Event.PUSHED, _BLOB, peer=str(number), piece=piece)

    threads = [threading.Thread(target=note, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    found = lines(path)
    for number in range(4):
        assert [line["piece"] for line in found if line["peer"] == str(number)] == list(range(2000))


def test_what_does_not_fit_is_counted_and_said(log: EventLog, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUEUE_LINES", 0)
    log.note(Event.HELD, _BLOB)
    log.note(Event.HELD, _BLOB)
    monkeypatch.setattr(module, "QUEUE_LINES", 10)
    log.note(Event.FAILED, _BLOB)
    log.close()
    assert log.dropped == 2
    assert [(line["event"], line.get("lines")) for line in lines(path)] == [("failed", None), ("dropped", 2)]


def test_a_disk_that_refuses_costs_lines_not_the_daemon(
    log: EventLog, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, refused = os.write, threading.Event()

    def full(fd: int, data: memoryview) -> int:
        if not refused.is_set():
            refused.set()
            return write(fd, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "write", full)
    log.note(Event.HELD, _BLOB)
    for _ in range(500):
        if log.dropped:
            break
        threading.Event().wait(0.01)
    monkeypatch.setattr(module.os, "write", write)
    log.note(Event.FAILED, _BLOB)
    log.close()
    torn, *rest = path.read_text().splitlines()
    assert len(torn) == 10
    assert [json.loads(line)["event"] for line in rest] == ["failed", "dropped"]


def test_moving_the_file_away_rotates_it(log: EventLog, path: Path) -> None:
    log.note(Event.WANTED, _BLOB)
    wait_for(path, 1)
    path.rename(path.with_suffix(".1"))
    log.note(Event.HELD, _BLOB)
    assert [line["event"] for line in wait_for(path, 1)] == ["held"]
    assert [line["event"] for line in lines(path.with_suffix(".1"))] == ["wanted"]


def test_it_appends_and_keeps_what_was_there(path: Path) -> None:
    for _ in range(2):
        with EventLog.open(path) as events:
            events.introduce(_NODE, "web-1", "agent")
    assert len(lines(path)) == 2
    assert path.stat().st_mode & 0o007 == 0


def test_a_place_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No such file or directory"):
        EventLog.open(tmp_path / "missing" / "events.jsonl")


def test_after_the_end_lines_are_dropped(path: Path) -> None:
    with EventLog.open(path) as events:
        pass
    events.note(Event.HELD, _BLOB)
    assert (events.dropped, path.read_text()) == (1, "")
