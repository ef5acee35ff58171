"""What is told of event logs: read, merged, summed up, drawn."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from p2pdist.core.errors import InvalidInput
from p2pdist.telemetry.events import Line
from simulations.__main__ import main
from simulations.events.flows import ORIGIN, UNKNOWN, Span, flows_of
from simulations.events.reading import merge, read

_MIB = 1 << 20
_A, _B = "a" * 16, "b" * 16


def line(time: float, node: str, event: str, **fields: Any) -> dict[str, Any]:
    return {"time": time, "node": node, "event": event, **fields}


TRACKER = [
    line(1.0, "t", "started", by="tracker", name="tracker"),
    line(12.0, "t", "fetched", digest=_A, by="origin", bytes=4 * _MIB, seconds=2.0),
]
HOST_1 = [
    line(2.0, "1", "started", by="agent", name="host-1"),
    line(10.0, "1", "wanted", digest=_A, bytes=4 * _MIB),
    line(10.5, "1", "received", digest=_A, peer="t", by="deal", piece=0, bytes=3 * _MIB),
    line(13.5, "1", "starved", digest=_A, seconds=3.0, reason="pieces by relay"),
    line(13.5, "1", "received", digest=_A, by="origin", bytes=_MIB),
    line(13.6, "1", "redundant", digest=_A, peer="t", by="deal", piece=0, bytes=7),
    line(13.7, "1", "taken_over", digest=_A, peer="2", piece=1),
    line(14.0, "1", "held", digest=_A, bytes=4 * _MIB, seconds=4.0),
]
HOST_2 = [
    line(10.0, "2", "peer", peer="1", name="host-1"),
    line(11.0, "2", "swarmed", digest=_B, peer="1", bytes=2 * _MIB),
    line(11.5, "2", "swarmed", digest=_B, bytes=_MIB),
    line(12.0, "2", "failed", digest=_B, seconds=2.0, reason="no"),
    line(12.0, "2", "dropped", lines=9),
]


@pytest.fixture
def logs(tmp_path: Path) -> list[Path]:
    paths = []
    for name, lines in (("host-1", HOST_1), ("tracker", TRACKER), ("host-2", HOST_2)):
        paths.append(tmp_path / f"{name}.events.jsonl")
        paths[-1].write_text("".join(json.dumps(each, separators=(",", ":")) + "\n" for each in lines))
    return paths


def test_merging_puts_lines_in_order_of_time(logs: list[Path], tmp_path: Path) -> None:
    with logs[2].open("a") as file:
        file.write('{"time":9.5,"nod')
    count = merge(logs, tmp_path / "all")
    times = [float(raw[8 : raw.index(",")]) for raw in (tmp_path / "all").read_text().splitlines()]
    assert count == len(times) == len(HOST_1 + TRACKER + HOST_2) + 1
    assert times == sorted(times)
    assert read([tmp_path / "all"]).unreadable == 1


def test_ids_become_names_and_what_is_missing_is_said(logs: list[Path]) -> None:
    log = read(logs)
    assert (log.unreadable, log.dropped) == (0, 9)
    assert {each.node for each in log.lines} == {"tracker", "host-1", "2"}
    assert next(each for each in log.lines if each.event == "received").peer == "tracker"


def test_two_nodes_of_one_name_keep_apart(tmp_path: Path) -> None:
    path = tmp_path / "log"
    started = [line(1.0, node, "started", name="web") for node in ("x", "y")]
    path.write_text("".join(json.dumps(each) + "\n" for each in started))
    assert {each.node for each in read([path]).lines} == {"web", "y"}


@pytest.mark.parametrize("content", ["", "no events\n"])
def test_what_is_no_log_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "log"
    path.write_text(content)
    with pytest.raises(InvalidInput, match="no line of an event log"):
        read([path])
    with pytest.raises(InvalidInput, match="No such file"):
        read([tmp_path / "missing"])


def test_who_fed_whom(logs: list[Path]) -> None:
    flows = flows_of(read(logs).lines)
    assert flows.began_at == 10.0
    assert flows.matrix() == {
        (ORIGIN, "tracker"): 4 * _MIB,
        ("tracker", "host-1"): 3 * _MIB,
        (ORIGIN, "host-1"): _MIB,
        ("host-1", "2"): 2 * _MIB,
        (UNKNOWN, "2"): _MIB,
    }
    assert flows.receivers == ["tracker", "2", "host-1"]
    assert flows.by_source("host-1") == {"deal": 3 * _MIB, "relay": 0, "swarm": 0, "origin": _MIB}
    assert flows.waits == [Span("host-1", 0.5, 3.5, "pieces by relay")]
    assert flows.pulls == [Span("host-1", 0.0, 4.0, _A)]
    assert flows.failed == [Span("2", 0.0, 2.0, _B)]
    assert flows.seconds == 4.0


def test_bins_hold_all_bytes_and_a_fetch_is_spread(logs: list[Path]) -> None:
    flows = flows_of(read(logs).lines)
    for host, sums in (("host-1", 4 * _MIB), ("tracker", 4 * _MIB), ("2", 3 * _MIB)):
        binned = flows.binned(host, 8)
        assert sum(map(sum, binned.values())) * 4.0 / 8 == pytest.approx(sums)
    assert [rate > 0 for rate in flows.binned("tracker", 8)["origin"]] == [True] * 4 + [True] + [False] * 3


def test_one_blob_of_many(logs: list[Path]) -> None:
    flows = flows_of(read(logs).lines, _B[:4])
    assert flows.blobs == {_B}
    assert flows.receivers == ["2"]


def test_a_host_that_never_finished_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    path.write_text("".join(json.dumps(each) + "\n" for each in HOST_1[:4]))
    assert main(["events", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"host-1 hadn't got {_A} when its log ended, 3.50 s after it wanted it"
    )


def test_a_line_without_anything_is_no_flow() -> None:
    assert flows_of([Line(1.0, "x", "started")]).seconds == 0.0


def test_the_command_prints_a_line_a_host(logs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events", *map(str, logs)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "2 blobs, 4.00 s, 11.0 MiB received"
    assert shown[1] == "incomplete: 9 lines were dropped by their nodes, 0 can't be read"
    assert shown[3].split() == ["tracker", "0.00", "0.00", "0.00", "4.00", "0.00", "origin", "4.0"]
    assert shown[5].endswith("tracker 3.0, origin 1.0; pieces by relay 3.0 s")
    assert shown[6:] == ["2: 1 of its spans went to heirs", f"2 failed to get {_B} after 2.00 s"]


def test_it_draws(logs: list[Path], tmp_path: Path) -> None:
    """In a process of its own: matplotlib keeps its fonts open."""
    target = tmp_path / "out.png"
    arguments = [*map(str, logs), "--plot", str(target), "--digest", f"sha256:{_A}ffff"]
    subprocess.run([sys.executable, "-m", "simulations", "events", *arguments], check=True, capture_output=True)
    assert target.read_bytes().startswith(b"\x89PNG")


def test_a_blob_that_is_not_there(logs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events", *map(str, logs), "--digest", "cccc"]) == 2
    assert "say nothing of a blob cccc" in capsys.readouterr().err


def test_whoever_reads_the_output_may_go(logs: list[Path]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "simulations", "events", *map(str, logs)]
    try:
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
