"""`p2pdist config`: check a file without starting anything; show what is in effect and where each value comes from."""

import argparse
from pathlib import Path
from typing import Any

from msgspec.structs import fields

from p2pdist.config import (
    AgentConfig,
    ConfigError,
    Loaded,
    Problem,
    TrackerConfig,
    load_agent,
    load_tracker,
    read_toml,
    render,
)
from p2pdist.core.errors import InvalidInput


def add_parser(subparsers: Any) -> None:
    """Put `config` and its commands among the commands of `p2pdist`."""
    parser = subparsers.add_parser(
        "config", description="Check a configuration, or show the one in effect: file, environment and defaults."
    )
    commands = parser.add_subparsers(dest="config_command", metavar="COMMAND", required=True)
    check = commands.add_parser("check", help="say every mistake in a file; exit code 2 when there is one")
    check.add_argument("config", type=Path, metavar="FILE")
    show = commands.add_parser("show", help="print every key with its value and where that comes from")
    show.add_argument("--config", type=Path, metavar="FILE")
    for command in (check, show):
        command.add_argument(
            "--kind", choices=("agent", "tracker"), help="whose configuration; default: what the file looks like"
        )


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say."""
    loaded = _load(args.config, args.kind)
    if args.config_command == "show":
        print(render(loaded), end="")
    else:
        whose = "an agent" if isinstance(loaded.config, AgentConfig) else "a tracker"
        print(f"{args.config}: fine, the configuration of {whose}")
    return 0


def _load(path: Path | None, kind: str | None) -> Loaded[AgentConfig] | Loaded[TrackerConfig]:
    if kind is None:
        if path is None:
            raise InvalidInput("say whose configuration: --kind agent, --kind tracker, or a file by --config FILE")
        kind = _looks_like(path)
    return load_agent(path) if kind == "agent" else load_tracker(path)


def _looks_like(path: Path) -> str:
    """Whose configuration the file is, by the keys that only one of the two has."""
    present = read_toml(path).keys()
    agent, tracker = ({field.name for field in fields(kind)} for kind in (AgentConfig, TrackerConfig))
    for_agent, for_tracker = len(present & (agent - tracker)), len(present & (tracker - agent))
    if for_agent == for_tracker:
        message = "could be an agent's configuration or a tracker's; say --kind agent or --kind tracker"
        raise ConfigError([Problem(str(path), "", None, message)])
    return "agent" if for_agent > for_tracker else "tracker"
