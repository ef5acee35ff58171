"""What was there comes back byte for byte, and what somebody wrote meanwhile is never lost."""

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2pdist.runtimes import ledger
from p2pdist.runtimes.errors import EditedMeanwhile, MirrorError
from p2pdist.runtimes.known import RUNTIMES, runtime_of
from p2pdist.runtimes.plan import Runtime, Wish
from p2pdist.runtimes.tree import HostTree
from tests.unit.runtimes.trees import picture, put

SHIM = "127.0.0.1:7500"
WISH = Wish(SHIM, ("docker.io", "ghcr.io"))
ALL = pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=lambda runtime: runtime.name)
FIRST_FILE = {
    "containerd": "/etc/containerd/certs.d/_default/hosts.toml",
    "docker": "/etc/docker/daemon.json",
    "podman": "/etc/containers/registries.conf.d/50-p2pdist-podman.conf",
    "crio": "/etc/containers/registries.conf.d/50-p2pdist-crio.conf",
}
HAD: dict[str, dict[str, str]] = {
    "containerd": {"/etc/containerd/certs.d/docker.io/hosts.toml": '# mine\nserver = "https://x.test" # \tkeep\n'},
    "docker": {"/etc/docker/daemon.json": '{ "debug":true  }', "/etc/docker/certs.d/ghcr.io/ca.crt": "pem"},
    "podman": {"/etc/containers/registries.conf": '[[registry]]\nprefix = "docker.io"\n'},
    "crio": {"/etc/containers/registries.conf.d/00-a.conf": ""},
}


def install(root: Path, runtime: Runtime, wish: Wish = WISH, *, dry_run: bool = False) -> list[str]:
    _, changes = ledger.install(HostTree(root), runtime, wish, dry_run=dry_run)
    return [str(change.path) for change in changes]


def remove(root: Path, runtime: Runtime, *, dry_run: bool = False) -> list[str]:
    changes, _ = ledger.remove(HostTree(root), runtime, dry_run=dry_run)
    return [str(change.path) for change in changes]


@ALL
@pytest.mark.parametrize("before", ["nothing", "files"])
def test_installed_twice_and_undone(tmp_path: Path, runtime: Runtime, before: str) -> None:
    for path, content in HAD[runtime.name].items() if before == "files" else ():
        put(tmp_path, path, content, 0o640)
    pictured = picture(tmp_path)
    assert install(tmp_path, runtime, dry_run=True) != []
    assert picture(tmp_path) == pictured
    assert FIRST_FILE[runtime.name] in install(tmp_path, runtime)
    assert runtime.reading(HostTree(tmp_path), SHIM).files != ()
    installed = picture(tmp_path)
    assert install(tmp_path, runtime) == []
    assert picture(tmp_path) == installed
    assert remove(tmp_path, runtime, dry_run=True) != []
    assert picture(tmp_path) == installed
    remove(tmp_path, runtime)
    assert picture(tmp_path) == pictured
    assert not (tmp_path / "var/lib/p2pdist/mirror").exists()
    assert remove(tmp_path, runtime) == []


@ALL
def test_another_address_or_other_registries_change_what_differs(tmp_path: Path, runtime: Runtime) -> None:
    for path, content in HAD[runtime.name].items():
        put(tmp_path, path, content)
    pictured = picture(tmp_path)
    install(tmp_path, runtime)
    other = Wish("127.0.0.1:7599", ("docker.io",), named=True)
    install(tmp_path, runtime, other)
    assert runtime.reading(HostTree(tmp_path), SHIM).files == ()
    assert runtime.reading(HostTree(tmp_path), other.shim).registries == ("docker.io",)
    once = picture(tmp_path)
    remove(tmp_path, runtime)
    assert picture(tmp_path) == pictured
    install(tmp_path, runtime, other)
    assert picture(tmp_path) == once


@ALL
def test_an_edit_is_not_undone(tmp_path: Path, runtime: Runtime) -> None:
    install(tmp_path, runtime)
    file = tmp_path / FIRST_FILE[runtime.name][1:]
    file.write_text(file.read_text().replace("\n", "\n\n"))
    pictured = picture(tmp_path)
    with pytest.raises(EditedMeanwhile, match=f"{FIRST_FILE[runtime.name]} was edited"):
        remove(tmp_path, runtime)
    assert picture(tmp_path) == pictured
    with pytest.raises(EditedMeanwhile, match=r"take what names 127.0.0.1:7500 out"):
        install(tmp_path, runtime, Wish("127.0.0.1:7599", ("docker.io",), named=True))
    assert picture(tmp_path) == pictured


@ALL
@pytest.mark.parametrize("left", ["other text", "no file"])
def test_what_an_editor_took_out_himself_stays_out(tmp_path: Path, runtime: Runtime, left: str) -> None:
    install(tmp_path, runtime)
    file = tmp_path / FIRST_FILE[runtime.name][1:]
    file.unlink()
    if left == "other text":
        file.write_text("{}")
    changes, notes = ledger.remove(HostTree(tmp_path), runtime)
    assert file.exists() == (left == "other text")
    assert FIRST_FILE[runtime.name] not in map(str, changes)
    assert len(notes) == (left == "other text")
    assert not (tmp_path / "var/lib/p2pdist/mirror").exists()


