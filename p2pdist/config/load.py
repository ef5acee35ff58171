"""From defaults, a TOML file, the environment and the command line to one typed configuration.

The later wins, and which one said what is kept. Every problem is reported at once, with its dotted key. The
environment can set keys that aren't lists: `P2PDIST_<TABLE>_<KEY>`, and `P2PDIST_<KEY>` for those above the tables.
Variables that fit no key are left alone: Kubernetes makes some for a service of this name.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo, fields

from p2pdist.config.check import contradictions
from p2pdist.config.problems import ConfigError, Problem, as_toml, did_you_mean, unknown_key
from p2pdist.config.schema import AgentConfig, Section, TrackerConfig
from p2pdist.config.values import ByteCount, CheckedText, Seconds, Secret
from p2pdist.core.errors import InvalidInput

_MAX_FILE_BYTES = 1024 * 1024
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
COMMAND_LINE = "command line"

AnyConfig = TypeVar("AnyConfig", TrackerConfig, AgentConfig)
AnySection = TypeVar("AnySection", bound=Section)


@dataclass(frozen=True)
class Loaded(Generic[AnyConfig]):
    """A configuration, and where those of its keys come from that don't have their default."""

    config: AnyConfig
    sources: Mapping[str, str]


def load_tracker(
    path: Path | None, *, overrides: Mapping[str, str] | None = None, environ: Mapping[str, str] | None = None
) -> Loaded[TrackerConfig]:
    """The tracker's configuration; `overrides`: dotted keys from the command line. Raises `ConfigError`."""
    return _load(TrackerConfig, path, overrides, environ)


def load_agent(
    path: Path | None, *, overrides: Mapping[str, str] | None = None, environ: Mapping[str, str] | None = None
) -> Loaded[AgentConfig]:
    """An agent's configuration; `overrides`: dotted keys from the command line. Raises `ConfigError`."""
    return _load(AgentConfig, path, overrides, environ)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of the file at `path`; raises `ConfigError` when it can't be read or isn't TOML."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _file_error(path, f"can't be read: {error.strerror}") from error
    if len(data) > _MAX_FILE_BYTES:
        raise _file_error(path, f"has more than {_MAX_FILE_BYTES} bytes; is it the right file?")
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _file_error(path, f"isn't UTF-8, as TOML must be (at line {line})") from error
    except tomllib.TOMLDecodeError as error:
        raise _file_error(path, f"isn't TOML: {error}") from error


