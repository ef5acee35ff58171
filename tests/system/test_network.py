"""The network that later measurements stand on: rates, counters, addresses, and that nothing of it survives."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from simulations.network import Link, LinkBytes, Network, NetworkUnavailable, measure_flow, namespaces, sweep
from simulations.ownership import Owner
from simulations.processes import marked_processes, poll_until

pytestmark = pytest.mark.usefixtures("needs_namespaces")

MBIT = 1_000_000
DEAD = f"""
import os, sys
from simulations.network import Link, Network
from pathlib import Path
with Network({{"a": Link()}}) as network:
    sleeper = network["a"].start([sys.executable, "-c", "import time; time.sleep(600)"], log=Path(os.devnull))
    print(network["a"].namespace, sleeper.pid, flush=True)
    os.kill(os.getpid(), {int(signal.SIGKILL)})
"""


def test_a_link_gives_each_direction_its_own_rate() -> None:
    with Network({"slow_up": Link(20 * MBIT, 80 * MBIT), "fast": Link.symmetric(80 * MBIT)}) as network:
        up = measure_flow(network["slow_up"], network["fast"], 5_000_000)
        down = measure_flow(network["fast"], network["slow_up"], 20_000_000)
    assert 0.90 * 20 * MBIT < up.payload_bps < 1.0 * 20 * MBIT + 128 * 1024 * 8 / up.seconds
    assert 0.90 * 80 * MBIT < down.payload_bps < 1.0 * 80 * MBIT + 128 * 1024 * 8 / down.seconds


def test_counters_tell_what_each_link_carried() -> None:
    with Network({name: Link() for name in ("a", "b", "idle")}) as network:
        before = network.counters()
        measure_flow(network["a"], network["b"], 3_000_000)
        carried = {name: after - before[name] for name, after in network.counters().items()}
    assert 3_000_000 < carried["a"].sent < 3_300_000
    assert 3_000_000 < carried["b"].received < 3_300_000
    assert carried["a"].received < 300_000
    assert max(carried["idle"].sent, carried["idle"].received) < 10_000


def test_hosts_reach_each_other_by_ipv6() -> None:
    with Network({"a": Link(), "b": Link()}) as network:
        before = network.counters()["b"]
        assert measure_flow(network["a"], network["b"], 1_000_000, ipv6=True).size_bytes == 1_000_000
        assert network.counters()["b"].received - before.received > 1_000_000


def test_a_program_runs_inside_and_is_weighed(tmp_path: Path) -> None:
    report = (
        "import socket, pathlib;"
        "listener = socket.create_server(('127.0.0.1', 7000));"
        "print(pathlib.Path('/proc/net/dev').read_text(), flush=True);"
        "[listener.accept() for _ in range(2)]"
    )
    with Network({"a": Link()}) as network:
        host = network["a"]
        process = host.start([sys.executable, "-c", report], log=tmp_path / "log")
        process.wait_until(lambda: "eth0" in process.output(), "the list of devices")
        host.connect("127.0.0.1", 7000).close()
        with pytest.raises(ConnectionRefusedError):
            host.connect("127.0.0.1", 7001)
        assert process.running
        assert 4 << 20 < host.rss_bytes() <= process.peak_rss_bytes() < 200 << 20
        assert 0 < host.cpu_seconds() < 10
        devices = [line.split(":")[0].strip() for line in process.output().splitlines() if ":" in line]
        assert "eth0" in devices
        assert not any(device.startswith("port") for device in devices)
    assert process.exit_code == -signal.SIGKILL


def test_congestion_control_does_not_pace() -> None:
    with Network({"a": Link()}) as network:
        assert network.congestion_control in ("cubic", "reno")


def test_an_error_while_building_leaves_nothing() -> None:
    with pytest.raises(NetworkUnavailable, match="rate"), Network({"a": Link(), "b": Link(up_bps=-1)}):
        pytest.fail("a link with a negative rate was made")
    assert [name for name in namespaces() if Owner.parse(name) == Owner.current()] == []


def test_two_networks_of_one_process_do_not_clash() -> None:
    with Network({"a": Link()}) as first, Network({"a": Link()}) as second:
        assert first["a"].namespace != second["a"].namespace
        assert first.counters().keys() == second.counters().keys() == {"a"}


def test_what_a_killed_run_left_is_swept() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    killed = subprocess.run([sys.executable, "-c", DEAD], env=environment, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    namespace, pid = killed.stdout.split()
    assert namespace in namespaces()
    with Network({"living": Link()}) as network:
        assert namespace not in namespaces()
        sweep()
        assert network["living"].namespace in namespaces()
    poll_until(lambda: int(pid) not in marked_processes(), "the process in the dead run's namespace killed", 5)


def test_link_bytes_subtract() -> None:
    assert LinkBytes(10, 20) - LinkBytes(1, 2) == LinkBytes(9, 18)
