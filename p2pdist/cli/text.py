"""Durations, rates and foreign text as they are put on a terminal."""


def printable(text: str) -> str:
    """`text` without characters that could steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def format_duration(seconds: float) -> str:
    """A duration for people, in its two largest units: `3 h 12 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours, days = (int(seconds) // unit for unit in (60, 3600, 86400))
    if hours == 0:
        return f"{minutes} min {int(seconds) % 60} s"
    return f"{hours} h {minutes % 60} min" if days == 0 else f"{days} d {hours % 24} h"


def format_rate(bits_per_second: float) -> str:
    """A rate for people: `80.0 Mbit/s`."""
    for factor, unit in ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")):
        if bits_per_second >= factor:
            return f"{bits_per_second / factor:.1f} {unit}"
    return f"{bits_per_second:.0f} bit/s"
