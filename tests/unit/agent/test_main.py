"""The agent as a process of its own: what it says when it can't start, and what it answers while it waits."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2pdist.store import BlobStore


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(sock.getsockname()[1]) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


class Config:
    """A configuration file whose addresses are free ports of the loopback."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "agent.toml"
        self.state = directory / "state"
        self.shim, self.relay, self.swarm, self.admin = free_ports(4)
        self.events = directory / "events.jsonl"
        self.tracker = 'address = "127.0.0.1:1"'

    def write(self) -> str:
        self.path.write_text(
            f"""
state_dir = "{self.state}"
[tracker]
{self.tracker}
[shim]
listen = ["127.0.0.1:{self.shim}"]
[relay]
listen = ["127.0.0.1:{self.relay}"]
[swarm]
listen = ["127.0.0.1:{self.swarm}"]
[admin]
listen = "127.0.0.1:{self.admin}"
[log]
events = "{self.events}"
"""
        )
        self.path.chmod(0o600)
        return str(self.path)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(tmp_path)


def fails(config: Config) -> tuple[int, str]:
    """The exit code of an agent that can't start, and its last line."""
    command = [sys.executable, "-m", "p2pdist", "agent", "--config", config.write()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()[-1]


def test_a_tracker_elsewhere_needs_enrolment(config: Config) -> None:
    config.tracker = 'address = "192.0.2.1:7400"'
    code, line = fails(config)
    assert code == 2
    assert "isn't enrolled with 192.0.2.1:7400" in line
    assert "--join TOKEN" in line


@pytest.mark.parametrize("which", ["shim", "relay", "swarm", "admin"])
def test_a_port_in_use(config: Config, which: str) -> None:
    with socket.create_server(("127.0.0.1", getattr(config, which))) as sock:
        code, line = fails(config)
        assert code in (2, 3)
        assert f"127.0.0.1:{sock.getsockname()[1]}" in line


def test_a_store_that_another_process_has(config: Config) -> None:
    with BlobStore.open(config.state):
        code, line = fails(config)
    assert code == 3
    assert str(config.state) in line


def test_a_state_directory_that_cannot_be_made(config: Config) -> None:
    config.state.write_text("a file")
    code, line = fails(config)
    assert code == 4
    assert str(config.state) in line


@contextmanager
def running(config: Config) -> Iterator[subprocess.Popen[str]]:
    """An agent, from the moment when it answers on its admin address."""
    command = [sys.executable, "-m", "p2pdist", "agent", "--config", config.write()]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if "enrolment_waits" in line or "agent_ready" in line:
                    break
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.stderr.read()


def get(port: int, target: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{target}", timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_an_agent_that_waits_for_its_tracker_answers(config: Config) -> None:
    config.tracker = f"""address = "127.0.0.1:1"
join_token = "p2pjoin_{"A" * 43}"
ca_hash = "sha256:{"0" * 64}"
"""
    with running(config) as process:
        assert get(config.admin, "/healthz")[0] == 200
        status, body = get(config.admin, "/readyz")
        assert status == 503
        assert "waiting for the tracker 127.0.0.1:1" in body.decode()
        assert get(config.admin, "/v1/status")[0] == 503
        status, body = get(config.shim, "/v2/library/app/manifests/1?ns=docker.io")
        assert status == 404
        assert json.loads(body)["errors"][0]["code"] == "NAME_UNKNOWN"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_an_agent_without_its_tracker_serves_what_it_can(config: Config) -> None:
    with running(config) as process:
        assert get(config.admin, "/readyz")[0] == 503
        assert json.loads(get(config.admin, "/v1/status")[1])["tracker"]["connected"] is False
        assert get(config.shim, "/v2/")[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert os.listdir(config.state / "identity") == ["agent.key"]


def test_an_agent_explains_and_keeps_its_event_log(config: Config) -> None:
    with running(config) as process:
        status, body = get(config.admin, "/v1/explain?digest=abcd")
        assert status == 404
        assert json.loads(body)["errors"][0]["code"] == "BLOB_UNKNOWN"
        assert get(config.admin, "/v1/explain")[0] == 400
        assert b"\np2pdist_agent_events_dropped_total 0.0\n" in get(config.admin, "/metrics")[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    (line,) = map(json.loads, config.events.read_text().splitlines())
    assert (line["event"], line["by"], len(line["node"])) == ("started", "agent", 12)


def test_an_event_log_that_cannot_be_written(config: Config, tmp_path: Path) -> None:
    config.events = tmp_path / "missing" / "events.jsonl"
    code, line = fails(config)
    assert code == 2
    assert f"the event log {config.events} can't be written" in line
