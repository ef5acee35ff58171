"""The typed configuration of tracker and agent: what can be said, how it is read, and what is wrong with it.

`load_tracker` and `load_agent` give a `Loaded` whose `config` is frozen and fully typed; errors are `ConfigError`.
Must not know what the values are used for: core and msgspec only.
"""

from p2pdist.config.addresses import Address, OriginUrl, PeerAddress, RegistryHost, is_loopback
from p2pdist.config.load import COMMAND_LINE, Loaded, load_agent, load_tracker, read_toml
from p2pdist.config.problems import ConfigError, Problem
from p2pdist.config.schema import AgentConfig, AgentUpstream, TrackerConfig, Upstream
from p2pdist.config.show import render
from p2pdist.config.values import ByteCount, CertificateHash, HelperName, NodeName, Seconds, Secret, Zone

__all__ = [
    "COMMAND_LINE",
    "Address",
    "AgentConfig",
    "AgentUpstream",
    "ByteCount",
    "CertificateHash",
    "ConfigError",
    "HelperName",
    "Loaded",
    "NodeName",
    "OriginUrl",
    "PeerAddress",
    "Problem",
    "RegistryHost",
    "Seconds",
    "Secret",
    "TrackerConfig",
    "Upstream",
    "Zone",
    "is_loopback",
    "load_agent",
    "load_tracker",
    "read_toml",
    "render",
]
