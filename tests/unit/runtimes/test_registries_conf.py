"""Podman and CRI-O: a drop-in that repeats what it takes the place of, and refuses where it would be undone."""

import tomllib
from pathlib import Path, PurePosixPath

import pytest

from p2pdist.runtimes import registries_conf
from p2pdist.runtimes.errors import MirrorError, NotUnderstood
from p2pdist.runtimes.plan import Plan, Wish
from p2pdist.runtimes.registries_conf import CRIO, PODMAN
from p2pdist.runtimes.tree import HostTree
from tests.unit.runtimes.trees import put

SHIM = "127.0.0.1:7500"
DROP_INS = "/etc/containers/registries.conf.d"
OWN = PurePosixPath(f"{DROP_INS}/50-p2pdist-podman.conf")


def plan(root: Path, *registries: str) -> Plan:
    return PODMAN.plan(HostTree(root), Wish(SHIM, registries))


def test_a_mirror_for_each_registry(tmp_path: Path) -> None:
    put(tmp_path, "/etc/containers/registries.conf", 'unqualified-search-registries = ["docker.io"]\n')
    text = plan(tmp_path, "docker.io", "r.test:5000").files[OWN].decode()
    assert tomllib.loads(text)["registry"] == [
        {
            "prefix": name,
            "location": name,
            "mirror": [{"location": f"{SHIM}/{name}", "insecure": True}],
        }
        for name in ("docker.io", "r.test:5000")
    ]


def test_each_client_has_a_file_of_its_own() -> None:
    wish = Wish(SHIM, ("docker.io",))
    (crio,) = CRIO.plan(HostTree(Path("/nowhere")), wish).files
    assert crio == PurePosixPath(f"{DROP_INS}/50-p2pdist-crio.conf")


def test_without_registries_there_is_nothing_to_say(tmp_path: Path) -> None:
    with pytest.raises(MirrorError, match=r"name them with --registry"):
        plan(tmp_path)


def test_what_earlier_files_say_is_repeated_behind_the_mirror(tmp_path: Path) -> None:
    put(
        tmp_path,
        "/etc/containers/registries.conf",
        '[[registry]]\nprefix = "corp.test"\nlocation = "moved.test/ä\\"x"\ninsecure = true\n'
        "mirror-by-digest-only = false\n"
        '[[registry.mirror]]\nlocation = "cache.test"\npull-from-mirror = "digest-only"\n',
    )
    (registry,) = tomllib.loads(plan(tmp_path, "corp.test").files[OWN].decode())["registry"]
    assert registry == {
        "prefix": "corp.test",
        "location": 'moved.test/ä"x',
        "insecure": True,
        "mirror-by-digest-only": False,
        "mirror": [
            {"location": f"{SHIM}/corp.test", "insecure": True},
            {"location": "cache.test", "pull-from-mirror": "digest-only"},
        ],
    }


def test_a_later_file_would_undo_ours(tmp_path: Path) -> None:
    put(tmp_path, f"{DROP_INS}/99-corp.conf", '[[registry]]\nlocation = "corp.test"\n')
    with pytest.raises(MirrorError, match=r"99-corp.conf speaks of corp.test and is read after"):
        plan(tmp_path, "corp.test")
    assert OWN in plan(tmp_path, "docker.io").files


def test_what_is_there_by_hand_is_left_there(tmp_path: Path) -> None:
    by_hand = f'[[registry]]\nprefix = "docker.io"\n[[registry.mirror]]\nlocation = "{SHIM}/docker.io"\n'
    put(tmp_path, f"{DROP_INS}/50-p2pdist.conf", by_hand)
    made = plan(tmp_path, "docker.io")
    assert made.files == {}
    assert made.notes == (f"{DROP_INS}/50-p2pdist.conf sends docker.io to the agent already",)
    (registry,) = tomllib.loads(plan(tmp_path, "docker.io", "ghcr.io").files[OWN].decode())["registry"]
    assert registry["prefix"] == "ghcr.io"


def test_narrower_rules_are_mentioned(tmp_path: Path) -> None:
    put(tmp_path, "/etc/containers/registries.conf", '[[registry]]\nprefix = "docker.io/corp"\nlocation = "c.test"\n')
    (note,) = plan(tmp_path, "docker.io").notes
    assert "images below docker.io/corp go by that rule" in note


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("registry = ", "isn't TOML"),
        ("registry = 5\n", "isn't an array of tables"),
        ('[registries.search]\nregistries = ["docker.io"]\n', "form of version 1"),
        ('[[registry]]\nprefix = "docker.io"\nnew = ["list"]\n', r"can't repeat new = \['list'\]"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    put(tmp_path, "/etc/containers/registries.conf", text)
    with pytest.raises(NotUnderstood, match=reason):
        plan(tmp_path, "docker.io")


def test_reading(tmp_path: Path) -> None:
    tree = HostTree(tmp_path)
    for name, port in (("10-a", 7500), ("20-b", 7500), ("30-c", 1)):
        registry = "docker.io" if name != "20-b" else "ghcr.io"
        mirror = f'[[registry.mirror]]\nlocation = "127.0.0.1:{port}/{registry}"\n'
        put(tmp_path, f"{DROP_INS}/{name}.conf", f'[[registry]]\nprefix = "{registry}"\n{mirror}')
    found = registries_conf.reading(tree, SHIM)
    assert found.registries == ("ghcr.io",)
    assert found.files == (PurePosixPath(f"{DROP_INS}/20-b.conf"),)
    put(tmp_path, f"{DROP_INS}/40-d.conf", "[")
    assert "40-d.conf isn't TOML" in registries_conf.reading(tree, SHIM).problems[0]
