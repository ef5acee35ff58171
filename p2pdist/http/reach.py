"""Which addresses only this host or its own networks reach. Pure.

A registry on the internet that could send us there, by a redirect or a token realm, would have us ask in its name what
it can't reach itself: a cloud's metadata service, an admin address (server-side request forgery). The addresses are
judged when a connection is made, not names beforehand, since a name may mean something else a moment later.
"""

import ipaddress

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_private(text: str) -> bool:
    """Whether the IP address `text` isn't one of the internet: loopback, private, link-local, shared, multicast, …

    IPv6 addresses that stand for an IPv4 address (mapped, NAT64, 6to4, Teredo) are what that one is. Text that isn't an
    IP address is private: nothing is known of it.
    """
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return True
    return any(not one.is_global or one.is_multicast for one in (address, *_embedded(address)))


def names_private(host: str) -> bool:
    """Whether the host of a URL says by itself that it is private; of most names only their addresses tell."""
    name = host.rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    # What ends in a number is meant as an address, in whatever notation (WHATWG URL, 3.5).
    return (":" in name or name.rpartition(".")[2][:1].isdigit()) and is_private(name)


def _embedded(address: Address) -> list[ipaddress.IPv4Address]:
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    return [one for one in found if one is not None]
