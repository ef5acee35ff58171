"""`p2pdist explain`: what a person reads of an account."""

import json
from typing import Any

import pytest

from p2pdist.cli import main
from tests.unit.cli.conftest import Admin

_DIGEST = "sha256:" + "ab" * 32
_MIB = 1024**2
_PULL: dict[str, Any] = {
    "wanted_at": 1.8e9,
    "state": "held",
    "upstream": "docker.io",
    "repository": "library/nginx",
    "size_bytes": 40 * _MIB,
    "received_bytes": 40 * _MIB,
    "private": False,
    "seconds": 12.5,
    "first_byte_seconds": 0.25,
    "last_byte_seconds": 12.4,
    "commit_seconds": 0.1,
    "sources": [
        {"by": "relay", "node": "f00d" * 8, "name": "web-2", "bytes": 20 * _MIB},
        {"by": "deal", "node": "t", "name": "tracker", "bytes": 10 * _MIB},
        {"by": "swarm", "node": "192.0.2.7:7502", "name": "", "bytes": 5 * _MIB},
        {"by": "swarm", "node": "", "name": "", "bytes": 3 * _MIB},
        {"by": "origin", "node": "", "name": "", "bytes": 2 * _MIB},
    ],
    "waits": [
        {"at_seconds": 0.0, "seconds": 0.05, "what": "the tracker's answer"},
        {"at_seconds": 0.05, "seconds": 0.2, "what": "pieces by relay"},
        {"at_seconds": 4.0, "seconds": 2.5, "what": "pieces by relay"},
        {"at_seconds": 12.4, "seconds": 0.1, "what": "the check of its digest"},
    ],
    "waits_left_out": 3,
    "gap_seconds": 0.5,
    "steps": [{"at_seconds": 0.05, "what": "the tracker answered: relay"}],
    "steps_left_out": 0,
    "overdue_pieces": 4,
    "redundant_bytes": 32 * 1024,
    "taken_over": 2,
    "sent_bytes": 30 * _MIB,
    "error": None,
}
_HELD = {
    "size_bytes": 40 * _MIB,
    "upstream": "docker.io",
    "repository": "library/nginx",
    "private": False,
    "written_at": 1.8e9,
}
_ANSWER: dict[str, Any] = {"digest": _DIGEST, "node_id": "f" * 32, "name": "web-1", "pull": _PULL, "held": _HELD}


def explained(admin: Admin, capsys: pytest.CaptureFixture[str], **pull: Any) -> list[str]:
    admin.body = json.dumps(_ANSWER | {"pull": _PULL | pull}).encode()
    assert main(["explain", _DIGEST, "--admin", admin.address]) == 0
    return capsys.readouterr().out.splitlines()


def test_text(admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    shown = explained(admin, capsys)
    assert admin.asked == [f"GET /v1/explain?digest=sha256%3A{'ab' * 32}"]
    assert shown[:2] == [f"blob       {_DIGEST}", f"host       web-1 ({'f' * 32})"]
    assert shown[2].startswith("wanted     2027-01-15 ")
    assert shown[2].endswith("40.00 MiB of docker.io/library/nginx")
    assert shown[3:] == [
        "state      held after 12.5 s, 26.8 Mbit/s",
        "came        20.00 MiB  50 %  by relay from web-2 (f00df00df00d)",
        "            10.00 MiB  25 %  dealt by the tracker",
        "             5.00 MiB  12 %  by swarm from 192.0.2.7:7502",
        "             3.00 MiB   8 %  by swarm, from peers that weren't told apart",
        "             2.00 MiB   5 %  from the origin",
        "waited     2.9 s of 12.5 s; first byte after 250 ms",
        "                2.7 s  for pieces by relay",
        "               100 ms  for the check of its digest",
        "                50 ms  for the tracker's answer",
        "gaps       at    4.0 s nothing for 2.5 s: pieces by relay",
        "           … and 3 shorter or later ones",
        "steps      at    50 ms the tracker answered: relay",
        "trouble    4 overdue pieces were asked for, 32.00 KiB came twice, 2 spans taken over from lost members",
        "gave       30.00 MiB to other members of its relays",
    ]


def test_a_pull_under_way_that_waits(admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    waits = [{"at_seconds": 0.0, "seconds": 9.0, "what": "the connection to the tracker\x1b[2J"}]
    shown = explained(
        admin,
        capsys,
        state="running",
        sources=[],
        received_bytes=0,
        size_bytes=None,
        seconds=9.0,
        first_byte_seconds=None,
        waits=waits,
        waits_left_out=0,
        sent_bytes=0,
    )
    assert "state      arriving for 9.0 s, 0 B here" in shown
    assert "came       nothing yet" in shown
    assert "waited     9.0 s of 9.0 s; no byte has come" in shown
    assert "                9.0 s  for the connection to the tracker?[2J" in shown
    assert not any(line.startswith(("gaps", "gave")) for line in shown)


def test_a_failure_stands_out_and_many_sources_are_cut(admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    sources = [{"by": "relay", "node": str(number), "name": f"web-{number}", "bytes": _MIB} for number in range(40)]
    shown = explained(admin, capsys, state="failed", error="the disk is full", sources=sources)
    assert "state      FAILED after 12.5 s: the disk is full" in shown
    assert "            32.00 MiB  80 %  from 32 others" in shown


def test_json_is_what_the_agent_said(admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    admin.body = json.dumps(_ANSWER).encode()
    assert main(["explain", "--json", "abab", "--admin", admin.address]) == 0
    assert json.loads(capsys.readouterr().out) == _ANSWER


def test_an_unknown_blob_is_a_sentence(admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    admin.status = 404
    admin.body = json.dumps({"errors": [{"code": "BLOB_UNKNOWN", "message": "no blob begins so"}]}).encode()
    assert main(["explain", "abab", "--admin", admin.address]) == 1
    assert "no blob begins so" in capsys.readouterr().err


def test_what_is_no_agent(admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    admin.body = b"<html>"
    assert main(["explain", "abab", "--admin", admin.address]) != 0
    assert "isn't an agent of this version" in capsys.readouterr().err
