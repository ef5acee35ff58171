"""A configuration as it is in effect, as TOML, each key with where it comes from."""

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec.structs import fields

from p2pdist.config.load import Loaded
from p2pdist.config.problems import as_toml
from p2pdist.config.schema import AgentConfig, AgentUpstream, Section, TrackerConfig
from p2pdist.config.values import Secret

_HIDDEN = "(hidden)"


def render(loaded: Loaded[TrackerConfig] | Loaded[AgentConfig]) -> str:
    """A file that means the same as `loaded`, with the source of each key as a comment; secrets are hidden."""
    config: TrackerConfig | AgentConfig = loaded.config
    plain: list[str] = []
    tables: list[str] = []
    for field in fields(config):
        (tables if isinstance(getattr(config, field.name), Section) else plain).append(field.name)
    plain.remove("upstream")
    lines = [*_lines(config, plain, "", loaded.sources)]
    for name in tables:
        table = getattr(config, name)
        lines += ["", f"[{name}]", *_lines(table, _names(table), f"{name}.", loaded.sources)]
    for index, upstream in enumerate(config.upstream):
        lines += ["", "[[upstream]]", *_lines(upstream, _names(upstream), f"upstream[{index}].", loaded.sources)]
    return "\n".join(lines) + "\n"


def _names(section: Section) -> list[str]:
    return [field.name for field in fields(section)]


def _held(section: Section, name: str) -> Any:
    value = getattr(section, name)
    if isinstance(section, AgentUpstream) and name == "origin":
        return section.origin_url
    return _HIDDEN if isinstance(value, Secret) else value


def _lines(section: Section, names: list[str], at: str, sources: Mapping[str, str]) -> Iterator[str]:
    pairs = [(f"{name} = {as_toml(_held(section, name))}", sources.get(at + name, "default")) for name in names]
    width = max((len(text) for text, _ in pairs if len(text) <= 60), default=0)
    for text, source in pairs:
        yield f"{text:<{width}}  # {source}"
