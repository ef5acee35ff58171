"""Start-up: what is wrong is said with its exit code; the admin address; what the process does when a part dies."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pdist.config import TrackerConfig
from p2pdist.config.addresses import Address
from p2pdist.config.schema import Control, TrackerAdmin, TrackerRelay
from p2pdist.core.errors import InvalidInput, P2PDistError, StoreError
from p2pdist.http.listeners import CannotListen
from p2pdist.pki.errors import CredentialError
from p2pdist.relay.notices import EpochBegan
from p2pdist.store import BlobStore
from p2pdist.store.errors import StoreLocked
from p2pdist.tracker import main
from p2pdist.tracker.main import RelayEnded, Tracker
from p2pdist.wire.messages import Beat
from tests.unit.tracker.bench import config_of, host_on, make_authority, tracker_with


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` sets up this process; the tests' process stays as it is."""
    monkeypatch.setattr(main.logging, "setup", lambda *_: None)  # type: ignore[attr-defined]
    monkeypatch.setattr(main, "allow_descriptors", lambda: None)


def refusal(config: TrackerConfig) -> P2PDistError:
    with pytest.raises(P2PDistError) as caught:
        main.run(config)
    return caught.value


@pytest.mark.usefixtures("quiet")
def test_without_a_ca_only_the_loopback_is_served(tmp_path: Path) -> None:
    control = Control(listen=(Address("127.0.0.1:0"), Address("0.0.0.0:0")))
    error = refusal(config_of(tmp_path / "state", control=control))
    assert isinstance(error, InvalidInput)
    assert error.exit_code == 2
    assert f"run p2pdist pki init --state-dir {tmp_path / 'state'}, or set control.insecure = true" in str(error)
    assert not (tmp_path / "state").exists()


async def test_who_insists_is_served_without_a_ca_and_warned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    control = Control(listen=(Address("127.0.0.1:0"),), insecure=True)
    async with tracker_with(config_of(tmp_path, control=control)):
        pass
    insists = Control(listen=(Address("0.0.0.0:0"),), insecure=True)
    main._check_secrecy(config_of(tmp_path, control=insists), has_authority=False)
    assert [record.levelname for record in caplog.records if record.message == "control_is_plain"] == ["WARNING"]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("part", ["control", "relay", "admin"])
def test_a_port_in_use_is_named(tmp_path: Path, part: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address(f"127.0.0.1:{taken.getsockname()[1]}")
        sections: dict[str, Any] = {
            "control": Control(listen=(address,)),
            "relay": TrackerRelay(listen=(address,)),
            "admin": TrackerAdmin(listen=address),
        }
        error = refusal(config_of(tmp_path, **{part: sections[part]}))
    assert isinstance(error, CannotListen)
    assert error.exit_code == 2
    assert f"cannot listen on {address}" in str(error)


@pytest.mark.usefixtures("quiet")
def test_a_state_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    error = refusal(config_of(tmp_path / "state"))
    assert isinstance(error, StoreError)
    assert error.exit_code == 4
    assert str(tmp_path / "state") in str(error)


@pytest.mark.usefixtures("quiet")
def test_a_store_that_another_process_has_is_named(tmp_path: Path) -> None:
    with BlobStore.open(tmp_path):
        error = refusal(config_of(tmp_path))
    assert isinstance(error, StoreLocked)
    assert error.exit_code == 3


@pytest.mark.usefixtures("quiet")
def test_a_damaged_ca_is_named(tmp_path: Path) -> None:
    make_authority(tmp_path)
    (tmp_path / "pki/ca.pem").unlink()
    error = refusal(config_of(tmp_path))
    assert isinstance(error, CredentialError)
    assert "ca.pem is missing" in str(error)


async def get(tracker: Tracker, path: str) -> tuple[int, bytes]:
    host, _, port = tracker.listening["admin"][0].rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        with trio.fail_after(10):
            async for data in stream:
                answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


async def test_the_admin_address(tmp_path: Path) -> None:
    make_authority(tmp_path)
    async with tracker_with(config_of(tmp_path)) as tracker:
        assert await get(tracker, "/healthz") == (200, b'{"healthy": true}\n')
        assert json.loads((await get(tracker, "/readyz"))[1]) == {"ready": True, "reasons": []}
        status, body = await get(tracker, "/metrics")
        assert status == 200
        assert b"p2pdist_tracker_agents_leased 0.0" in body
        assert b"p2pdist_tracker_authority_expiry_timestamp_seconds 2." in body
        assert b"_created" not in body
        tracker._reasons = ["the tracker is starting"]
        assert (await get(tracker, "/readyz"))[0] == 503


async def test_a_tracker_without_its_relay_ends(tmp_path: Path) -> None:
    async def without_relay() -> None:
        async with tracker_with(config_of(tmp_path)) as tracker:
            tracker._relay._reactor.post(tracker._relay._reactor.stop)
            with trio.fail_after(10):
                await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await without_relay()
    assert caught.group_contains(RelayEnded, match="start the tracker again")


async def test_a_notice_that_fails_is_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with tracker_with(config_of(tmp_path)) as tracker, trio.open_nursery() as nursery:
        called = trio.Event()

        def fails(_: object) -> None:
            called.set()
            raise ZeroDivisionError

        monkeypatch.setattr(tracker._distribution, "notice", fails)
        reactor = tracker._relay._reactor
        reactor.post(lambda: reactor._notify(EpochBegan(1, 1, ())))
        with trio.fail_after(10):
            await called.wait()
        with host_on(tracker, "a") as host:
            await host.join_fleet(nursery)
            await host.say(Beat())
            await host.expect(Beat)
            nursery.cancel_scope.cancel()


async def test_a_certificate_that_cannot_be_renewed_is_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    authority = make_authority(tmp_path)
    tried = trio.Event()

    def fails(*_: object) -> float:
        trio.from_thread.run_sync(tried.set)
        raise CredentialError(f"{authority.directory} can't be written")

    monkeypatch.setattr(main, "_renewed", fails)
    async with tracker_with(config_of(tmp_path)) as tracker:
        with trio.fail_after(10):
            await tried.wait()
        assert (await get(tracker, "/readyz"))[0] == 200
    assert "certificate_not_renewed" in caplog.text


async def test_the_secret_and_the_keys_outlive_a_restart(tmp_path: Path) -> None:
    welcomes = []
    for _ in range(2):
        async with tracker_with(config_of(tmp_path)) as tracker, trio.open_nursery() as nursery:
            with host_on(tracker, "a") as host:
                welcomes.append(await host.join_fleet(nursery))
                nursery.cancel_scope.cancel()
    assert welcomes[0].relay_secrets == welcomes[1].relay_secrets
    assert welcomes[0].keys == welcomes[1].keys
    assert (tmp_path / "pki/relay.secret").stat().st_mode & 0o777 == 0o600