def test_what_was_written_after_our_part_was_taken_out_is_the_new_original(tmp_path: Path) -> None:
    docker = RUNTIMES["docker"]
    file = put(tmp_path, "/etc/docker/daemon.json", '{"a": 1}')
    install(tmp_path, docker)
    file.write_text('{"b": 2}')
    install(tmp_path, docker)
    assert "7500" in file.read_text()
    remove(tmp_path, docker)
    assert file.read_text() == '{"b": 2}'


def test_podman_and_crio_are_undone_in_any_order(tmp_path: Path) -> None:
    pictured = picture(tmp_path)
    for order in (("podman", "crio"), ("crio", "podman")):
        for name in ("podman", "crio"):
            install(tmp_path, RUNTIMES[name])
        for name in order:
            remove(tmp_path, RUNTIMES[name])
        assert picture(tmp_path) == pictured


def test_a_link_stays_one_and_owner_and_mode_stay(tmp_path: Path) -> None:
    real = put(tmp_path, "/opt/daemon.json", "{}", 0o600)
    (tmp_path / "etc/docker").mkdir(parents=True)
    link = tmp_path / "etc/docker/daemon.json"
    link.symlink_to(real)
    if os.geteuid() == 0:
        os.chown(real, 12, 34)
    before = real.stat()
    for step in (install, remove):
        step(tmp_path, RUNTIMES["docker"])
        after = real.stat()
        assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert link.is_symlink()
    assert real.read_text() == "{}"


class _Stop(Exception):
    """The crash of the test."""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.integers(0, 12), st.sampled_from(sorted(RUNTIMES)))
def test_a_crash_between_any_two_writes_is_mended_by_either_command(
    tmp_path_factory: pytest.TempPathFactory, steps: int, name: str
) -> None:
    runtime = RUNTIMES[name]
    for finish in (install, remove):
        root = tmp_path_factory.mktemp("crash")
        for path, content in HAD[name].items():
            put(root, path, content)
        pictured = picture(root)
        for wish in (WISH, Wish("127.0.0.1:7599", ("docker.io",), named=True)):
            if _crashes(steps, install, root, runtime, wish):
                finish(root, runtime)
        _crashes(steps, remove, root, runtime)
        remove(root, runtime)
        assert picture(root) == pictured


def _crashes(steps: int, act: Callable[..., object], *arguments: object) -> bool:
    """Whether `act` needs more than so many changes of the disk; if it does, it ends after them."""
    with pytest.MonkeyPatch.context() as patch:
        _crash_after(patch, steps)
        try:
            act(*arguments)
        except _Stop:
            return True
    return False


def _crash_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    left = iter(range(steps))

    def counted(method: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            if next(left, None) is None:
                raise _Stop
            method(*arguments)

        return call

    for method in ("write", "remove", "remove_directory"):
        patch.setattr(HostTree, method, counted(getattr(HostTree, method)))


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    put(tmp_path, "/var/lib/p2pdist/mirror/docker.json", "{}")
    with pytest.raises(MirrorError, match=r"/var/lib/p2pdist/mirror/docker.json, the record"):
        remove(tmp_path, RUNTIMES["docker"])


def test_records_are_private(tmp_path: Path) -> None:
    install(tmp_path, RUNTIMES["docker"])
    assert (tmp_path / "var/lib/p2pdist/mirror/docker.json").stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    put(tmp_path, "/etc/docker", "a file where a directory should be")
    with pytest.raises(MirrorError, match=r"/etc/docker/daemon.json can't be"):
        install(tmp_path, RUNTIMES["docker"])


def test_a_file_too_large_is_no_configuration(tmp_path: Path) -> None:
    put(tmp_path, "/etc/docker/daemon.json", b" " * (4 * 1024 * 1024 + 1))
    with pytest.raises(MirrorError, match="isn't a configuration"):
        HostTree(tmp_path).read(PurePosixPath("/etc/docker/daemon.json"))


@pytest.mark.parametrize(
    ("user_agent", "runtime"),
    [
        ("containerd/1.6.20~ds1", "containerd"),
        (
            "docker/20.10.24+dfsg1 go/go1.19.8 os/linux arch/amd64 UpstreamClient(Docker-Client/20.10 \\(linux\\))",
            "docker",
        ),
        ("containers/5.23.1 (github.com/containers/image)", "podman"),
        ("Buildah/1.28.2", "podman"),
        ("skopeo/1.9.3", "podman"),
        ("cri-o/1.24.0 go/go1.18 os/linux arch/amd64", "crio"),
        ("curl/7.88.1", ""),
        ("", ""),
    ],
)
def test_runtimes_are_known_by_their_user_agent(user_agent: str, runtime: str) -> None:
    assert runtime_of(user_agent) == runtime
