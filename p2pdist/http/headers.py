"""Header fields as a handler sees them, and the one that takes arithmetic: Accept (RFC 9110, 5.3 and 12.5.1)."""

from collections.abc import Iterable, Iterator, Mapping


class Headers(Mapping[str, str]):
    """The header fields of one message: names without regard to case, several lines of one name merged with `, `.

    dockerd and the podman family send each Accept on a line of its own; merged they mean what they say.
    """

    __slots__ = ("_fields",)

    def __init__(self, lines: Iterable[tuple[str, str]] = ()) -> None:
        self._fields: dict[str, str] = {}
        for name, value in lines:
            key = name.lower()
            before = self._fields.get(key)
            self._fields[key] = value if before is None else f"{before}, {value}"

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return f"Headers({', '.join(sorted(self._fields))})"


def _quality(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def accepts(accept: str | None, media_type: str) -> bool:
    """Whether an Accept field lets `media_type` be sent; no field, or an empty one, accepts everything.

    The most specific range decides, so `*/*, text/plain;q=0` refuses text/plain (RFC 9110, 12.5.1).
    """
    if accept is None or not accept.strip():
        return True
    wanted = media_type.partition(";")[0].strip().lower()
    rank = {wanted: 3, f"{wanted.partition('/')[0]}/*": 2, "*/*": 1}
    best, accepted = 0, False
    for element in accept.split(","):
        media_range, *parameters = element.split(";")
        specificity = rank.get(media_range.strip().lower(), 0)
        if specificity > best:
            best, accepted = specificity, _quality(parameters) > 0
        elif specificity == best and specificity > 0:
            accepted = accepted or _quality(parameters) > 0
    return accepted
