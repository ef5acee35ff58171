import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.http.reach import is_private, names_private


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:c0a8:101::1",
        "not an address", "",
    ],
)  # fmt: skip
def test_addresses_that_only_we_reach(address: str) -> None:
    assert is_private(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "172.32.0.1", "2001:4860:4860::8888", "64:ff9b::808:808", "2002:808:808::1"]
)
def test_addresses_of_the_internet(address: str) -> None:
    assert not is_private(address)


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "localhost.", "127.0.0.1", "2130706433", "0x7f.1", "::1"])
def test_hosts_that_say_that_they_are_private(host: str) -> None:
    assert names_private(host)


@pytest.mark.parametrize("host", ["ghcr.io", "8.8.8.8", "2001:4860:4860::8888", "10.example", "localhost.example"])
def test_hosts_that_dont(host: str) -> None:
    assert not names_private(host)


@given(st.ip_addresses(network="10.0.0.0/8") | st.ip_addresses(network="fe80::/10"), st.integers(0, 2**32 - 1))
def test_every_address_of_a_private_network_is_private(address: object, embedded: int) -> None:
    assert is_private(str(address))
    mapped = f"::ffff:{embedded >> 16:x}:{embedded & 0xFFFF:x}"
    assert is_private(mapped) == is_private(".".join(str(byte) for byte in embedded.to_bytes(4, "big")))
