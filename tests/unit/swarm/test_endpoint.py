import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.core.errors import InvalidInput
from p2pdist.swarm import Endpoint


@given(st.ip_addresses(), st.integers(0, 65535))
def test_it_reads_what_it_prints(address: object, port: int) -> None:
    endpoint = Endpoint(str(address), port)
    assert Endpoint.parse(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("192.0.2.1:7502", "192.0.2.1", 7502),
        ("0.0.0.0:0", "0.0.0.0", 0),
        ("[2001:DB8:0::1]:80", "2001:db8::1", 80),
        ("[::ffff:192.0.2.1]:1", "::ffff:192.0.2.1", 1),
    ],
)
def test_one_spelling_for_each(text: str, address: str, port: int) -> None:
    endpoint = Endpoint.parse(text)
    assert endpoint == Endpoint(address, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "192.0.2.1",
        "192.0.2.1:",
        "192.0.2.1:65536",
        "192.0.2.1:-1",
        "192.0.2.1:７",
        "192.0.2.256:1",
        "192.0.2:1",
        "[192.0.2.1]:x",
        "localhost:7502",
        "2001:db8::1:7502",
        "[2001:db8::1]",
        "[2001:db8::1%eth0]:1",
        "[2001:db8::g]:1",
        "192.0.2.1:1,192.0.2.2:2",
    ],
)
def test_nothing_else_is_an_endpoint(text: str) -> None:
    with pytest.raises(InvalidInput):
        Endpoint.parse(text)


@given(st.text(alphabet="0123456789abcdef.:[]%-", max_size=30))
def test_noise_is_read_or_refused(text: str) -> None:
    try:
        endpoint = Endpoint.parse(text)
    except InvalidInput:
        return
    assert Endpoint.parse(str(endpoint)) == endpoint
