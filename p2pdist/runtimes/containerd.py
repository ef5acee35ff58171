"""containerd, for Kubernetes, nerdctl and `ctr --hosts-dir`: hosts.toml below the directory that config_path names.

containerd tells its mirror which registry it wants (`?ns=`), so one file, that of `_default`, does for every registry
that has no directory of its own. `config_path` itself is containerd's configuration, which is only looked at here.
"""

import tomllib
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any

from p2pdist.runtimes import hosts_toml
from p2pdist.runtimes.errors import MirrorError, NotUnderstood
from p2pdist.runtimes.plan import Plan, Reading, Runtime, Tree, Wish

CONFIG = PurePosixPath("/etc/containerd/config.toml")
CERTS = PurePosixPath("/etc/containerd/certs.d")
_DOCKERS = PurePosixPath("/etc/docker/certs.d")
"""The default of config_path is both, from containerd 2.2 on; nerdctl looks at both, too."""
_PLUGINS = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.images"}
"""The plug-in that pulls for Kubernetes, by the version of config.toml (containerd, docs/cri/registry.md)."""


def plan(tree: Tree, wish: Wish) -> Plan:
    """The files for `wish`, and what config.toml lacks for them to count."""
    roots, problems = _roots(tree)
    certs = roots[0]
    if wish.named:
        chosen = {hosts_toml.find(tree, certs, registry) or registry for registry in wish.registries}
    else:
        _check_nothing_shadowed(tree, roots, wish.shim)
        own = (hosts_toml.find(tree, certs, registry) for registry in wish.registries)
        chosen = {hosts_toml.DEFAULT, *(name for name in own if name is not None)}
    files = {
        hosts_toml.path_in(certs, name): hosts_toml.planned(tree, certs, name, wish.url) for name in sorted(chosen)
    }
    others = [name for name in tree.names(certs) if name not in chosen and _own_rules(tree, certs, name)]
    notes = [f"{certs / name} stays as it is: say --registry {hosts_toml.registry_of(name)} for it" for name in others]
    return Plan(files, (*notes, *problems))


def reading(tree: Tree, shim: str) -> Reading:
    """What sends pulls to `shim` now."""
    try:
        roots, problems = _roots(tree)
    except MirrorError as error:
        return Reading(problems=(str(error),))
    names = [name for name in tree.names(roots[0]) if _asks(tree, roots[0], name, shim)]
    files = tuple(hosts_toml.path_in(roots[0], name) for name in names)
    return Reading(tuple(map(hosts_toml.registry_of, names)), files, tuple(problems) if names else ())


def _asks(tree: Tree, certs: PurePosixPath, name: str, shim: str) -> bool:
    return hosts_toml.asks(tree.read(hosts_toml.path_in(certs, name)), f"http://{shim}")


def _own_rules(tree: Tree, certs: PurePosixPath, name: str) -> bool:
    """Whether a directory keeps its registry away from the rules of `_default`."""
    return name != hosts_toml.DEFAULT and bool(tree.names(certs / name))


def _check_nothing_shadowed(tree: Tree, roots: list[PurePosixPath], shim: str) -> None:
    """A `_default` in the first root would hide what the later ones say of single registries."""
    if hosts_toml.DEFAULT in tree.names(roots[0]):
        return
    hidden = [
        str(root / name)
        for root in roots[1:]
        for name in tree.names(root)
        if _own_rules(tree, root, name) and not _asks(tree, root, name, shim)
    ]
    if hidden:
        raise MirrorError(
            f"{roots[0] / hosts_toml.DEFAULT} would hide {', '.join(hidden)} from containerd, which looks into"
            f" {' and '.join(map(str, roots))}; name the registries that the agent is for: --registry REGISTRY"
        )


def _roots(tree: Tree) -> tuple[list[PurePosixPath], list[str]]:
    """The directories that config_path names, or should; and what is wrong with it, as sentences."""
    version, registry = _registry_table(tree)
    plugin = _PLUGINS[3] if version >= 3 else _PLUGINS[2]
    say = f'[plugins."{plugin}".registry] config_path = "{CERTS}"'
    if version < 2:
        say = f"version = 2 (which gives plug-ins their long names) and {say}"
    configured = registry.get("config_path")
    if configured:
        roots = [PurePosixPath(part) for part in str(configured).split(":") if part.startswith("/")]
        if not roots:
            raise NotUnderstood(f"{CONFIG}: config_path = {configured!r} names no absolute path; say {say}")
        return roots, []
    old = [f"registry.{key}" for key in ("mirrors", "configs") if registry.get(key)]
    without = f"; first take {' and '.join(old)} out, which exclude it" if old else ""
    whose = "containerd" if old else "containerd before 2.2"
    return [CERTS, _DOCKERS], [
        f"{whose} doesn't look there for Kubernetes yet: say {say} in {CONFIG} and restart it{without}"
    ]


def _registry_table(tree: Tree) -> tuple[int, dict[str, Any]]:
    """The version of config.toml, and the registry tables of it and of what it imports, laid over each other."""
    main = _toml(tree.read(CONFIG) or b"version = 2", CONFIG)
    version = main.get("version", 1)
    found = _registry_in(main)
    for pattern in map(str, main.get("imports", [])):
        path = PurePosixPath(pattern) if pattern.startswith("/") else CONFIG.parent / pattern
        for name in tree.names(path.parent):
            if fnmatch(name, path.name) and (imported := tree.read(path.parent / name)) is not None:
                found |= _registry_in(_toml(imported, path.parent / name))
    return version if isinstance(version, int) else 1, found


def _registry_in(document: dict[str, Any]) -> dict[str, Any]:
    plugins = document.get("plugins", {})
    for name in (*_PLUGINS.values(), "cri"):
        registry = plugins.get(name, {}).get("registry")
        if isinstance(registry, dict):
            return registry
    return {}


def _toml(document: bytes, path: PurePosixPath) -> dict[str, Any]:
    try:
        return tomllib.loads(document.decode())
    except ValueError as error:
        raise NotUnderstood(f"{path} isn't TOML ({error}); mend it first") from error


def _reload(_tree: Tree) -> str:
    return "it reads hosts.toml at every pull, nothing must be restarted"


RUNTIME = Runtime("containerd", "containerd", ("containerd",), _reload, plan, reading)
