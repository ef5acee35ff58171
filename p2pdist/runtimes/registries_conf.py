"""registries.conf, by which Podman, Buildah, Skopeo and CRI-O (containers/image) learn where images are.

A drop-in of ours names a mirror for each registry, under the registry's name as path, since these clients don't say
which one they want. A `[[registry]]` with the same prefix in a file that is read later takes the place of an earlier
one, whole (containers-registries.conf.d(5)). So ours repeats what the files before it say of the registry, and a file
that is read after it must not speak of it.
"""

import json
import tomllib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from p2pdist.runtimes.errors import MirrorError, NotUnderstood
from p2pdist.runtimes.plan import Plan, Reading, Runtime, Tree, Wish

MAIN = PurePosixPath("/etc/containers/registries.conf")
DROP_INS = PurePosixPath("/etc/containers/registries.conf.d")
_OLD_TABLES = {"search", "insecure", "block"}
_OURS = "50-p2pdist-"
_MADE = "# Made by `p2pdist mirror install`; `p2pdist mirror remove` takes it away.\n"


def _runtime(name: str, title: str, programs: tuple[str, ...], reload: str) -> Runtime:
    """One of the clients that read these files; each has a drop-in of its own, so that each can be undone alone."""
    own = DROP_INS / f"{_OURS}{name}.conf"

    def plan(tree: Tree, wish: Wish) -> Plan:
        if not wish.registries:
            raise MirrorError(
                f"{title} needs a mirror for each registry, and no agent says which ones there are:"
                " name them with --registry REGISTRY"
            )
        before, notes = _said_elsewhere(tree, wish, own)
        there = [registry for registry in wish.registries if _has_mirror(before.get(registry, {}), wish.shim)]
        blocks = [
            _block(registry, wish.shim, before.get(registry, {}), own)
            for registry in wish.registries
            if registry not in there
        ]
        files = {own: "\n".join([_MADE, *blocks]).encode()} if blocks else {}
        return Plan(files, (*notes, *_narrower(tree, wish)))

    return Runtime(name, title, programs, lambda _tree: reload, plan, reading)


def reading(tree: Tree, shim: str) -> Reading:
    """What sends pulls to `shim` now: for each prefix, the file that is read last decides."""
    last: dict[str, tuple[PurePosixPath, dict[str, Any]]] = {}
    try:
        for path in _files(tree):
            last |= {_prefix(registry): (path, registry) for registry in _registries(tree, path)}
    except MirrorError as error:
        return Reading(problems=(str(error),))
    ours = {prefix: path for prefix, (path, registry) in last.items() if _has_mirror(registry, shim)}
    return Reading(tuple(ours), tuple(dict.fromkeys(ours.values())))


def _said_elsewhere(tree: Tree, wish: Wish, own: PurePosixPath) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What other files say of the registries wished for, and which of them send them to the agent already.

    Raises where a file would undo ours.
    """
    before: dict[str, dict[str, Any]] = {}
    notes = []
    for path in _files(tree):
        if path.name.startswith(_OURS):
            continue
        for registry in _registries(tree, path):
            prefix = _prefix(registry)
            if prefix not in wish.registries:
                continue
            before[prefix] = registry
            if _has_mirror(registry, wish.shim):
                notes.append(f"{path} sends {prefix} to the agent already")
            elif path.parent == DROP_INS and path.name > own.name:
                raise MirrorError(
                    f"{path} speaks of {prefix} and is read after {own.name}, which it would undo; give it a name that"
                    f' sorts before, or put the mirror into it: location = "{wish.shim}/{prefix}", insecure = true'
                )
    return before, notes


def _block(registry: str, shim: str, before: dict[str, Any], own: PurePosixPath) -> str:
    rest = {key: value for key, value in before.items() if key not in ("prefix", "location", "mirror")}
    own_mirror = {"location": f"{shim}/{registry}", "insecure": True}
    mirrors = [own_mirror, *(mirror for mirror in before.get("mirror", []) if mirror != own_mirror)]
    table = {"prefix": registry, "location": before.get("location", registry), **rest}
    text = "[[registry]]\n" + _keys(table, own)
    return text + "".join(f"\n[[registry.mirror]]\n{_keys(mirror, own)}" for mirror in mirrors)


def _keys(table: dict[str, Any], own: PurePosixPath) -> str:
    lines = []
    for key, value in table.items():
        if not isinstance(value, str | bool | int):
            raise NotUnderstood(f"{own} can't repeat {key} = {value!r}, which other files say; put the mirror in there")
        # A JSON string is a TOML basic string, except that TOML has no surrogate pairs.
        lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}\n")
    return "".join(lines)


def _narrower(tree: Tree, wish: Wish) -> tuple[str, ...]:
    """Rules for a part of a registry, which go before those for the whole of it."""
    return tuple(
        f"{path}: images below {prefix} go by that rule and not through the agent"
        for path in _files(tree)
        for registry in _registries(tree, path)
        if (prefix := _prefix(registry)).partition("/")[0] in wish.registries
        and "/" in prefix
        and not _has_mirror(registry, wish.shim)
    )


def _has_mirror(registry: dict[str, Any], shim: str) -> bool:
    mirrors = registry.get("mirror", [])
    return any(str(mirror.get("location", "")).startswith(f"{shim}/") for mirror in mirrors)


def _prefix(registry: dict[str, Any]) -> str:
    return str(registry.get("prefix") or registry.get("location", ""))


def _files(tree: Tree) -> list[PurePosixPath]:
    """What is read, in this order."""
    return [MAIN, *(DROP_INS / name for name in tree.names(DROP_INS) if name.endswith(".conf"))]


def _registries(tree: Tree, path: PurePosixPath) -> Iterator[dict[str, Any]]:
    try:
        document = tomllib.loads((tree.read(path) or b"").decode())
    except ValueError as error:
        raise NotUnderstood(f"{path} isn't TOML ({error}); mend it first") from error
    if _OLD_TABLES & document.get("registries", {}).keys():
        raise NotUnderstood(
            f"{path} has the form of version 1 ([registries.search]), beside which drop-ins of version 2 end every"
            " pull; bring it to version 2 first (containers-registries.conf(5))"
        )
    registries = document.get("registry", [])
    if not isinstance(registries, list) or not all(isinstance(one, dict) for one in registries):
        raise NotUnderstood(f"{path}: registry isn't an array of tables; mend it first")
    yield from registries


PODMAN = _runtime(
    "podman",
    "Podman (with Buildah and Skopeo)",
    ("podman", "buildah", "skopeo"),
    "it reads these files at every pull, nothing must be restarted",
)
CRIO = _runtime("crio", "CRI-O", ("crio",), "it reads these files when it is told to: systemctl reload crio")
