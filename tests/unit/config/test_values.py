"""Single values: what is taken, what is refused and in which words."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2pdist.config.addresses import Address, OriginUrl, PeerAddress, RegistryHost, is_loopback
from p2pdist.config.values import ByteCount, CertificateHash, CheckedText, HelperName, NodeName, Seconds, Secret, Zone
from p2pdist.core.errors import InvalidInput

_TEXT_TYPES: list[type[CheckedText]] = [
    Address,
    PeerAddress,
    RegistryHost,
    OriginUrl,
    NodeName,
    Zone,
    CertificateHash,
    HelperName,
    Secret,
]


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:7500", "127.0.0.1", 7500),
        ("[::1]:0", "::1", 0),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        ("localhost:80", "localhost", 80),
        ("tracker.example.:65535", "tracker.example.", 65535),
    ],
)
def test_an_address_knows_its_host_and_port(text: str, host: str, port: int) -> None:
    address = Address(text)
    assert (address, address.host, address.port) == (text, host, port)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("127.0.0.1", "needs a host and a port"),
        (":7500", "needs a host and a port"),
        ("host:", "needs a host and a port"),
        ("host:http", "needs a host and a port"),
        ("host:٣", "needs a host and a port"),
        ("host:65536", "outside 0..65535"),
        ("host:" + "9" * 5000, "outside 0..65535"),
        ("http://host:80", "without http://"),
        ("::1:7500", "in brackets"),
        ("[::g]:7500", "isn't an IP address"),
        ("256.0.0.1:7500", "isn't an IP address"),
        ("-host:7500", "isn't a host name"),
        ("a b:7500", "isn't a host name"),
    ],
)
def test_a_bad_address_says_why(text: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        Address(text)


def test_only_listeners_may_leave_the_port_open() -> None:
    with pytest.raises(InvalidInput, match=r"outside 1\.\.65535"):
        PeerAddress("host:0")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:7500", True),
        ("127.9.9.9:0", True),
        ("[::1]:7500", True),
        ("localhost:7500", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0:7500", False),
        ("[::]:7500", False),
        ("10.0.0.1:7500", False),
        ("localhost.evil.example:7500", False),
        ("127.0.0.1.evil.example:7500", False),
    ],
)
def test_loopback(text: str, expected: bool) -> None:
    assert is_loopback(text) is expected


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("docker.io", "https://registry-1.docker.io"),
        ("ghcr.io", "https://ghcr.io"),
        ("localhost", "https://localhost"),
        ("registry:5000", "https://registry:5000"),
        ("[::1]:5000", "https://[::1]:5000"),
        ("[::1]", "https://[::1]"),
    ],
)
def test_a_registry_has_a_default_origin(name: str, origin: str) -> None:
    assert RegistryHost(name).default_origin == origin


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("https://ghcr.io", "without scheme"),
        ("ghcr.io/library", "without scheme and path"),
        ("GHCR.io", '"ghcr.io"'),
        ("library", "has a dot or a port"),
        ("registry-1.docker.io", '"docker.io"'),
        ("host:0", "outside 1"),
        ("ghcr..io", "isn't a host name"),
    ],
)
def test_a_bad_registry_name_says_why(text: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        RegistryHost(text)


@pytest.mark.parametrize("text", ["http://127.0.0.1:5000", "https://[::1]:5000", "https://harbor.example/proxy/hub"])
def test_origins(text: str) -> None:
    assert OriginUrl(text) == text
    assert OriginUrl(text + "//") == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("registry.example", "http or https"),
        ("ftp://registry.example", "http or https"),
        ("https://", "no host"),
        ("https://user:secret@registry.example", "credentials_file or credential_helper"),
        ("https://registry.example?ns=x", "neither query nor fragment"),
        ("https://registry.example#", "neither query nor fragment"),
        ("https://registry.example:0", "port 0"),
        ("https://registry.example:x", "isn't a URL"),
        ("https://[::1", "isn't a URL"),
        ("https://re gistry.example", "no blanks"),
        ("https://registry.example/v2/", "leave /v2 away"),
        ("https://a..b", "isn't a host name"),
    ],
)
def test_a_bad_origin_says_why(text: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        OriginUrl(text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Zone, "a/b/c/d"),
        (Zone, "a//b"),
        (Zone, "eu 1"),
        (NodeName, "web 12"),
        (NodeName, "a" * 254),
        (CertificateHash, "sha512:" + "0" * 128),
        (CertificateHash, "0" * 64),
        (HelperName, "docker-credential-ecr-login"),
        (HelperName, "/bin/helper"),
        (Secret, "one two"),
        (Secret, "one\n"),
    ],
)
def test_refused(kind: type[CheckedText], text: str) -> None:
    with pytest.raises(InvalidInput):
        kind(text)


def test_a_secret_hides_in_whatever_holds_it() -> None:
    assert "s3cret" not in repr([Secret("s3cret")])


@given(st.sampled_from(_TEXT_TYPES), st.text() | st.text("0123456789.:[]/@?#%-abcv", max_size=40))
def test_any_text_is_taken_or_refused(kind: type[CheckedText], text: str) -> None:
    try:
        value = kind.parse(text)
    except InvalidInput:
        return
    assert kind.parse(value) == value


@given(st.integers(0, 2**50))
def test_sizes_read_back(size_bytes: int) -> None:
    assert ByteCount.parse(str(ByteCount(size_bytes))) == size_bytes


@given(st.integers(0, 10**9))
def test_durations_read_back(milliseconds: int) -> None:
    assert Seconds.parse(str(Seconds(milliseconds / 1000))) == pytest.approx(milliseconds / 1000)


@given(st.text() | st.from_regex(r"[0-9]{1,20}(\.[0-9]+)? ?(TiB|B|s|d|ms)?", fullmatch=True))
@example("9" * 400 + "TiB")
def test_any_number_is_taken_or_refused(text: str) -> None:
    for kind in (ByteCount, Seconds):
        try:
            value = kind.parse(text)
        except InvalidInput:
            continue
        assert value >= 0
