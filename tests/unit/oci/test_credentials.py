import base64
import json
import os
import select
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from p2pdist.core.errors import InvalidInput, Unavailable
from p2pdist.http.interrupt import Interrupt, Interrupted
from p2pdist.oci.credentials import Credentials, DockerConfig, HelperProgram, credential_source

SECRET = "hunter2-secret"


def auth(user: str = "me", password: str = SECRET) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def config(directory: Path, document: Any) -> DockerConfig:
    path = directory / "config.json"
    path.write_text(json.dumps(document))
    return DockerConfig(path)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for docker-credential-* programs, first in PATH."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory


def write_helper(programs: Path, name: str, script: str) -> None:
    path = programs / f"docker-credential-{name}"
    path.write_text(f'#!/bin/sh\n[ "$1" = get ] || exit 9\n{script}\n')
    path.chmod(0o700)


def answer(user: str = "me", secret: str = SECRET) -> str:
    return "echo '" + json.dumps({"ServerURL": "x", "Username": user, "Secret": secret}) + "'"


@pytest.mark.parametrize(
    "key", ["https://index.docker.io/v1/", "index.docker.io", "docker.io", "https://registry-1.docker.io/v2/"]
)
@pytest.mark.parametrize("host", ["docker.io", "registry-1.docker.io"])
def test_docker_hub_has_many_names(tmp_path: Path, key: str, host: str) -> None:
    source = config(tmp_path, {"auths": {key: {"auth": auth()}}})
    assert source.get(host, Interrupt()) == Credentials("me", SECRET)
    assert source.get("ghcr.io", Interrupt()) is None


@pytest.mark.parametrize("key", ["ghcr.io", "https://ghcr.io", "http://ghcr.io/", "https://ghcr.io/v2/", "GHCR.io"])
def test_keys_may_carry_a_scheme(tmp_path: Path, key: str) -> None:
    source = config(tmp_path, {"auths": {key: {"auth": auth()}}})
    assert source.get("ghcr.io", Interrupt()) == Credentials("me", SECRET)


def test_hosts_with_ports_are_told_apart_and_paths_dont_count(tmp_path: Path) -> None:
    entries = {"localhost:5000": {"auth": auth("a")}, "localhost": {"auth": auth("b")}, "q.io/x": {"auth": auth("c")}}
    source = config(tmp_path, {"auths": entries, "HttpHeaders": {"X": "y"}})
    assert source.get("localhost:5000", Interrupt()) == Credentials("a", SECRET)
    assert source.get("localhost", Interrupt()) == Credentials("b", SECRET)
    assert source.get("localhost:1", Interrupt()) is None
    assert source.get("q.io", Interrupt()) is None


def test_identity_tokens_and_plain_fields(tmp_path: Path) -> None:
    entries = {
        "a.io": {"auth": auth("me", ""), "identitytoken": SECRET},
        "b.io": {"username": "u", "password": "p"},
        "c.io": {},
        "d.io": {"auth": auth("me", "with:colon")},
    }
    source = config(tmp_path, {"auths": entries})
    assert source.get("a.io", Interrupt()) == Credentials("me", "", SECRET)
    assert source.get("b.io", Interrupt()) == Credentials("u", "p")
    assert source.get("c.io", Interrupt()) is None
    assert source.get("d.io", Interrupt()) == Credentials("me", "with:colon")


def test_a_changed_file_counts_at_once(tmp_path: Path) -> None:
    source = config(tmp_path, {"auths": {"a.io": {"auth": auth("old")}}})
    config(tmp_path, {"auths": {"a.io": {"auth": auth("new")}}})
    assert source.get("a.io", Interrupt()) == Credentials("new", SECRET)


