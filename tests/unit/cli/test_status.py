"""`p2pdist status` against an admin address that says what it should say, something else, or nothing."""

import json
import socket
import threading
from typing import Any

import pytest

from p2pdist.cli import main
from p2pdist.cli.text import format_duration, format_rate
from tests.unit.cli.conftest import Admin

_DIGEST = "sha256:" + "ab" * 32
STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "node_id": "f00d",
    "name": "web-12",
    "uptime_seconds": 11520,
    "tracker": {"address": "t.example:7400", "connected": True, "since_seconds": 61.4, "last_error": None},
    "upstreams": ["docker.io", "ghcr.io"],
    "shims": ["127.0.0.1:7500"],
    "pulls": [
        {"digest": _DIGEST, "size_bytes": 2048, "received_bytes": 512, "source": "relay", "seconds": 1.25},
        {"digest": _DIGEST, "size_bytes": None, "received_bytes": 0, "source": "origin", "seconds": 0.5},
    ],
    "blobs": {"count": 3, "bytes": 3 * 1024**2},
    "rates": {"received_bps": 80e6, "sent_bps": 12},
    "bytes": {"relay": 1024, "dealt": 2048, "swarm": 0, "origin": 5, "sent_relay": 7, "sent_swarm": 8},
    "added_later": 1,
}


def test_text(admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    admin.body = json.dumps(STATUS).encode()
    assert main(["status", "--admin", admin.address]) == 0
    assert admin.asked == ["GET /v1/status"]
    assert capsys.readouterr().out.splitlines() == [
        "agent      web-12 (f00d), p2pdist 0.1.0, up 3 h 12 min",
        "tracker    t.example:7400, connected for 1 min 1 s",
        "shims      127.0.0.1:7500",
        "upstreams  docker.io, ghcr.io",
        "held       3 blobs, 3.00 MiB",
        "now        80.0 Mbit/s in, 12 bit/s out",
        "received   1.00 KiB from members of relays, 2.00 KiB dealt by the tracker, 0 B by swarm, 5 B from the origin",
        "sent       7 B in relays, 8 B by swarm",
        "pulls      2 under way",
        f"  {_DIGEST}  512 B of 2.00 KiB (25 %)  by relay, 1.2 s",
        f"  {_DIGEST}  0 B  by origin, 0.5 s",
    ]


def test_a_lost_tracker_and_its_reason_stand_out(admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    link = {"address": "t:1", "connected": False, "since_seconds": 5, "last_error": "refused\x1b[2J"}
    admin.body = json.dumps(STATUS | {"tracker": link, "pulls": [], "upstreams": []}).encode()
    assert main(["status", "--admin", admin.address]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "tracker    t:1, NOT connected for 5.0 s: refused?[2J" in lines
    assert "upstreams  none known yet" in lines
    assert "pulls      none under way" in lines


def test_json_is_what_the_agent_said(admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    admin.body = json.dumps(STATUS).encode()
    assert main(["status", "--json", "--admin", admin.address]) == 0
    assert json.loads(capsys.readouterr().out) == STATUS


def test_no_agent_is_exit_code_3(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        assert main(["status", "--admin", address]) == 3
    said = capsys.readouterr().err
    assert said.startswith(f"p2pdist: error: no agent answers on {address} (Connection refused); is `p2pdist agent`")


@pytest.mark.parametrize(
    ("status", "body", "code", "said"),
    [
        (200, b"not json", 1, "isn't an agent of this version"),
        (200, b'{"version": 5}', 1, "isn't an agent of this version"),
        (503, b'{"errors":[{"code":"UNAVAILABLE","message":"starting"}]}', 3, "answers: starting"),
        (404, b"<html>", 1, "answers: HTTP 404"),
        (200, b" " * (16 * 1024 * 1024 + 1), 1, "more than 16777216 bytes"),
    ],
)
def test_other_answers(
    admin: Admin, capsys: pytest.CaptureFixture[str], status: int, body: bytes, code: int, said: str
) -> None:
    admin.status, admin.body = status, body
    assert main(["status", "--admin", admin.address]) == code
    assert said in capsys.readouterr().err


def test_an_answer_that_is_cut(admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    admin.body, admin.promised_bytes = b"{", 100
    assert main(["status", "--admin", admin.address]) == 3
    assert "closed the connection in the middle" in capsys.readouterr().err


def test_something_that_speaks_no_http(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert main(["status", "--admin", f"127.0.0.1:{server.getsockname()[1]}"]) == 1
        thread.join()
    assert "isn't an agent" in capsys.readouterr().err


def test_a_bad_address_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--admin", "127.0.0.1"]) == 2
    assert "needs a host and a port" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 0 s"), (3600, "1 h 0 min"), (90000, "1 d 1 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("rate", "text"), [(0, "0 bit/s"), (1500, "1.5 kbit/s"), (2.5e9, "2.5 Gbit/s")])
def test_rates(rate: float, text: str) -> None:
    assert format_rate(rate) == text
