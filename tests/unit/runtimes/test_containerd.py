"""containerd: which hosts.toml files, and what its own configuration lacks."""

from pathlib import Path, PurePosixPath

import pytest

from p2pdist.runtimes import containerd
from p2pdist.runtimes.errors import MirrorError, NotUnderstood
from p2pdist.runtimes.plan import Plan, Wish
from p2pdist.runtimes.tree import HostTree
from tests.unit.runtimes.trees import put

SHIM = "127.0.0.1:7500"
CERTS = "/etc/containerd/certs.d"
GOOD = f'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "{CERTS}"\n'
MIRRORED = f'[host."http://{SHIM}"]\ncapabilities = ["pull", "resolve"]\n'


def plan(root: Path, *registries: str, named: bool = False) -> Plan:
    return containerd.plan(HostTree(root), Wish(SHIM, registries, named))


def paths(plan: Plan) -> list[str]:
    return [str(path) for path in plan.files]


def test_one_file_does_for_every_registry(tmp_path: Path) -> None:
    put(tmp_path, "/etc/containerd/config.toml", GOOD)
    made = plan(tmp_path, "docker.io", "ghcr.io")
    assert paths(made) == [f"{CERTS}/_default/hosts.toml"]
    assert made.notes == ()


def test_named_registries_get_a_file_each(tmp_path: Path) -> None:
    put(tmp_path, f"{CERTS}/r.test_5000_/hosts.toml", 'server = "https://r.test:5000"\n')
    made = plan(tmp_path, "ghcr.io", "r.test:5000", named=True)
    assert paths(made) == [f"{CERTS}/ghcr.io/hosts.toml", f"{CERTS}/r.test_5000_/hosts.toml"]


def test_a_registry_with_rules_of_its_own_is_changed_if_the_agent_knows_it(tmp_path: Path) -> None:
    put(tmp_path, "/etc/containerd/config.toml", GOOD)
    for registry in ("docker.io", "corp.test"):
        put(tmp_path, f"{CERTS}/{registry}/hosts.toml", f'server = "https://{registry}"\n')
    (tmp_path / "etc/containerd/certs.d/empty.test").mkdir()
    made = plan(tmp_path, "docker.io")
    assert paths(made) == [f"{CERTS}/_default/hosts.toml", f"{CERTS}/docker.io/hosts.toml"]
    assert made.notes == (f"{CERTS}/corp.test stays as it is: say --registry corp.test for it",)


def test_certificates_in_dockers_manner_go_on_counting(tmp_path: Path) -> None:
    for name in ("ca.crt", "client.cert", "client.key", "other.cert"):
        put(tmp_path, f"{CERTS}/corp.test/{name}", "pem")
    text = plan(tmp_path, "corp.test", named=True).files[PurePosixPath(f"{CERTS}/corp.test/hosts.toml")].decode()
    assert 'ca = ["ca.crt"]\nclient = [["client.cert", "client.key"], ["other.cert", ""]]\n\n[host."' in text


def test_rules_in_a_later_directory_are_not_hidden(tmp_path: Path) -> None:
    put(tmp_path, "/etc/docker/certs.d/corp.test/ca.crt", "pem")
    with pytest.raises(MirrorError, match=r"would hide /etc/docker/certs.d/corp.test from containerd.*--registry"):
        plan(tmp_path)
    assert paths(plan(tmp_path, "docker.io", named=True)) == [f"{CERTS}/docker.io/hosts.toml"]
    put(tmp_path, f"{CERTS}/_default/hosts.toml", 'server = "https://there.already"\n')
    assert paths(plan(tmp_path)) == [f"{CERTS}/_default/hosts.toml"]


def test_what_sends_there_already_is_not_hidden(tmp_path: Path) -> None:
    put(tmp_path, "/etc/docker/certs.d/corp.test/hosts.toml", MIRRORED)
    assert paths(plan(tmp_path)) == [f"{CERTS}/_default/hosts.toml"]


def test_config_path_says_where(tmp_path: Path) -> None:
    put(tmp_path, "/etc/containerd/config.toml", GOOD.replace(CERTS, "/opt/certs:/etc/docker/certs.d"))
    assert paths(plan(tmp_path)) == ["/opt/certs/_default/hosts.toml"]


def test_config_path_in_an_imported_file(tmp_path: Path) -> None:
    put(tmp_path, "/etc/containerd/config.toml", 'version = 3\nimports = ["conf.d/*.toml"]\n')
    part = '[plugins."io.containerd.cri.v1.images".registry]\nconfig_path = "/opt/certs"\n'
    put(tmp_path, "/etc/containerd/conf.d/registry.toml", part)
    made = plan(tmp_path)
    assert (paths(made), made.notes) == (["/opt/certs/_default/hosts.toml"], ())


@pytest.mark.parametrize(
    ("config", "note"),
    [
        (
            None,
            'containerd before 2.2 doesn\'t look there for Kubernetes yet: say [plugins."io.containerd.grpc.v1.cri"',
        ),
        ("version = 2\n", 'yet: say [plugins."io.containerd.grpc.v1.cri".registry] config_path = "/etc/containerd/'),
        ("version = 3\n", 'yet: say [plugins."io.containerd.cri.v1.images".registry] config_path'),
        ("oom_score = 0\n", "say version = 2 (which gives plug-ins their long names) and [plugins."),
        (
            'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]\nendpoint = []\n',
            "restart it; first take registry.mirrors out, which exclude it",
        ),
    ],
)
def test_what_config_path_needs(tmp_path: Path, config: str | None, note: str) -> None:
    if config is not None:
        put(tmp_path, "/etc/containerd/config.toml", config)
    (found,) = plan(tmp_path).notes
    assert note in found


@pytest.mark.parametrize("config", ["version = ", GOOD.replace(CERTS, "relative")])
def test_a_configuration_that_says_nothing(tmp_path: Path, config: str) -> None:
    put(tmp_path, "/etc/containerd/config.toml", config)
    with pytest.raises(NotUnderstood, match=r"/etc/containerd/config.toml"):
        plan(tmp_path)
    (problem,) = containerd.reading(HostTree(tmp_path), SHIM).problems
    assert "/etc/containerd/config.toml" in problem


def test_reading(tmp_path: Path) -> None:
    put(tmp_path, "/etc/containerd/config.toml", GOOD)
    put(tmp_path, f"{CERTS}/_default/hosts.toml", MIRRORED)
    put(tmp_path, f"{CERTS}/r.test_5000_/hosts.toml", MIRRORED)
    put(tmp_path, f"{CERTS}/ghcr.io/hosts.toml", MIRRORED.replace("7500", "7599"))
    found = containerd.reading(HostTree(tmp_path), SHIM)
    assert found.registries == ("*", "r.test:5000")
    assert list(map(str, found.files)) == [f"{CERTS}/_default/hosts.toml", f"{CERTS}/r.test_5000_/hosts.toml"]
    assert found.problems == ()
