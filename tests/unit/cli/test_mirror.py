"""`p2pdist mirror`: what is written, what is said of it, and what the agent adds."""

import json
from pathlib import Path
from typing import Any

import pytest

from p2pdist.cli import main
from tests.unit.cli.conftest import Admin
from tests.unit.cli.test_status import STATUS

_NOBODY = ["--admin", "127.0.0.1:1"]
_CONFIG = 'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/etc/containerd/certs.d"\n'
_HOSTS = "/etc/containerd/certs.d/_default/hosts.toml"
_CLIENTS = [
    {"user_agent": "containerd/1.6", "runtime": "containerd", "manifest": {"name": "docker.io/a:1", "seconds_ago": 75}},
    {
        "user_agent": "containerd/2.0",
        "runtime": "containerd",
        "manifest": {"name": "docker.io/b:1", "seconds_ago": 99},
        "blob": {"name": "docker.io/b@sha256:00", "seconds_ago": 61.4},
    },
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc/containerd").mkdir(parents=True)
    (tmp_path / "etc/containerd/config.toml").write_text(_CONFIG)
    return tmp_path


def says(admin: Admin, **more: Any) -> list[str]:
    """The arguments for an agent that says this."""
    admin.body = json.dumps(STATUS | {"shims": ["0.0.0.0:7599"], "upstreams": ["docker.io", "ghcr.io"]} | more).encode()
    return ["--admin", admin.address]


def test_install_status_remove(root: Path, admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    agent = says(admin, clients=_CLIENTS)
    assert main(["mirror", "install", "containerd", "--root", str(root), *agent]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"made {_HOSTS}",
        "containerd asks 127.0.0.1:7599 first; it reads hosts.toml at every pull, nothing must be restarted.",
    ]
    assert main(["mirror", "install", "containerd", "--root", str(root), *agent]) == 0
    assert capsys.readouterr().out == "containerd is configured so already; nothing changed.\n"
    assert main(["mirror", "status", "containerd", "--root", str(root), *agent]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"containerd asks 127.0.0.1:7599 first for every registry ({_HOSTS})",
        "           last pull through this agent: 1 min 1 s ago, docker.io/b@sha256:00 by containerd/2.0",
    ]
    assert main(["mirror", "remove", "containerd", "--root", str(root)]) == 0
    assert capsys.readouterr().out.startswith(f"removed {_HOSTS}\ncontainerd goes to the registries itself again; ")
    assert main(["mirror", "remove", "containerd", "--root", str(root)]) == 0
    assert capsys.readouterr().out == "Nothing of ours is in containerd's configuration.\n"
    assert [path.name for path in root.rglob("*") if path.is_file()] == ["config.toml"]


def test_a_dry_run_prints_the_difference(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = root / "etc/docker/daemon.json"
    daemon.parent.mkdir()
    daemon.write_text('{\n  "debug": true\n}\n')
    arguments = ["docker", "--registry", "docker.io", "--root", str(root), *_NOBODY]
    assert main(["mirror", "install", *arguments, "--dry-run"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[:6] == [
        "--- /etc/docker/daemon.json",
        "+++ /etc/docker/daemon.json",
        "@@ -1,3 +1,4 @@",
        " {",
        '+  "registry-mirrors": ["http://127.0.0.1:7500"],',
        '   "debug": true',
    ]
    assert printed[-1].startswith("note: the agent doesn't answer")
    assert daemon.read_text() == '{\n  "debug": true\n}\n'
    assert main(["mirror", "install", *arguments]) == 0
    capsys.readouterr()
    assert main(["mirror", "remove", "docker", "--root", str(root), "--dry-run"]) == 0
    assert '-  "registry-mirrors": ["http://127.0.0.1:7500"],' in capsys.readouterr().out
    assert "7500" in daemon.read_text()


def test_what_the_agent_lacks_is_said(root: Path, admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    agent = says(admin, default_upstreams={})
    named = ["--registry", "docker.io", "--registry", "quay.io"]
    assert main(["mirror", "install", "docker", *named, "--root", str(root), *agent]) == 0
    printed = capsys.readouterr().out
    assert "note: quay.io isn't an upstream of the tracker" in printed
    assert "note: Docker names no registry to its mirror: the agent needs [shim] default_upstream" in printed
    says(admin, default_upstreams={"0.0.0.0:7599": "docker.io"})
    assert main(["mirror", "install", "docker", "--root", str(root), *agent]) == 0
    assert "default_upstream" not in capsys.readouterr().out


def test_podman_needs_to_know_the_registries(root: Path, admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mirror", "install", "podman", "--root", str(root), *_NOBODY]) == 1
    assert "name them with --registry" in capsys.readouterr().err
    assert main(["mirror", "install", "podman", "--root", str(root), *says(admin)]) == 0
    assert main(["mirror", "status", "--json", "--root", str(root), *says(admin)]) == 0
    capsys.readouterr()
    assert main(["mirror", "status", "podman", "--json", "--root", str(root), *says(admin, clients=_CLIENTS)]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "podman": {
            "registries": ["docker.io", "ghcr.io"],
            "files": ["/etc/containers/registries.conf.d/50-p2pdist-podman.conf"],
            "problems": [],
            "last_pull": None,
        }
    }


def test_nothing_configured_is_exit_code_1(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mirror", "status", "--root", str(root), *_NOBODY]) == 1
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "containerd",
        "docker",
        "podman",
        "crio",
    ]


def test_an_edit_meanwhile_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mirror", "install", "containerd", "--root", str(root), *_NOBODY]) == 0
    path = root / _HOSTS[1:]
    path.write_text(path.read_text() + "# mine\n")
    assert main(["mirror", "remove", "containerd", "--root", str(root)]) == 1
    assert f"{_HOSTS} was edited after `p2pdist mirror install containerd`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--registry", "https://docker.io"], "host without scheme"),
        (["--shim", "127.0.0.1"], "needs a host and a port"),
        (["--registry", "docker.io", "--shim", "127.0.0.1:0"], "outside 1..65535"),
    ],
)
def test_bad_arguments_are_named(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mirror", "install", "podman", *arguments]) == 2
    assert reason in capsys.readouterr().err
