import socket
from typing import NoReturn

import pytest
import trio
import trio.testing

from p2pdist.core.errors import InvalidInput
from p2pdist.http.listeners import CannotListen, open_listeners, split_address


class NoNames(trio.abc.HostnameResolver):
    """A DNS in which nothing is registered."""

    async def getaddrinfo(self, *_arguments: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, *_arguments: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:5000", ("127.0.0.1", 5000)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_addresses(address: str, expected: tuple[str, int]) -> None:
    assert split_address(address) == expected


@pytest.mark.parametrize(
    "address",
    [
        *("", ":", ":80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1", "h:000080"),
        *("h:٣", "::1:80", "[]:1", "[host]:1"),
    ],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(InvalidInput):
        split_address(address)


async def test_listens_where_it_was_told() -> None:
    for address in ("127.0.0.1:0", "[::1]:0", "localhost:0"):
        listeners = await open_listeners(address)
        assert listeners
        for listener in listeners:
            stream = await trio.testing.open_stream_to_socket_listener(listener)
            await stream.aclose()
            await listener.aclose()


async def test_a_port_in_use_is_named() -> None:
    (listener,) = await open_listeners("127.0.0.1:0")
    async with listener:
        address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        with pytest.raises(CannotListen, match=rf"{address}.*in use"):
            await open_listeners(address)


async def test_an_address_of_another_host_and_a_name_that_doesnt_exist() -> None:
    with pytest.raises(CannotListen, match="doesn't have the address"):
        await open_listeners("203.0.113.7:0")
    trio.socket.set_custom_hostname_resolver(NoNames())
    with pytest.raises(CannotListen, match="isn't known"):
        await open_listeners("no-such-host.invalid:0")


async def test_a_name_that_dns_cant_carry() -> None:
    with pytest.raises(InvalidInput, match="isn't a host name"):
        await open_listeners(f"{'x' * 64}.test:0")
