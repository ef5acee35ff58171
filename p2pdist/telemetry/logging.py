"""Structured logging on top of the standard library's: an event is a name and fields, and one line.

    log = get_logger(__name__)
    log.info("pull_finished", digest=digest, seconds=1.2)

as text:  2025-01-31T12:00:00.123Z info agent.pulls pull_finished digest=sha256:ab… seconds=1.2
as JSON:  {"time": "…", "level": "info", "logger": "agent.pulls", "event": "pull_finished", "digest": "sha256:ab…", …}

Nothing that a field holds can forge a second line or a second field, and what looks like a credential isn't written:
fields whose name says so, join tokens, and the user part of URLs. Third parties' records take the same way out.
"""

import json
import logging
import math
import re
import sys
import traceback
from collections.abc import Mapping, Set
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

from p2pdist.core.errors import InvalidInput

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["text", "json"]

LEVELS: Final[dict[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
FORMATS: Final = ("text", "json")
_ROOT: Final = "p2pdist"
_HIDDEN: Final = "***"
_SECRET_NAME = re.compile("token|password|secret|authorization", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"p2pjoin_[A-Za-z0-9_-]+|(?<=://)[^/\s@]+(?=@)")
_BARE = re.compile(r"[^\s\"=\\]+")
_RESERVED: Final = frozenset({"time", "level", "logger", "event"})
_MAX_VALUE_CHARACTERS: Final = 16 * 1024
_MAX_DEPTH: Final = 4


class Logger:
    """Logs events under one name; what the level leaves out costs a comparison."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, /, **fields: object) -> None:
        """What only somebody who looks for a bug wants to see."""
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """What happened, in the normal course."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """What works, but shouldn't stay so."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """What failed, for somebody to look at."""
        self._log(logging.ERROR, event, fields)

    def exception(self, event: str, error: BaseException, /, **fields: object) -> None:
        """An error that nobody expected, with its traceback: for the three places that catch everything."""
        if self._logger.isEnabledFor(logging.ERROR):
            trace = "".join(traceback.format_exception(error))
            self._log(logging.ERROR, event, {**fields, "error": error, "traceback": trace})

    def _log(self, level: int, event: str, fields: dict[str, object]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", event, extra={"fields": fields})


def get_logger(name: str) -> Logger:
    """The logger of a module: pass `__name__`, or a name below `p2pdist`, such as `agent.pulls`."""
    full = name if name == _ROOT or name.startswith(f"{_ROOT}.") else f"{_ROOT}.{name}"
    return Logger(logging.getLogger(full))


def setup(level: str = "info", format: str = "text", stream: TextIO | None = None) -> None:
    """Write everything from `level` up to `stream` (stderr by default); others' records only from warning up.

    Once per process, from the command line; a second call replaces the first. Raises `InvalidInput`.
    """
    if level not in LEVELS:
        raise InvalidInput(f"log level {level!r} isn't one of {', '.join(LEVELS)}")
    if format not in FORMATS:
        raise InvalidInput(f"log format {format!r} isn't one of {', '.join(FORMATS)}")
    handler = _Handler(sys.stderr if stream is None else stream)
    handler.setFormatter(_TextFormatter() if format == "text" else _JsonFormatter())
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(logging.WARNING, LEVELS[level]))
    logging.getLogger(_ROOT).setLevel(LEVELS[level])


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that a second `setup` finds it."""


def _event(record: logging.LogRecord) -> tuple[str, str, str, str, dict[str, object]]:
    """Time, level, logger, event and fields of a record, ours or not."""
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    fields: dict[str, object] = dict(getattr(record, "fields", {}))
    if record.exc_info and record.exc_info[1] is not None:
        fields["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
    plain = {f"{name}_" if name in _RESERVED else name: _plain(value, name) for name, value in fields.items()}
    name = record.name.removeprefix(f"{_ROOT}.")
    return time, record.levelname.lower(), name, _scrub(record.getMessage()), plain


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time, level, logger, event, fields = _event(record)
        words = [
            time,
            level,
            logger,
            _word(event),
            *(f"{_word(name)}={_text(value)}" for name, value in fields.items()),
        ]
        return " ".join(words)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time, level, logger, event, fields = _event(record)
        return json.dumps({"time": time, "level": level, "logger": logger, "event": event, **fields})


def _plain(value: object, name: str = "", depth: int = 0) -> Any:
    """`value` as JSON knows it, without what mustn't be written."""
    if _SECRET_NAME.search(name):
        return _HIDDEN
    match value:
        case None | bool() | int():
            return value
        case float():
            return float(f"{value:.6g}") if math.isfinite(value) else str(value)
        case str():
            return _scrub(value)
        case bytes() | bytearray() | memoryview():
            return _scrub(value.hex())
        case BaseException():
            return _scrub(f"{type(value).__name__}: {value}")
        case Mapping() if depth < _MAX_DEPTH:
            return {str(key): _plain(item, str(key), depth + 1) for key, item in value.items()}
        case list() | tuple() | Set() if depth < _MAX_DEPTH:
            return [_plain(item, "", depth + 1) for item in value]
        case _:
            return _scrub(str(value))


def _scrub(text: str) -> str:
    if len(text) > _MAX_VALUE_CHARACTERS:
        text = f"{text[:_MAX_VALUE_CHARACTERS]}…"
    return _SECRET_VALUE.sub(_HIDDEN, text)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return _word(value)
    if isinstance(value, dict | list):
        return _word(json.dumps(value, ensure_ascii=False))
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _word(text: str) -> str:
    """`text` as it is when it can't be misread, else as a JSON string, with everything unprintable escaped."""
    if text.isprintable() and _BARE.fullmatch(text):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    if quoted.isprintable():
        return quoted
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in quoted)
