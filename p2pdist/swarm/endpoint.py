"""Where a peer listens: an IP address and a port, strictly parsed."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Self

from p2pdist.core.errors import InvalidInput

_FORM = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<four>[0-9.]+)):(?P<port>[0-9]{1,5})")


def canonical_address(text: str) -> str:
    """`text`, an IPv4 or IPv6 address, in the one form that libtorrent prints too; raises `InvalidInput`."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise InvalidInput(f"{text[:80]!r} isn't an IP address") from None


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """An IP address (never a name: peers are told apart, and let in, by address) and a TCP port."""

    address: str
    port: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", canonical_address(self.address))
        if not 0 <= self.port <= 65535:
            raise InvalidInput(f"port {self.port} of {self.address} is outside 0..65535")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The endpoint written as `192.0.2.1:7502` or `[2001:db8::1]:7502`; raises `InvalidInput`."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise InvalidInput(
                f"{text[:80]!r} isn't an IP address and a port; write 192.0.2.1:7502 or [2001:db8::1]:7502"
            )
        return cls(match["six"] or match["four"], int(match["port"]))

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"
