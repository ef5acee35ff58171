"""Scenario files: which hosts behind which links want which image when, and what happens meanwhile.

Owns the form of the TOML files (documented in simulations/README.md) and their checks; what is wrong is an
`InvalidInput` that names file and key. Pure.
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import msgspec

from p2pdist.config.values import CheckedText, Seconds, Zone
from p2pdist.core.errors import InvalidInput
from p2pdist.core.units import parse_duration, parse_rate, parse_size
from simulations.network import Link

TRACKER = "tracker"
ORIGIN = "origin"
_MAX_HOSTS = 1000
_MAX_FILE_BYTES = 1 << 20
_PLACE = re.compile(r"\$(?:\.(?P<key>.*))?")
_SHARE = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,6})?%")
_MANY = re.compile(r"\s*([0-9]{1,4})\s*x\s*(.+)")

Count = Annotated[int, msgspec.Meta(ge=1, le=_MAX_HOSTS)]


class Rate(int):
    """Bits per second, written with a unit: `40 Mbit/s`."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The rate that `text` names; raises `InvalidInput`."""
        rate = cls(parse_rate(text))
        if rate <= 0:
            raise InvalidInput("a link needs a rate above 0; leave the key out for one without limit")
        return rate


class Layers(CheckedText):
    """So many layers of one size: `50 x 1MB`, or just `64MiB`."""

    @classmethod
    def _checked(cls, text: str) -> str:
        count, size_bytes = cls._split(text)
        if count < 1 or size_bytes < 1:
            raise InvalidInput("there must be at least one layer, and a byte in it")
        return text

    @staticmethod
    def _split(text: str) -> tuple[int, int]:
        many = _MANY.fullmatch(text)
        return (int(many[1]), parse_size(many[2])) if many else (1, parse_size(text))

    @property
    def sizes(self) -> list[int]:
        """Bytes of each layer."""
        count, size_bytes = self._split(self)
        return [size_bytes] * count


class Moment(CheckedText):
    """A time after the first request: `3s`, or `30%` of the time that the bound expects for a whole pull."""

    @classmethod
    def _checked(cls, text: str) -> str:
        if not text.endswith("%"):
            parse_duration(text)
        elif _SHARE.fullmatch(text) is None:
            raise InvalidInput(f"{text!r} isn't a share; write for example 30%")
        return text

    @property
    def is_share(self) -> bool:
        """Whether it needs an expected time."""
        return self.endswith("%")

    def after(self, expected_seconds: float) -> float:
        """Seconds after the first request, when a whole pull is expected to take so long."""
        if self.is_share:
            return float(self.removesuffix("%")) / 100 * expected_seconds
        return parse_duration(self)


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of a scenario file."""


class _Linked(_Table, frozen=True, kw_only=True):
    """What has a link: `link` for both directions, `up` and `down` for one; without limit where nothing is said."""

    link: Rate | None = None
    up: Rate | None = None
    down: Rate | None = None
    zone: Zone | None = None

    @property
    def shape(self) -> Link:
        """The rates of both directions."""
        return Link(self.up or self.link, self.down or self.link)


class Group(_Linked, frozen=True, kw_only=True):
    """Hosts that are alike; they are called `name-1`, `name-2` and so on."""

    count: Count
    name: Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9]{0,15}$")] = "host"
    holds: bool = False
    """They have the image before the clock starts, and aren't measured."""
    at: Moment | None = None
    """They ask at this time, outside of the arrival pattern."""

    @property
    def hosts(self) -> list[str]:
        """The names of its hosts."""
        return [f"{self.name}-{number}" for number in range(1, self.count + 1)]


class Server(_Linked, frozen=True, kw_only=True):
    """The host of the tracker (of whatever seeds), or of the origin."""


class Arrival(_Table, frozen=True, kw_only=True):
    """When the hosts ask; a batch asks when the one before it has finished."""

    pattern: Literal["at-once", "batches", "one-by-one", "poisson"] = "at-once"
    batch: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.2
    """Share of the hosts in one batch."""
    per_second: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    """Mean arrivals of the Poisson process."""


class Event(_Table, frozen=True, kw_only=True):
    """Something that happens to a host's daemon, to the tracker or to the origin."""

    at: Moment
    target: str
    action: Literal["kill", "stop", "continue", "restart"]


class Client(_Table, frozen=True, kw_only=True):
    """How a host's client pulls."""

    parallel: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    """Blobs at once."""
    check: Literal["streaming", "afterwards"] = "streaming"
    """When sha256 is taken: while the bytes arrive, or from memory when the clock has stopped."""
    manifest: bool = True
    """Whether it asks for the image's manifest first, as daemons do."""


