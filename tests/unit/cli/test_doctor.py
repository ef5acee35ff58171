"""`p2pdist doctor`: what each check makes of what it sees."""

import json
import socket
import time

import msgspec
import pytest

from p2pdist.agent.report import Certificate, Checkup, Status, StoreSpace
from p2pdist.cli import main
from p2pdist.cli.checks import Finding, Level, check_agent, check_clock
from tests.unit.cli.test_status import STATUS

_DAY = 86400
_GIB = 1024**3


def certificate(**changes: float) -> Certificate:
    """One that was made ten days ago and lasts for thirty."""
    now = time.time()
    times = {"not_before": now - 10 * _DAY, "renew_after": now + 10 * _DAY, "not_after": now + 20.5 * _DAY}
    return Certificate(name="web-12", **(times | {name: now + days * _DAY for name, days in changes.items()}))


def findings(
    *, held: Certificate | None = None, free_bytes: int = 9 * _GIB, peers: list[str] | None = None, **status: object
) -> dict[str, Finding]:
    store = StoreSpace(path="/s", used_bytes=0, quota_bytes=0, free_bytes=free_bytes)
    said = msgspec.convert(STATUS | status, Status)
    return {
        each.check: each for each in check_agent(said, Checkup(certificate=held, store=store, peers=peers or []), None)
    }


def test_a_host_that_is_well() -> None:
    with socket.create_server(("127.0.0.1", 0)) as peer:
        found = findings(held=certificate(), peers=["127.0.0.1:{1}".format(*peer.getsockname())])
    fine = {name: finding.says for name, finding in found.items() if finding.level is Level.FINE}
    assert fine == {
        "agent": "web-12 runs, p2pdist 0.1.0",
        "tracker": "t.example:7400 is connected",
        "certificate": "web-12, valid for 20 days",
        "store": "/s holds 0 B, its filesystem has 9.00 GiB free",
        "peers": "1 of 1 other agents that were tried take connections",
    }
    assert (found["test pull"].level, found["test pull"].says) == (Level.WARNING, "nothing to try yet")


@pytest.mark.parametrize(
    ("held", "level", "says"),
    [
        (None, Level.WARNING, "isn't encrypted"),
        (certificate(not_before=1), Level.WRONG, "isn't valid yet"),
        (certificate(not_after=-3), Level.WRONG, "ran out 3 days ago"),
        (certificate(renew_after=-2), Level.WARNING, "should have been renewed"),
        (msgspec.structs.replace(certificate(), name="old"), Level.WARNING, "calls this host old"),
    ],
)
def test_certificates(held: Certificate | None, level: Level, says: str) -> None:
    finding = findings(held=held)["certificate"]
    assert finding.level is level
    assert says in finding.says
    assert finding.advice


@pytest.mark.parametrize(
    ("free_bytes", "level"), [(_GIB // 2, Level.WARNING), (1024, Level.WRONG), (2 * _GIB, Level.FINE)]
)
def test_space(free_bytes: int, level: Level) -> None:
    assert findings(free_bytes=free_bytes)["store"].level is level


def test_a_lost_tracker_and_lost_peers() -> None:
    link = {"address": "127.0.0.1:1", "connected": False, "since_seconds": 5, "last_error": "refused"}
    found = findings(tracker=link, peers=["127.0.0.1:1"])
    assert found["tracker"].says == "127.0.0.1:1 isn't connected: refused"
    assert "nothing answers there" in found["tracker"].advice
    assert found["peers"].level is Level.WRONG
    assert "not reached: 127.0.0.1:1" in found["peers"].advice
    with socket.create_server(("127.0.0.1", 0)) as tracker:
        address = "127.0.0.1:{1}".format(*tracker.getsockname())
        assert "takes connections" in findings(tracker=link | {"address": address})["tracker"].advice


def test_the_clock_is_asked_of_the_kernel() -> None:
    assert check_clock().check == "clock"
    assert check_clock().level in (Level.FINE, Level.WARNING)


def test_no_agent_is_exit_code_3(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--admin", "127.0.0.1:1", "--json"]) == 3
    first = json.loads(capsys.readouterr().out)["findings"][0]
    assert (first["check"], first["level"]) == ("agent", "WRONG")
    assert "systemctl start p2pdist-agent" in first["advice"]
