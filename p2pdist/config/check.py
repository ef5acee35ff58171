"""What single values can't tell: values that contradict each other, files that aren't there."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from p2pdist.config.addresses import Address
from p2pdist.config.schema import AgentConfig, AgentUpstream, TrackerConfig, Upstream

_SHORTEST_LEASE_SECONDS = 1.0
_LONGEST_LEASE_SECONDS = 3600.0
_SHORTEST_RECHECK_SECONDS = 1.0
_LONGEST_RECHECK_SECONDS = 3600.0


def contradictions(config: TrackerConfig | AgentConfig) -> Iterator[tuple[str, str]]:
    """What is wrong with `config` as a whole: dotted key and sentence."""
    yield from _upstreams(config.upstream)
    yield from _same_address_twice(_listeners(config))
    if isinstance(config, AgentConfig) and config.shim.login and config.shim.default_upstream is None:
        yield "shim.login", "there is no default upstream to log in to; set shim.default_upstream too"
    if isinstance(config, TrackerConfig):
        if not config.upstream:
            yield (
                "upstream",
                'there is none to fetch from; add [[upstream]] with name = "docker.io"',
            )
        if not _SHORTEST_LEASE_SECONDS <= config.lease <= _LONGEST_LEASE_SECONDS:
            yield "lease", 'a lease lasts between "1s" and "1h"'


def _upstreams(upstreams: tuple[AgentUpstream, ...]) -> Iterator[tuple[str, str]]:
    first: dict[str, int] = {}
    for index, upstream in enumerate(upstreams):
        at = f"upstream[{index}]"
        if first.setdefault(upstream.name, index) != index:
            yield f"{at}.name", f"upstream[{first[upstream.name]}] has the same name; keep one of them"
        if upstream.credentials_file and upstream.credential_helper:
            yield f"{at}.credential_helper", "there is a credentials_file too; keep one of them"
        if isinstance(upstream, Upstream):
            yield from _access(upstream, at)
        for key, path in (("ca_file", upstream.ca_file), ("credentials_file", upstream.credentials_file)):
            if path is not None and (reason := _unreadable(path)):
                yield f"{at}.{key}", reason


def _access(upstream: Upstream, at: str) -> Iterator[tuple[str, str]]:
    if upstream.access != "fleet":
        for key in ("credentials_file", "credential_helper"):
            if getattr(upstream, key):
                yield (
                    f"{at}.{key}",
                    f'isn\'t used with access = "{upstream.access}"; remove it, or set access = "fleet", which gives'
                    " every caller on every host what these credentials can read",
                )
    if not _SHORTEST_RECHECK_SECONDS <= upstream.recheck <= _LONGEST_RECHECK_SECONDS:
        yield f"{at}.recheck", 'what an upstream said counts for "1s" to "1h"'


def _unreadable(path: Path) -> str | None:
    if not path.exists():
        return f"there is no file {path}"
    if not path.is_file():
        return f"{path} isn't a file"
    if not os.access(path, os.R_OK):
        return f"{path} may not be read by user {os.geteuid()}; change its owner or mode"
    return None


def _listeners(config: TrackerConfig | AgentConfig) -> dict[str, Address]:
    if isinstance(config, TrackerConfig):
        lists = {"control": config.control.listen, "relay": config.relay.listen}
    else:
        lists = {"shim": config.shim.listen, "relay": config.relay.listen, "swarm": config.swarm.listen}
    found = {f"{table}.listen[{index}]": item for table, items in lists.items() for index, item in enumerate(items)}
    return found | {"admin.listen": config.admin.listen}


def _same_address_twice(listeners: dict[str, Address]) -> Iterator[tuple[str, str]]:
    uses = Counter(address for address in listeners.values() if address.port != 0)
    seen: dict[str, str] = {}
    for key, address in listeners.items():
        if uses[address] > 1 and seen.setdefault(address, key) != key:
            yield key, f"{seen[address]} has the same address; give each its own port"