def test_secrets_are_in_no_repr(tmp_path: Path) -> None:
    shown = repr(Credentials("me", SECRET, SECRET)) + repr(config(tmp_path, {"auths": {"a.io": {"auth": auth()}}}))
    assert SECRET not in shown
    assert auth() not in shown
    assert Credentials("us", "er").basic == "Basic dXM6ZXI="


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"auths": []}', '{"auths": {"a": 1}}', '{"credsStore": 1}', "x" * 2_000_000]
)
def test_a_bad_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(InvalidInput, match=str(path)):
        DockerConfig(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none\.json can't be read: No such file"):
        DockerConfig(tmp_path / "none.json")


@pytest.mark.parametrize("bad", ["!!!" + SECRET, base64.b64encode(SECRET.encode()).decode()])
def test_a_bad_auth_is_named_but_not_repeated(tmp_path: Path, bad: str) -> None:
    source = config(tmp_path, {"auths": {"a.io": {"auth": bad}}})
    with pytest.raises(InvalidInput, match=r"'a\.io'") as caught:
        source.get("a.io", Interrupt())
    assert bad not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_program_is_asked_with_the_host_on_stdin(programs: Path, tmp_path: Path) -> None:
    write_helper(programs, "one", f"cat > {tmp_path}/asked; {answer()}")
    assert HelperProgram("one").get("ghcr.io", Interrupt()) == Credentials("me", SECRET)
    assert (tmp_path / "asked").read_text() == "ghcr.io"
    HelperProgram("one").get("registry-1.docker.io", Interrupt())
    assert (tmp_path / "asked").read_text() == "https://index.docker.io/v1/"


def test_a_program_may_give_an_identity_token(programs: Path) -> None:
    write_helper(programs, "one", answer("<token>"))
    assert HelperProgram("one").get("a.io", Interrupt()) == Credentials("", identity_token=SECRET)


def test_a_program_may_have_nothing(programs: Path) -> None:
    write_helper(programs, "one", "echo 'credentials not found in native keychain'; exit 1")
    assert HelperProgram("one").get("a.io", Interrupt()) is None


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo locked; exit 2", "exit code 2.*locked"),
        ("kill -9 $$", "exit code -9"),
        (answer() + "; exit 1", "exit code 1"),
        (f"echo {SECRET}", "isn't credentials"),
        ("true", "isn't credentials"),
    ],
)
def test_a_program_that_fails_is_named(programs: Path, script: str, why: str) -> None:
    write_helper(programs, "one", script)
    with pytest.raises(Unavailable, match=f"docker-credential-one.*{why}") as caught:
        HelperProgram("one").get("a.io", Interrupt())
    assert SECRET not in str(caught.value)


def test_a_program_that_isnt_there(programs: Path) -> None:
    with pytest.raises(Unavailable, match=r"docker-credential-gone can't be run.*PATH"):
        HelperProgram("gone").get("a.io", Interrupt())


def test_a_program_that_hangs_is_killed_with_its_children(programs: Path, tmp_path: Path) -> None:
    write_helper(programs, "one", f"sleep 60 & echo $! > {tmp_path}/pid; wait")
    began = time.monotonic()
    with pytest.raises(Unavailable, match="didn't answer within"):
        HelperProgram("one", timeout_seconds=0.5).get("a.io", Interrupt())
    assert time.monotonic() - began < 10
    assert_gone(int((tmp_path / "pid").read_text()))


def assert_gone(pid: int) -> None:
    """Fails unless the process ends at once; a signal that was sent needs a moment to be obeyed."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], 5)[0]
    finally:
        os.close(fd)


def test_a_program_is_killed_when_the_work_is_called_off(programs: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    write_helper(programs, "one", f"echo up > {fifo}; sleep 60")
    interrupt = Interrupt()

    def call_off() -> None:
        fifo.read_text()
        interrupt.trigger()

    other = threading.Thread(target=call_off)
    other.start()
    began = time.monotonic()
    with pytest.raises(Interrupted):
        HelperProgram("one", timeout_seconds=60).get("a.io", interrupt)
    other.join()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-x", "a b"])
def test_a_helper_is_only_a_name(name: str) -> None:
    with pytest.raises(InvalidInput, match="isn't the name"):
        HelperProgram(name)


def test_the_helper_of_a_host_goes_before_the_store_and_that_before_the_file(programs: Path, tmp_path: Path) -> None:
    write_helper(programs, "host", answer("host"))
    write_helper(programs, "store", f"read server; [ $server = b.io ] && {answer('store')} && exit; {{ {nothing()}; }}")
    entries = {host: {"auth": auth("file")} for host in ("a.io", "b.io", "c.io")}
    source = config(tmp_path, {"credHelpers": {"a.io": "host"}, "credsStore": "store", "auths": entries})
    found = [source.get(host, Interrupt()) for host in ("a.io", "b.io", "c.io", "d.io")]
    assert [entry and entry.username for entry in found] == ["host", "store", "file", None]


def nothing() -> str:
    return "echo credentials not found in native keychain; exit 1"


def test_the_configuration_names_one_source(tmp_path: Path) -> None:
    path = config(tmp_path, {}).path
    assert credential_source(None, "") is None
    assert credential_source(path, "") == DockerConfig(path)
    assert credential_source(None, "x") == HelperProgram("x")
    with pytest.raises(InvalidInput, match="set one"):
        credential_source(path, "x")
