"""`p2pdist pull` against an admin address that plays the course of a pull."""

import json
import os
import pty
import sys
import threading

import pytest

from p2pdist.cli import main
from tests.unit.cli.conftest import Admin

_INDEX = "sha256:" + "1" * 64
_LAYER = "sha256:" + "2" * 64
_DONE = {
    "event": "done",
    "digest": _INDEX,
    "seconds": 1.5,
    "bytes": {"relay": 1024, "dealt": 2048, "swarm": 0, "origin": 0, "store": 10},
}


def _blob(state: str, received: int, source: str = "relay") -> dict[str, object]:
    return {
        "event": "blob",
        "digest": _LAYER,
        "size_bytes": 3072,
        "received_bytes": received,
        "state": state,
        "source": source,
    }


_COURSE: list[dict[str, object]] = [
    {"event": "manifest", "digest": _INDEX, "media_type": "application/vnd.oci.image.index.v1+json"},
    _blob("waiting", 0),
    _blob("receiving", 10),
    _blob("receiving", 2000),
    _blob("receiving", 2500, "swarm"),
    _blob("verifying", 3072),
    _blob("held", 3072),
    dict(_DONE),
]


def _stream(*events: dict[str, object]) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def test_lines_where_nobody_watches(admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    admin.body = _stream(*_COURSE)
    assert main(["pull", "docker.io/library/app:1.2", "--admin", admin.address]) == 0
    assert admin.asked == ["POST /v1/pull?image=docker.io%2Flibrary%2Fapp%3A1.2"]
    assert capsys.readouterr().out.splitlines() == [
        "111111111111  manifest, application/vnd.oci.image.index.v1+json",
        "222222222222  3.00 KiB, waiting",
        "222222222222  3.00 KiB, receiving, relay",
        "222222222222  3.00 KiB, receiving, swarm",
        "222222222222  3.00 KiB, verifying, relay",
        "222222222222  3.00 KiB, held, relay",
        f"docker.io/library/app:1.2 is {_INDEX}, held after 1.5 s (relay 1.00 KiB, deal 2.00 KiB, store 10 B)",
    ]


def test_bars_on_a_terminal(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    admin.body = _stream(*_COURSE)
    ours, theirs = pty.openpty()
    shown = bytearray()

    def watch() -> None:
        while data := _read_terminal(ours):
            shown.extend(data)

    watcher = threading.Thread(target=watch)
    watcher.start()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    with monkeypatch.context() as patched, open(theirs, "w") as terminal:
        patched.setattr(sys, "stdout", terminal)
        code = main(["pull", "app", "--admin", admin.address])
    watcher.join()
    os.close(ours)
    text = shown.decode()
    assert code == 0
    assert "111111111111  manifest, application/vnd.oci.image.index.v1+json" in text
    assert "held, relay" in text
    assert "3.1/3.1 KiB" in text or "3.0/3.0 KiB" in text
    assert f"app is {_INDEX}, held after 1.5 s" in text


def _read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # EIO: the other side is closed
        return b""


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (
            _stream(*_COURSE[:3], {"event": "error", "code": "MANIFEST_UNKNOWN", "message": "no such tag\x1b"}),
            1,
            "p2pdist: error: no such tag? (MANIFEST_UNKNOWN)\n",
        ),
        (_stream(*_COURSE[:3]), 3, "before the pull had ended"),
        (b"", 3, "before the pull had ended"),
        (b"hello\n", 1, "something else than the progress of a pull"),
        (_stream({"event": "dance"}), 1, "something else than the progress of a pull"),
        (_stream(_COURSE[0] | {"digest": "sha256:1"}), 2, "digest"),
        (b"x" * (1024 * 1024 + 1), 1, "a line of over 1048576 bytes"),
    ],
)
def test_failures(admin: Admin, capsys: pytest.CaptureFixture[str], body: bytes, code: int, said: str) -> None:
    admin.body = body
    assert main(["pull", "app", "--admin", admin.address]) == code
    assert said in capsys.readouterr().err


def test_a_refusal_before_the_stream(admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    admin.status = 404
    admin.body = b'{"errors":[{"code":"NAME_UNKNOWN","message":"ghcr.io isn\'t a configured upstream"}]}'
    assert main(["pull", "ghcr.io/app", "--admin", admin.address]) == 1
    assert "ghcr.io isn't a configured upstream" in capsys.readouterr().err