class Scenario(_Table, frozen=True, kw_only=True):
    """What a scenario file says."""

    description: str
    layers: Annotated[tuple[Layers, ...], msgspec.Meta(min_length=1)]
    hosts: Annotated[tuple[Group, ...], msgspec.Meta(min_length=1)]
    start: Literal["cold", "warm"] = "cold"
    tracker: Server = Server()
    origin: Server = Server()
    zone_link: Rate | None = None
    """The rate, each way, of the link that joins any other zone to the first one."""
    round_trip: Seconds = Seconds(0)
    """What packets between two hosts need there and back, besides their links."""
    give_up: Seconds = Seconds(600)
    arrival: Arrival = Arrival()
    event: tuple[Event, ...] = ()
    client: Client = Client()
    name: str = ""
    """Not a key: the name of the file."""

    @property
    def layer_sizes(self) -> list[int]:
        """The size of each layer in bytes."""
        return [size for layers in self.layers for size in layers.sizes]

    @property
    def image_bytes(self) -> int:
        """Bytes of all layers."""
        return sum(self.layer_sizes)

    @property
    def zones(self) -> list[str]:
        """All zones, the first one being where everything stands that names none."""
        named = [place.zone for place in (self.origin, self.tracker, *self.hosts) if place.zone is not None]
        return list(dict.fromkeys(str(zone) for zone in named)) or [""]

    def places(self) -> Iterator[tuple[str, Server | Group]]:
        """Every host of the network, by name."""
        yield ORIGIN, self.origin
        yield TRACKER, self.tracker
        for group in self.hosts:
            for host in group.hosts:
                yield host, group

    def zone_of(self, place: Server | Group) -> str:
        """The zone where a host stands."""
        return str(place.zone) if place.zone is not None else self.zones[0]

    def group_of(self, host: str) -> Group:
        """The group that a host belongs to."""
        return next(group for group in self.hosts if group.name == host.rsplit("-", 1)[0])

    @property
    def holders(self) -> list[str]:
        """Hosts that have the image already."""
        return [host for group in self.hosts if group.holds for host in group.hosts]

    @property
    def pullers(self) -> list[str]:
        """Hosts that pull it, in the order in which they stand in the file."""
        return [host for group in self.hosts if not group.holds for host in group.hosts]

    @property
    def disturbed(self) -> set[str]:
        """Hosts that events befall: they aren't among those that are measured."""
        return {event.target for event in self.event} - {TRACKER, ORIGIN}


def load(path: Path) -> Scenario:
    """The scenario in the file at `path`; raises `InvalidInput` naming file and key."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path}: can't be read: {error.strerror}") from error
    if len(data) > _MAX_FILE_BYTES:
        raise InvalidInput(f"{path}: has more than {_MAX_FILE_BYTES} bytes; is it a scenario?")
    try:
        return parse(data.decode(), path.stem)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path}: isn't UTF-8, as TOML must be") from error
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error


def parse(text: str, name: str) -> Scenario:
    """The scenario that a TOML document describes; raises `InvalidInput` naming the key."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"isn't TOML: {error}") from error
    if "name" in document:
        raise InvalidInput("name: there is no such key; a scenario is called as its file")
    try:
        scenario = msgspec.convert(document | {"name": name}, Scenario, dec_hook=_parse_value)
    except msgspec.ValidationError as error:
        raise InvalidInput(_said(error)) from error
    _check(scenario)
    return scenario


def _parse_value(kind: type[Any], raw: object) -> Any:
    """The value that a text stands for (msgspec's dec_hook)."""
    assert issubclass(kind, Rate | CheckedText | Seconds)
    if not isinstance(raw, str):
        raise ValueError(f"{raw!r} must be a text in quotes, with its unit")
    try:
        return kind.parse(raw)
    except InvalidInput as error:
        raise ValueError(str(error)) from error


def _said(error: msgspec.ValidationError) -> str:
    message, _, place = str(error).rpartition(" - at `")
    match = _PLACE.fullmatch(place.removesuffix("`")) if message else None
    return f"{match['key']}: {message}" if match and match["key"] else message or str(error)


def _check(scenario: Scenario) -> None:
    """What the types can't say; raises `InvalidInput`."""
    names = [group.name for group in scenario.hosts]
    for index, name in enumerate(names):
        if name in names[:index] or name in (TRACKER, ORIGIN):
            raise InvalidInput(f"hosts[{index}].name: {name!r} is taken; give each group a name of its own")
    for index, group in enumerate(scenario.hosts):
        if group.holds and group.at is not None:
            raise InvalidInput(f"hosts[{index}].at: a group that holds the image doesn't ask for it")
        if group.at is not None and scenario.arrival.pattern in ("batches", "one-by-one"):
            raise InvalidInput(f"hosts[{index}].at: batches follow each other without a clock; take at-once or poisson")
    if all(group.holds or group.at is not None for group in scenario.hosts):
        raise InvalidInput("hosts: somebody must pull at once, without `holds` and without `at`")
    if len(list(scenario.places())) > _MAX_HOSTS:
        raise InvalidInput(f"hosts: more than {_MAX_HOSTS} hosts; take the model for those")
    known = {name for name, _ in scenario.places()}
    for index, event in enumerate(scenario.event):
        if event.target not in known:
            raise InvalidInput(f"event[{index}].target: there is no {event.target!r}; there are e.g. {min(known)}")
    if len(scenario.zones) == 1 and scenario.zone_link is not None:
        raise InvalidInput("zone_link: there is only one zone; let groups name others")
    if len(scenario.zones) > 1 and scenario.round_trip:
        raise InvalidInput("round_trip: hosts of several zones can't have one; leave one of both out")
    if not set(scenario.pullers) - scenario.disturbed:
        raise InvalidInput("event: something befalls every host that pulls; one at least must be left to measure")
    _check_moments(scenario)


def _check_moments(scenario: Scenario) -> None:
    """A share of the expected time needs a bound, and so a limit that every byte must pass."""
    moments = [(f"event[{index}].at", event.at) for index, event in enumerate(scenario.event)]
    moments += [(f"hosts[{index}].at", group.at) for index, group in enumerate(scenario.hosts) if group.at]
    shaped = all(group.shape.down_bps is not None for group in scenario.hosts if not group.holds)
    for key, moment in moments:
        if moment.is_share and not shaped:
            raise InvalidInput(f"{key}: without limits on links no time is expected; write seconds")
