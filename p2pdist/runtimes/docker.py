"""Docker: `registry-mirrors` in daemon.json, which is for docker.io alone; hosts.toml for the other registries.

Docker doesn't tell its mirror which registry it wants, so the listener needs docker.io as its default upstream. Only
Docker's containerd image store reads hosts.toml, where there is one for the registry (Moby, daemon/hosts.go): then it
reads nothing else for that registry, neither `registry-mirrors` nor `insecure-registries`. So there is none for
docker.io, none for `_default`, and none for a registry that daemon.json calls insecure.
"""

import json
from pathlib import PurePosixPath
from typing import Any

from p2pdist.runtimes import hosts_toml
from p2pdist.runtimes.errors import MirrorError, NotUnderstood
from p2pdist.runtimes.plan import Plan, Reading, Runtime, Tree, Wish

CONFIG = PurePosixPath("/etc/docker/daemon.json")
CERTS = PurePosixPath("/etc/docker/certs.d")
HUB = "docker.io"
_KEY = "registry-mirrors"
_BLANKS = " \t\r\n"


def plan(tree: Tree, wish: Wish) -> Plan:
    """The files for `wish`."""
    there = tree.read(CONFIG)
    files: dict[PurePosixPath, bytes] = {}
    notes = []
    if not wish.named or HUB in wish.registries:
        files[CONFIG] = with_mirror(there or b"", wish.url)
    insecure = _document(there).get("insecure-registries") or []
    for registry in wish.registries:
        if registry in insecure:
            notes.append(f"{registry} stays as it is: {CONFIG} calls it insecure, which a hosts.toml would end")
        elif registry != HUB:
            directory = hosts_toml.find(tree, CERTS, registry) or registry
            files[hosts_toml.path_in(CERTS, directory)] = hosts_toml.planned(tree, CERTS, directory, wish.url)
    if files.keys() - {CONFIG}:
        notes.append(
            "hosts.toml is for Docker's containerd image store; without that, images of other registries than docker.io"
            f" come through the agent by name only: docker pull {wish.shim}/REGISTRY/REPOSITORY:TAG"
        )
    return Plan(files, tuple(notes))


def reading(tree: Tree, shim: str) -> Reading:
    """What sends pulls to `shim` now."""
    try:
        mirrors = _document(tree.read(CONFIG)).get(_KEY)
    except MirrorError as error:
        return Reading(problems=(str(error),))
    url = f"http://{shim}"
    found = {}
    if isinstance(mirrors, list) and any(_same(mirror, url) for mirror in mirrors):
        found[HUB] = CONFIG
    for name in tree.names(CERTS):
        path = hosts_toml.path_in(CERTS, name)
        if hosts_toml.asks(tree.read(path), url):
            found[hosts_toml.registry_of(name)] = path
    return Reading(tuple(found), tuple(found.values()))


def with_mirror(there: bytes, url: str) -> bytes:
    """daemon.json with `url` as its first mirror; all other bytes stay what they are."""
    if not there.strip():
        return (json.dumps({_KEY: [url]}, indent=2) + "\n").encode()
    before = _document(there)
    mirrors = before.get(_KEY, [])
    if not isinstance(mirrors, list):
        raise NotUnderstood(f'{CONFIG}: "{_KEY}" isn\'t a list; mend it first')
    if any(_same(mirror, url) for mirror in mirrors):
        return there
    text = there.decode()
    at, inside = _place(text)
    put = json.dumps(url) if inside else f"{json.dumps(_KEY)}: [{json.dumps(url)}]"
    rest = text[at:].lstrip(_BLANKS)
    gap = text[at : len(text) - len(rest)]
    result = text[:at] + put + text[at:] if rest[0] in "]}" else f"{text[:at]}{gap}{put},{gap or ' '}{rest}"
    if json.loads(result) != {**before, _KEY: [url, *mirrors]}:
        raise NotUnderstood(f'{CONFIG}: nothing can be put in the way it is written; add "{url}" to "{_KEY}" yourself')
    return result.encode()


def _place(text: str) -> tuple[int, bool]:
    """Where the mirror goes: right behind the bracket of the list of mirrors (True), else of the whole object."""
    decoder = json.JSONDecoder()
    begin = at = _skip(text, 0) + 1
    while text[at := _skip(text, at)] != "}":
        key, at = decoder.raw_decode(text, at)
        value = _skip(text, _skip(text, at) + 1)
        if key == _KEY:
            return value + 1, True
        at = _skip(text, decoder.raw_decode(text, value)[1])
        at += text[at] == ","
    return begin, False


def _skip(text: str, at: int) -> int:
    while text[at] in _BLANKS:
        at += 1
    return at


def _same(mirror: object, url: str) -> bool:
    return isinstance(mirror, str) and mirror.rstrip("/") == url


def _document(there: bytes | None) -> dict[str, Any]:
    if there is None or not there.strip():
        return {}
    try:
        document = json.loads(there.decode(), object_pairs_hook=_once)
    except ValueError as error:
        raise NotUnderstood(f"{CONFIG} isn't JSON ({error}); mend it first") from error
    if not isinstance(document, dict):
        raise NotUnderstood(f"{CONFIG} isn't a JSON object; mend it first")
    return document


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without a key that is there twice: which of them counts, readers don't agree on."""
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError("a key stands in it twice")
    return document


def _reload(tree: Tree) -> str:
    """A reload takes only keys that are there (Moby, daemon/reload.go): without one the old mirrors would stay."""
    if _KEY in _document(tree.read(CONFIG)):
        return "it reads daemon.json when it is told to: systemctl reload docker"
    return f"a reload would keep the old mirrors, now that daemon.json has no {_KEY}: systemctl restart docker"


RUNTIME = Runtime("docker", "Docker", ("dockerd",), _reload, plan, reading)
