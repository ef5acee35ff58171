"""hosts.toml, by which containerd and Docker's containerd store learn where a registry's images are.

A directory `certs.d` has a directory for each registry, or `_default` for those that have none. In it stands hosts.toml
or, in Docker's older manner, certificates alone (containerd, docs/hosts.md and core/remotes/docker/config/hosts.go):

- hosts are asked in the order of their tables in the file, the registry itself (`server`) last. So ours goes in front.
- Where hosts.toml stands, certificates beside it are no longer looked for. One that we make must name them.
- The first directory that is there counts, among `host_port_`, `host:port`, `host` and `_default`.

The text of a file stays as it is around what is put in; the result is parsed again and must say what was there before,
and our host.
"""

import re
import tomllib
from pathlib import PurePosixPath
from typing import Any

from p2pdist.runtimes.errors import NotUnderstood
from p2pdist.runtimes.plan import EVERY_REGISTRY, Tree

DEFAULT = "_default"
_FILE = "hosts.toml"
_ASKED_FOR = ["pull", "resolve"]
_MADE = "# Made by `p2pdist mirror install`; `p2pdist mirror remove` takes it away.\n"


def directories(registry: str) -> list[str]:
    """The names that the directory of `registry` can have, the first that is there counts."""
    host, colon, port = registry.rpartition(":")
    return [f"{host}_{port}_", registry, host] if colon and not registry.endswith("]") else [registry]


def find(tree: Tree, certs: PurePosixPath, registry: str) -> str | None:
    """The name of the directory that `registry` has to itself; None: that of all others counts."""
    there = tree.names(certs)
    return next((name for name in directories(registry) if name in there), None)


def registry_of(directory: str) -> str:
    """The registry that a directory is named for."""
    port = re.fullmatch(r"(.+)_(\d+)_", directory)
    return EVERY_REGISTRY if directory == DEFAULT else f"{port[1]}:{port[2]}" if port else directory


def path_in(certs: PurePosixPath, directory: str) -> PurePosixPath:
    """The hosts.toml of a directory."""
    return certs / directory / _FILE


def planned(tree: Tree, certs: PurePosixPath, directory: str, url: str) -> bytes:
    """What the hosts.toml of `directory` should be, so that `url` is asked first."""
    path = path_in(certs, directory)
    there = tree.read(path)
    if there is None or not there.strip():
        return (_MADE + _certificates(tree.names(certs / directory)) + _block(url)).encode()
    return with_host(there, url, str(path))


def asks(there: bytes | None, url: str) -> bool:
    """Whether a hosts.toml sends pulls to `url`."""
    try:
        host = tomllib.loads((there or b"").decode()).get("host", {})
        return url in host and set(host[url].get("capabilities", _ASKED_FOR)) >= set(_ASKED_FOR)
    except (ValueError, AttributeError, TypeError):
        return False


def with_host(there: bytes, url: str, where: str) -> bytes:
    """A hosts.toml with `url` as its first host; raises `NotUnderstood` when that can't be said in it."""
    text = _decoded(there, where)
    before = _parsed(text, where)
    if asks(there, url):
        return there
    newline = "\r\n" if "\r\n" in text else "\n"
    at = _first_table(text)
    head, tail = text[:at], text[at:]
    head += "" if not head or head.endswith("\n") else newline
    result = head + _block(url).replace("\n", newline) + (newline if tail else "") + tail
    wanted = {**before, "host": {url: {"capabilities": _ASKED_FOR}, **_table(before, "host", where)}}
    after = _parsed_again(result)
    if after != wanted or next(iter(after["host"])) != url:
        raise NotUnderstood(
            f'{where} is written in a way that nothing can be put into; make [host."{url}"] its first host yourself,'
            f" with capabilities = {_ASKED_FOR}"
        )
    return result.encode()


def _block(url: str) -> str:
    return f'[host."{url}"]\n  capabilities = ["pull", "resolve"]\n'


def _certificates(names: list[str]) -> str:
    """Top-level keys for what containerd would have found by itself without a hosts.toml; relative to the directory."""
    authorities = [name for name in names if name.endswith(".crt")]
    pairs = [[name, f"{name[:-5]}.key"] for name in names if name.endswith(".cert")]
    clients = [[pair[0], pair[1] if pair[1] in names else ""] for pair in pairs]
    lines = f"ca = {_array(authorities)}\n" if authorities else ""
    lines += f"client = [{', '.join(map(_array, clients))}]\n" if clients else ""
    return f"# What containerd found in this directory before there was this file.\n{lines}\n" if lines else ""


def _array(names: list[str]) -> str:
    quoted = (name.replace("\\", "\\\\").replace('"', '\\"') for name in names)
    return "[" + ", ".join(f'"{name}"' for name in quoted) + "]"


def _first_table(text: str) -> int:
    """Where the first table begins, with the comment right above it; the end of the text when there is none.

    A line that begins with a bracket, or with #, can also be inside a value; what stands above it isn't TOML then.
    """
    for match in re.finditer(r"^[ \t]*\[", text, re.MULTILINE):
        if _is_toml(text[: match.start()]):
            comment = re.search(r"(?:^[ \t]*#[^\n]*\n)+\Z", text[: match.start()], re.MULTILINE)
            return comment.start() if comment and _is_toml(text[: comment.start()]) else match.start()
    return len(text)


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _decoded(there: bytes, where: str) -> str:
    try:
        return there.decode()
    except UnicodeDecodeError:
        raise NotUnderstood(f"{where} isn't UTF-8, so it isn't TOML; mend it first") from None


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise NotUnderstood(f"{where} isn't TOML ({error}); mend it first") from error


def _parsed_again(text: str) -> dict[str, Any]:
    """The same of our own result; empty when it isn't TOML, which equals nothing that is wanted."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}


def _table(document: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    table = document.get(key, {})
    if not isinstance(table, dict):
        raise NotUnderstood(f"{where}: {key} isn't a table; mend it first")
    return table
