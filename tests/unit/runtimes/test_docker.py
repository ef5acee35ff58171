"""Docker: one mirror more in daemon.json, whose other bytes stay; hosts.toml where it can do no harm."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.runtimes import docker
from p2pdist.runtimes.docker import with_mirror
from p2pdist.runtimes.errors import NotUnderstood
from p2pdist.runtimes.plan import Plan, Wish
from p2pdist.runtimes.tree import HostTree
from tests.unit.runtimes.trees import put

SHIM = "127.0.0.1:7500"
URL = f"http://{SHIM}"


def plan(root: Path, *registries: str, named: bool = False) -> Plan:
    return docker.plan(HostTree(root), Wish(SHIM, registries, named))


def paths(plan: Plan) -> list[str]:
    return [str(path) for path in plan.files]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", f'{{\n  "registry-mirrors": [\n    "{URL}"\n  ]\n}}\n'),
        ("{}", f'{{"registry-mirrors": ["{URL}"]}}'),
        ('{"debug":true}', f'{{"registry-mirrors": ["{URL}"], "debug":true}}'),
        ('{\n\t"debug": true\n}\n', f'{{\n\t"registry-mirrors": ["{URL}"],\n\t"debug": true\n}}\n'),
        ('{"registry-mirrors": []}', f'{{"registry-mirrors": ["{URL}"]}}'),
        (
            '{\n  "log-opts": {"registry-mirrors": "no"},\n  "registry-mirrors" : [\n    "https://corp.test/"\n  ]\n}',
            '{\n  "log-opts": {"registry-mirrors": "no"},\n  "registry-mirrors" : [\n'
            f'    "{URL}",\n    "https://corp.test/"\n  ]\n}}',
        ),
    ],
)
def test_the_mirror_comes_first_and_the_rest_stays(before: str, after: str) -> None:
    assert with_mirror(before.encode(), URL).decode() == after
    assert with_mirror(after.encode(), URL).decode() == after


_VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3))
_DOCUMENTS = st.dictionaries(st.text() | st.just("registry-mirrors "), _VALUES, max_size=4)


@given(_DOCUMENTS, st.none() | st.lists(st.text(), max_size=3), st.sampled_from([None, 0, 1, "\t"]))
def test_any_file_says_what_it_said(
    document: dict[str, Any], mirrors: list[str] | None, indent: int | str | None
) -> None:
    document.pop("registry-mirrors", None)
    if mirrors is not None:
        document["registry-mirrors"] = mirrors
    text = json.dumps(document, indent=indent)
    result = with_mirror(text.encode(), URL).decode()
    assert json.loads(result) == {**document, "registry-mirrors": [URL, *(mirrors or [])]}
    begin = next((at for at, (old, new) in enumerate(zip(text, result, strict=False)) if old != new), len(text))
    assert result.startswith(text[:begin])
    assert result.endswith(text[begin:])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "isn't JSON"),
        ("[]", "isn't a JSON object"),
        ('{"registry-mirrors": "x"}', "isn't a list"),
        ('{"a": 1, "a": 2}', "a key stands in it twice"),
        ("\ufeff{}", "isn't JSON"),
    ],
)
def test_what_cannot_be_changed_is_refused(text: str, reason: str) -> None:
    with pytest.raises(NotUnderstood, match=reason):
        with_mirror(text.encode(), URL)


def test_docker_io_by_daemon_json_and_the_others_by_hosts_toml(tmp_path: Path) -> None:
    made = plan(tmp_path, "docker.io", "ghcr.io")
    assert paths(made) == ["/etc/docker/daemon.json", "/etc/docker/certs.d/ghcr.io/hosts.toml"]
    assert f"docker pull {SHIM}/REGISTRY" in made.notes[0]
    assert paths(plan(tmp_path)) == ["/etc/docker/daemon.json"]
    assert paths(plan(tmp_path, "docker.io", named=True)) == ["/etc/docker/daemon.json"]
    assert paths(plan(tmp_path, "ghcr.io", named=True)) == ["/etc/docker/certs.d/ghcr.io/hosts.toml"]


def test_an_insecure_registry_stays_as_it_is(tmp_path: Path) -> None:
    put(tmp_path, "/etc/docker/daemon.json", '{"insecure-registries": ["corp.test:5000"]}')
    made = plan(tmp_path, "corp.test:5000")
    assert paths(made) == ["/etc/docker/daemon.json"]
    assert made.notes == (
        "corp.test:5000 stays as it is: /etc/docker/daemon.json calls it insecure, which a hosts.toml would end",
    )


def test_reading(tmp_path: Path) -> None:
    tree = HostTree(tmp_path)
    assert docker.reading(tree, SHIM).files == ()
    put(tmp_path, "/etc/docker/daemon.json", json.dumps({"registry-mirrors": [URL + "/"]}))
    put(tmp_path, "/etc/docker/certs.d/ghcr.io/hosts.toml", f'[host."{URL}"]\n')
    found = docker.reading(tree, SHIM)
    assert found.registries == ("docker.io", "ghcr.io")
    assert found.files[0] == PurePosixPath("/etc/docker/daemon.json")
    assert docker.reading(tree, "127.0.0.1:1").files == ()
    put(tmp_path, "/etc/docker/daemon.json", "{")
    assert "isn't JSON" in docker.reading(tree, SHIM).problems[0]


@pytest.mark.parametrize(
    ("there", "how"), [('{"registry-mirrors": []}', "reload"), ("{}", "restart"), (None, "restart")]
)
def test_a_reload_is_not_enough_to_forget_the_last_mirror(tmp_path: Path, there: str | None, how: str) -> None:
    if there is not None:
        put(tmp_path, "/etc/docker/daemon.json", there)
    assert docker.RUNTIME.reload(HostTree(tmp_path)).endswith(f": systemctl {how} docker")
