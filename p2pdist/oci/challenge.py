"""Challenges of a `WWW-Authenticate` field (RFC 9110, 11.2 to 11.6.1). Pure: doesn't know how they are answered."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from p2pdist.core.errors import ProtocolError

_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_SEPARATOR = re.compile(r"[ \t]*(?:,[ \t]*)*")
_SCHEME = re.compile(rf"({_TOKEN})(?=[ \t]|,|\Z)[ \t]*")
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:({_TOKEN})|"((?:[^"\\]|\\.)*)")(?=[ \t]*(?:,|\Z))', re.DOTALL)
_TOKEN68 = re.compile(r"([A-Za-z0-9._~+/-]+=*)(?=[ \t]*(?:,|\Z))")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_QUOTED = re.compile(r'["\\]')
_RELAYED = ("realm", "service", "scope", "error")
_PRINTABLE = re.compile(r"[\x20-\x7e]+")
_MAX_RELAYED_LENGTH = 4096


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way in which a server wants to be convinced; scheme and parameter names are in lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    token68: str = ""

    def without(self, parameter: str) -> "Challenge":
        """The same without one of its parameters."""
        return replace(self, parameters={name: self.parameters[name] for name in self.parameters if name != parameter})

    def __str__(self) -> str:
        """The challenge as a field value has it; only for those without token68."""
        return f"{self.scheme.capitalize()} " + ",".join(
            f'{name}="{_QUOTED.sub(_escape, value)}"' for name, value in self.parameters.items()
        )


def parse_challenges(value: str) -> list[Challenge]:
    """The challenges in a field value, which may be several lines joined by commas; raises `ProtocolError`.

    Commas separate challenges as well as parameters: what reads as `name=value` belongs to the challenge before it,
    anything else starts a new one.
    """
    challenges: list[Challenge] = []
    parameters: dict[str, str] = {}
    position = _skip_separators(value, 0)
    while position < len(value):
        if challenges and (parameter := _PARAMETER.match(value, position)):
            _add(parameters, parameter)
            position = parameter.end()
        elif scheme := _SCHEME.match(value, position):
            parameters, position = {}, scheme.end()
            token68 = _TOKEN68.match(value, position) if position > scheme.end(1) else None
            challenges.append(Challenge(scheme[1].lower(), parameters, token68[1] if token68 else ""))
            if token68:
                position = token68.end()
            elif parameter := _PARAMETER.match(value, position):
                _add(parameters, parameter)
                position = parameter.end()
        else:
            raise ProtocolError(f"the WWW-Authenticate line can't be read at {value[position : position + 40]!r}")
        position = _skip_separators(value, position)
    return challenges


def _add(parameters: dict[str, str], match: re.Match[str]) -> None:
    name = match[1].lower()
    if name in parameters:
        raise ProtocolError(f"a challenge in the WWW-Authenticate line has {name[:40]!r} twice")
    parameters[name] = match[2] if match[2] is not None else _ESCAPED.sub(r"\1", match[3])


def _skip_separators(value: str, position: int) -> int:
    match = _SEPARATOR.match(value, position)
    return match.end() if match else position


def relayed(value: str) -> Challenge | None:
    """The Bearer challenge in a field value as a caller may be sent it; None when there is none that can be.

    Only what the token flow needs is kept, and only what fits into a field (distribution spec, "Token Authentication").
    Basic isn't relayed, because a caller would answer it with a password. Raises `ProtocolError` for no challenge.
    """
    for challenge in parse_challenges(value):
        parameters = {name: challenge.parameters[name] for name in _RELAYED if challenge.parameters.get(name)}
        fits = all(_PRINTABLE.fullmatch(text) for text in parameters.values())
        if challenge.scheme == "bearer" and "realm" in parameters and fits:
            kept = Challenge("bearer", parameters)
            return kept if len(str(kept)) <= _MAX_RELAYED_LENGTH else None
    return None


def _escape(match: re.Match[str]) -> str:
    return "\\" + match[0]
