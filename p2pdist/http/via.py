"""Whom a request has passed already: the Via field (RFC 9110, 7.6.3), in which trackers and agents name themselves.

An upstream whose origin is, at the end, a shim of the same fleet would ask itself for ever: the tracker waits for the
agent's answer, the agent for the tracker's. So every request to an upstream names who makes it, and a shim refuses
what it, or the tracker that it would ask, has made. Pure.
"""

import re
from collections.abc import Mapping

_PSEUDONYM = "p2pdist-"
_ENTRY = re.compile(rf"(?:^|,)[ \t]*1\.1[ \t]+{_PSEUDONYM}([A-Za-z0-9]+)(?=[ \t]|,|$)")


def nodes_in(field: str | None) -> list[str]:
    """The ids of the trackers and agents that a Via field names, the first first."""
    return _ENTRY.findall(field or "")


def naming(node: str, headers: Mapping[str, str]) -> dict[str, str]:
    """`headers` of a request that `node` sends on, or begins: its Via field names it last. No node, no change."""
    if not node:
        return dict(headers)
    before = next((value for name, value in headers.items() if name.lower() == "via"), "")
    others = {name: value for name, value in headers.items() if name.lower() != "via"}
    return {**others, "Via": f"{before}{', ' if before else ''}1.1 {_PSEUDONYM}{node}"}
