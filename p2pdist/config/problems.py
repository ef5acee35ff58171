"""What is wrong with a configuration, said so that the place and the remedy are clear."""

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from p2pdist.core.errors import InvalidInput

_SHOWN_LENGTH = 120


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding: where the value came from, the dotted key, the value as TOML (None: there is none), a sentence."""

    where: str
    key: str
    value: str | None
    message: str

    def __str__(self) -> str:
        subject = self.key
        if self.value is not None:
            shown = self.value if len(self.value) <= _SHOWN_LENGTH else f"{self.value[:_SHOWN_LENGTH]}…"
            subject = f"{self.key} = {shown}"
        return ": ".join(filter(None, (self.where, subject, self.message)))


class ConfigError(InvalidInput):
    """A configuration that can't be used; one line a problem, all of them at once."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def as_toml(value: Any) -> str:
    """`value` as it would stand in a file; None as the empty text that means it, tables not at all."""
    match value:
        case None:
            return '""'
        case bool():
            return "true" if value else "false"
        case dict():
            return "{…}"
        case list() | tuple():
            return f"[{', '.join(map(as_toml, value))}]"
        case _ if type(value) in (int, float):
            return repr(value)
        case _:
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def did_you_mean(text: str, candidates: Iterable[str]) -> str:
    """A clause that names the candidate closest to `text`, or nothing when none is close."""
    close = difflib.get_close_matches(text.replace("-", "_").lower(), list(candidates), n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def unknown_key(name: str, siblings: Sequence[str], elsewhere: Iterable[str]) -> str:
    """The sentence about a key that its table doesn't have; `elsewhere`: dotted keys of the whole schema."""
    homes = [key for key in elsewhere if key.rpartition(".")[2] == name]
    if homes:
        table = homes[0].rpartition(".")[0]
        return f"there is no such key here; it belongs {f'into [{table}]' if table else 'above the first [table]'}"
    return "there is no such key" + (did_you_mean(name, siblings) or f"; there are: {', '.join(siblings)}")
