import argparse
import os
import stat
from pathlib import Path

import pytest

from p2pdist.cli import pki
from p2pdist.core.errors import InvalidInput, NotFound
from p2pdist.pki import tokens
from p2pdist.pki.authority import Authority
from p2pdist.pki.enrolment import admit, make_csr
from p2pdist.pki.errors import AgentRevoked, AuthorityMissing, CredentialError, TokenRevoked
from p2pdist.pki.identity import open_key

Capture = pytest.CaptureFixture[str]


def _run(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    pki.add_parser(parser.add_subparsers())
    return pki.run(parser.parse_args(["pki", *map(str, words)]))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def _files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_init_makes_all_and_never_overwrites(state: Path, capsys: Capture) -> None:
    assert _run("init", "--state-dir", state, "--name", "tracker.example", "--name", "10.0.0.1") == 0
    made, told = _files(state / "pki"), capsys.readouterr().out
    ca_hash = Authority.load(state / "pki").ca_hash
    assert set(made) == {"ca.key", "ca.pem", "server.key", "server.pem", "signing.key"}
    modes = {name: stat.S_IMODE((state / "pki" / name).stat().st_mode) for name in made}
    assert {name for name, mode in modes.items() if mode == 0o600} == {"ca.key", "server.key", "signing.key"}
    assert f"p2pdist agent --tracker tracker.example:7400 --join TOKEN --ca-hash {ca_hash}" in told
    assert f"p2pdist pki token --state-dir {state}\n" in told
    assert "for tracker.example, 10.0.0.1" in told

    assert _run("init", "--state-dir", state) == 0
    again = capsys.readouterr().out
    assert "is there already; it stays as it is" in again
    assert ca_hash in again
    assert _files(state / "pki") == made


def test_init_again_with_other_names_renews_only_the_server_certificate(state: Path, capsys: Capture) -> None:
    _run("init", "--state-dir", state)
    before = _files(state / "pki")
    _run("init", "--state-dir", state, "--name", "new.example")
    after = _files(state / "pki")
    assert {name for name in before if before[name] != after[name]} == {"server.pem"}
    assert "for new.example." in capsys.readouterr().out


def test_init_with_a_wrong_name_leaves_nothing(state: Path) -> None:
    with pytest.raises(InvalidInput, match="neither a host name nor an IP address"):
        _run("init", "--state-dir", state, "--name", "not a name")
    assert not state.exists()


def test_token_names_the_tracker_as_it_is_told_to(state: Path, capsys: Capture) -> None:
    _run("init", "--state-dir", state)
    capsys.readouterr()
    assert _run("token", "--state-dir", state, "--tracker", "t.example:7000") == 0
    assert "p2pdist agent --tracker t.example:7000 --join " in capsys.readouterr().out
    with pytest.raises(InvalidInput, match="host and a port"):
        _run("token", "--state-dir", state, "--tracker", "t.example")
    (server := state / "pki" / "server.pem").unlink()
    assert not server.exists()
    assert _run("token", "--state-dir", state) == 0
    assert "--tracker HOST:PORT --join" in capsys.readouterr().out


def test_token_prints_what_an_agent_needs(state: Path, capsys: Capture, tmp_path: Path) -> None:
    _run("init", "--state-dir", state, "--name", "localhost", "--name", "2001:db8::1")
    capsys.readouterr()
    assert _run("token", "--state-dir", state, "--ttl", "30m", "--uses", "2") == 0
    token, command = capsys.readouterr().out.splitlines()
    authority = Authority.load(state / "pki")
    assert command == f"p2pdist agent --tracker [2001:db8::1]:7400 --join {token} --ca-hash {authority.ca_hash}"
    csr = make_csr(open_key(tmp_path / "identity"), "host-1")
    admit(authority, state / "tracker.sqlite", token=token, csr_pem=csr, name="host-1")

    assert _run("tokens", "--state-dir", state) == 0
    heading, line = capsys.readouterr().out.splitlines()
    (known,) = tokens.listed(state / "tracker.sqlite")
    assert heading.split() == ["ID", "STATE", "USED", "CREATED", "EXPIRES"]
    assert line.split()[:3] == [known.id, "valid", "1/2"]
    assert known.expires_at - known.created_at == 1800
    assert token not in line


def test_revoke_token_then_agent(state: Path, capsys: Capture, tmp_path: Path) -> None:
    _run("init", "--state-dir", state)
    database, authority = state / "tracker.sqlite", Authority.load(state / "pki")
    token = tokens.create(database, uses=2)
    csr = make_csr(open_key(tmp_path / "identity"), "host-1")
    agent_id = admit(authority, database, token=token, csr_pem=csr, name="host-1").peer.id
    capsys.readouterr()
    assert _run("revoke", "--state-dir", state, tokens.listed(database)[0].id) == 0
    assert f"p2pdist pki revoke {agent_id}" in capsys.readouterr().out
    with pytest.raises(TokenRevoked):
        admit(authority, database, token=token, csr_pem=csr, name="host-1")
    assert _run("revoke", "--state-dir", state, agent_id) == 0
    with pytest.raises(AgentRevoked):
        admit(authority, database, token=token, csr_pem=csr, name="host-1")
    capsys.readouterr()
    _run("show", "--state-dir", state)
    assert f"Agent shut out:      {agent_id}" in capsys.readouterr().out


def test_show(state: Path, capsys: Capture) -> None:
    _run("init", "--state-dir", state, "--name", "tracker.example")
    capsys.readouterr()
    assert _run("show", "--state-dir", state) == 0
    told = capsys.readouterr().out
    assert f"CA hash:             {Authority.load(state / 'pki').ca_hash}\n" in told
    assert "for tracker.example\n" in told
    assert told.count("ends:") == 2
    (state / "pki" / "server.pem").unlink()
    _run("show", "--state-dir", state)
    assert "none yet" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["token", "show"])
def test_without_a_ca(state: Path, command: str) -> None:
    with pytest.raises(AuthorityMissing, match="p2pdist pki init"):
        _run(command, "--state-dir", state)
    assert not state.exists()


def test_without_a_state_directory(state: Path) -> None:
    for words in (["tokens"], ["revoke", "abcdef123456"]):
        with pytest.raises(NotFound, match="there is no tracker state"):
            _run(*words, "--state-dir", state)


def test_wrong_values(state: Path) -> None:
    _run("init", "--state-dir", state)
    for words in (["--ttl", "1 fortnight"], ["--uses", "0"], ["--ttl", "0s"]):
        with pytest.raises(InvalidInput):
            _run("token", "--state-dir", state, *words)
    with pytest.raises(NotFound, match="p2pdist pki tokens"):
        _run("revoke", "--state-dir", state, "abcdef123456")


def test_half_a_ca_is_named(state: Path) -> None:
    _run("init", "--state-dir", state)
    (state / "pki" / "ca.key").unlink()
    before = _files(state / "pki")
    with pytest.raises(CredentialError, match=r"ca\.key is missing"):
        _run("init", "--state-dir", state)
    assert _files(state / "pki") == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_state_of_another_user_is_left_alone(state: Path) -> None:
    _run("init", "--state-dir", state)
    os.chown(state, 65534, -1)
    with pytest.raises(InvalidInput, match="belongs to nobody; run this command as that user: sudo -u 'nobody'"):
        _run("token", "--state-dir", state)
    assert not (state / "tracker.sqlite").exists()
