"""Sizes, rates and durations as people write them: `256MiB`, `80 Mbit/s`, `30s`."""

import re

from p2pdist.core.errors import InvalidInput

_SIZES = {"": 1, "B": 1} | {
    prefix + suffix: base**power
    for power, prefix in enumerate("KMGT", start=1)
    for suffix, base in (("iB", 1024), ("B", 1000))
}
_SIZES |= {"kB": 1000}
_RATES = {"bit/s": 1, "kbit/s": 10**3, "Mbit/s": 10**6, "Gbit/s": 10**9}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_FORM = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([A-Za-z/]*)\s*")


def _split(text: str, units: dict[str, int] | dict[str, float], kind: str, example: str) -> float:
    match = _FORM.fullmatch(text)
    if match is None or match[2] not in units:
        raise InvalidInput(
            f"{text!r} isn't a {kind}; write for example {example}; units: {', '.join(filter(None, units))}"
        )
    return float(match[1]) * units[match[2]]


def parse_size(text: str) -> int:
    """Bytes: `4MiB`, `1.5 GB`, `65536`."""
    return int(_split(text, _SIZES, "size", "256MiB"))


def parse_rate(text: str) -> int:
    """Bits per second: `80 Mbit/s`."""
    return int(_split(text, _RATES, "rate", "80 Mbit/s"))


def parse_duration(text: str) -> float:
    """Seconds: `500ms`, `30s`, `24h`."""
    return _split(text, _SECONDS, "duration", "30s")


def format_size(size_bytes: float) -> str:
    """A size for people, in binary units and three digits: `1.50 GiB`."""
    value, unit = float(size_bytes), "B"
    for bigger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, bigger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}" if value >= 100 else f"{value:.2f} {unit}"