def keys(kind: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of a configuration, dotted, and its field; `upstream[].name` stands for that key of each upstream."""
    for field in fields(kind):
        table, many = _table(field)
        if table is None:
            yield prefix + field.name, field
        else:
            yield from keys(table, f"{prefix}{field.name}{'[]' if many else ''}.")


def variable(key: str, field: FieldInfo) -> str | None:
    """The environment variable that sets the dotted `key`; None when there is none, because the key is a list's."""
    if "[]" in key or get_origin(field.type) is tuple:
        return None
    return "P2PDIST_" + key.upper().replace(".", "_")


def _file_error(path: Path, message: str) -> ConfigError:
    return ConfigError([Problem(str(path), "", None, message)])


def _table(field: FieldInfo) -> tuple[type[Section] | None, bool]:
    """The table that a field holds, if it does, and whether it holds a list of them."""
    many = get_origin(field.type) is tuple
    item = get_args(field.type)[0] if many else field.type
    return (item, many) if isinstance(item, type) and issubclass(item, Section) else (None, many)


def _load(
    kind: type[AnyConfig], path: Path | None, overrides: Mapping[str, str] | None, environ: Mapping[str, str] | None
) -> Loaded[AnyConfig]:
    reader = _Reader(kind, path)
    for key, field in keys(kind):
        name = variable(key, field)
        text = (os.environ if environ is None else environ).get(name or "")
        if text is not None:
            reader.put(key, _BOOLEANS.get(text.lower(), text) if field.type is bool else text, f"environment {name}")
    for key, text in (overrides or {}).items():
        reader.put(key, text, COMMAND_LINE)
    config = reader.table(kind, reader.root, "")
    if config is not None:
        for key, message in contradictions(config):
            reader.complain(key, message)
    if config is None or reader.problems:
        raise ConfigError(reader.problems)
    return Loaded(config, reader.sources)


class _Reader:
    """Turns raw tables into the Structs of the schema and collects what is wrong on the way."""

    def __init__(self, kind: type[Section], path: Path | None) -> None:
        self._kind = kind
        self._path = path
        self._directory = path.absolute().parent if path else Path.cwd()
        self.root = read_toml(path) if path else {}
        self.sources: dict[str, str] = {}
        self.problems: list[Problem] = []

    def put(self, key: str, value: object, source: str) -> None:
        """Let `value` stand at the dotted `key`, whatever the file says there."""
        *tables, name = key.split(".")
        table = self.root
        for step in tables:
            table = table.setdefault(step, {})
            if not isinstance(table, dict):
                return  # the file has no table where one must be: `table` finds that
        table[name] = value
        self.sources[key] = source

    def complain(self, key: str, message: str, *, show_value: bool = True) -> None:
        """Add a problem with the dotted `key`, and with what stands there."""
        raw = self._raw(key) if show_value else None
        source = self.sources.get(key) or self.sources.get(key.rpartition("[")[0]) or str(self._path or "")
        self.problems.append(Problem(source, key, None if raw is None else as_toml(raw), message))

    def table(self, kind: type[AnySection], raw: object, at: str) -> AnySection | None:
        """The Struct that `raw` stands for, None when it has a problem; `at` is empty or a dotted place and a dot."""
        if not isinstance(raw, dict):
            self.complain(at.rstrip("."), f"must be a table, [{at.rstrip('.')}]")
            return None
        known = {field.name: field for field in fields(kind)}
        before = len(self.problems)
        for name in raw:
            if name not in known:
                self.complain(at + name, self._unknown(name, at, list(known)), show_value=False)
        values: dict[str, Any] = {}
        for name, field in known.items():
            table, many = _table(field)
            if table is not None and not many:
                values[name] = self.table(table, raw.get(name, {}), f"{at}{name}.")
            elif name in raw:
                self.sources.setdefault(at + name, str(self._path))
                values[name] = self._list(field, raw[name], at + name) if many else self._value(field.type, at + name)
            elif field.required:
                self._missing(at + name, field)
        return kind(**values) if len(self.problems) == before else None

    def _missing(self, key: str, field: FieldInfo) -> None:
        name = variable(key, field)
        self.complain(key, "is missing, and has no default; set it in the file" + (f" or by {name}" if name else ""))

    def _unknown(self, name: str, at: str, siblings: list[str]) -> str:
        other, which = (AgentConfig, "agent") if self._kind is TrackerConfig else (TrackerConfig, "tracker")
        if not at and name in {field.name for field in fields(other)}:
            return f"is a key of the {which}'s configuration, and this isn't read as one"
        return unknown_key(name, siblings, [key for key, _ in keys(self._kind)])

    def _list(self, field: FieldInfo, raw: object, key: str) -> tuple[Any, ...]:
        table, _ = _table(field)
        if not isinstance(raw, list):
            self.complain(key, f"must be a list of tables, [[{key}]]" if table else f"must be a list: [{as_toml(raw)}]")
            return ()
        if table is not None:
            return tuple(self.table(table, item, f"{key}[{index}].") for index, item in enumerate(raw))
        if not raw:
            self.complain(key, "must have at least one entry; leave the key out for the default")
        return tuple(self._value(get_args(field.type)[0], f"{key}[{index}]") for index in range(len(raw)))

    def _value(self, kind: Any, key: str) -> Any:
        raw = self._raw(key)
        options = get_args(kind)
        if raw == "" and NoneType in options:
            return None
        wanted = options[0] if NoneType in options else kind
        try:
            if wanted is Path:
                return self._path_value(raw, key)
            return msgspec.convert(raw, wanted, dec_hook=_parse)
        except msgspec.ValidationError as error:
            if get_origin(wanted) is Literal:
                message = f"must be one of {', '.join(map(as_toml, options))}{did_you_mean(str(raw), options)}"
            else:
                message = "must be true or false" if wanted is bool else str(error)
            self.complain(key, message, show_value=wanted is not Secret)

    def _path_value(self, raw: object, key: str) -> Path | None:
        """A path; relative ones start at the directory of the file that names them, others at the current one."""
        if not isinstance(raw, str) or not raw or "\0" in raw:
            self.complain(key, 'must be a path in quotes, for example "/etc/p2pdist/ca.pem"')
            return None
        in_file = self.sources[key] == str(self._path)
        try:
            return (self._directory if in_file else Path.cwd()) / Path(raw).expanduser()
        except RuntimeError as error:
            self.complain(key, f"names a home directory that isn't known: {error}")
            return None

    def _raw(self, key: str) -> Any:
        value: Any = self.root
        for step in re.findall(r"[^.\[\]]+", key):
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
                value = value[int(step)]
            else:
                return None
        return value


def _parse(kind: type[Any], raw: object) -> Any:
    """The value that `raw` stands for (msgspec's dec_hook)."""
    assert issubclass(kind, CheckedText | ByteCount | Seconds)
    if not isinstance(raw, str):
        if issubclass(kind, CheckedText):
            raise ValueError("must be a text in quotes")
        unit, example = ("size", "256MiB") if kind is ByteCount else ("duration", "30s")
        raise ValueError(f'a {unit} is a text with a unit, for example "{example}"')
    try:
        return kind.parse(raw)
    except InvalidInput as error:
        raise ValueError(str(error)) from error
