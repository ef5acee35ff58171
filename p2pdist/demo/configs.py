"""The configurations of the demo's tracker and agents, as TOML. Pure; what the keys mean is in configs/*.toml."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Value = str | list[str]


@dataclass(frozen=True, slots=True)
class UpstreamSite:
    """The registry that the images belong to: the name that clients use, and the base URL of its origin."""

    name: str
    origin: str


@dataclass(frozen=True, slots=True)
class TrackerAddresses:
    """Where the tracker listens, `host:port` each."""

    control: str
    relay: str
    admin: str


@dataclass(frozen=True, slots=True)
class AgentAddresses:
    """Where an agent listens, `host:port` each."""

    shim: str
    relay: str
    swarm: str
    admin: str


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What an agent needs to join."""

    token: str
    ca_hash: str


def tracker_toml(state_dir: str, addresses: TrackerAddresses, upstream: UpstreamSite) -> str:
    """The configuration of a tracker that serves one upstream."""
    return _toml(
        {"state_dir": state_dir},
        {
            "control": {"listen": [addresses.control]},
            "relay": {"listen": [addresses.relay]},
            "admin": {"listen": addresses.admin},
        },
        [{"name": upstream.name, "origin": upstream.origin}],
    )


def agent_toml(
    name: str, state_dir: str, addresses: AgentAddresses, tracker: str, enrolment: Enrolment, default_upstream: str
) -> str:
    """The configuration of an agent that joins the tracker at the control address `tracker`."""
    return _toml(
        {"state_dir": state_dir, "name": name},
        {
            "tracker": {"address": tracker, "join_token": enrolment.token, "ca_hash": enrolment.ca_hash},
            "shim": {"listen": [addresses.shim], "default_upstream": default_upstream},
            "relay": {"listen": [addresses.relay]},
            "swarm": {"listen": [addresses.swarm]},
            "admin": {"listen": addresses.admin},
        },
    )


def _toml(
    top: Mapping[str, Value], tables: Mapping[str, Mapping[str, Value]], upstreams: Sequence[Mapping[str, Value]] = ()
) -> str:
    lines = _assignments(top)
    for name, table in tables.items():
        lines += ["", f"[{name}]", *_assignments(table)]
    for upstream in upstreams:
        lines += ["", "[[upstream]]", *_assignments(upstream)]
    return "\n".join(lines) + "\n"


def _assignments(table: Mapping[str, Value]) -> list[str]:
    """A string or list of strings in JSON is one in TOML too, as long as it stays within Unicode's first plane."""
    return [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items()]
