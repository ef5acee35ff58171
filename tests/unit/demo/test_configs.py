from pathlib import Path

from p2pdist.config import load_agent, load_tracker
from p2pdist.demo.configs import (
    AgentAddresses,
    Enrolment,
    TrackerAddresses,
    UpstreamSite,
    agent_toml,
    tracker_toml,
)

UPSTREAM = UpstreamSite("registry.example", "http://127.0.0.1:5000")


def test_the_tracker_reads_its_configuration(tmp_path: Path):
    path = tmp_path / "tracker.toml"
    state = str(tmp_path / 'with "quotes" \\ and ü')
    addresses = TrackerAddresses("127.0.0.1:1001", "127.0.0.1:1002", "127.0.0.1:1003")
    path.write_text(tracker_toml(state, addresses, UPSTREAM), encoding="utf-8")
    config = load_tracker(path).config
    assert str(config.state_dir) == state
    assert [str(address) for address in (*config.control.listen, *config.relay.listen, config.admin.listen)] == [
        "127.0.0.1:1001",
        "127.0.0.1:1002",
        "127.0.0.1:1003",
    ]
    assert [(str(upstream.name), str(upstream.origin)) for upstream in config.upstream] == [
        ("registry.example", "http://127.0.0.1:5000")
    ]


def test_an_agent_reads_its_configuration(tmp_path: Path):
    path = tmp_path / "agent.toml"
    addresses = AgentAddresses("127.0.0.1:1001", "127.0.0.1:1002", "127.0.0.1:1003", "127.0.0.1:1004")
    enrolment = Enrolment("p2pjoin_" + "x" * 32, "sha256:" + "0" * 64)
    path.touch(mode=0o600)
    path.write_text(agent_toml("agent-1", "/state", addresses, "127.0.0.1:7400", enrolment, UPSTREAM.name))
    config = load_agent(path).config
    assert str(config.name) == "agent-1"
    assert str(config.tracker.address) == "127.0.0.1:7400"
    assert str(config.tracker.ca_hash) == enrolment.ca_hash
    assert str(config.shim.default_upstream) == "registry.example"
    assert [str(address) for address in (*config.shim.listen, *config.relay.listen, *config.swarm.listen)] == [
        "127.0.0.1:1001",
        "127.0.0.1:1002",
        "127.0.0.1:1003",
    ]
    assert str(config.admin.listen) == "127.0.0.1:1004"
