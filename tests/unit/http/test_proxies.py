import pytest

from p2pdist.core.errors import InvalidInput
from p2pdist.http.proxies import Proxies, ProxyServer
from p2pdist.http.url import Url


def uses_proxy(url: str, no_proxy: str) -> bool:
    proxies = Proxies.from_environment({"HTTPS_PROXY": "http://p:1", "http_proxy": "p:2", "NO_PROXY": no_proxy})
    return proxies.for_url(Url.parse(url)) is not None


@pytest.mark.parametrize(
    ("url", "no_proxy", "expected"),
    [
        ("https://a.example.com/", "", True),
        ("https://a.example.com/", "example.com", False),
        ("https://example.com/", "Example.com", False),
        ("https://notexample.com/", "example.com", True),
        ("https://example.com/", ".example.com", True),
        ("https://a.example.com/", ".example.com", False),
        ("https://a.example.com/", "*.example.com", False),
        ("https://a.example.com./", "example.com", False),
        ("https://a.example.com/", " x.org , example.com ,", False),
        ("https://a.example.com/", "*", False),
        ("https://a.example.com/", "example.com:443", False),
        ("https://a.example.com/", "example.com:444", True),
        ("https://10.1.2.3/", "10.1.0.0/16", False),
        ("https://10.2.2.3/", "10.1.0.0/16", True),
        ("https://10.1.2.3/", "10.1.2.3", False),
        ("https://10.1.2.3:5000/", "10.1.2.3:5000", False),
        ("https://10.1.2.3:5000/", "10.1.2.3:5001", True),
        ("https://110.1.2.3/", "10.1.2.3", True),
        ("https://[fd00::1]/", "fd00::/8", False),
        ("https://[fd00::1]/", "fd00:0::1", False),
        ("https://[fd00::1]:5000/", "[fd00::1]:5000", False),
        ("https://[fd00::1]:5000/", "[fd00::1]:1", True),
        ("https://[fd00::1]/", "[fd00::1]", False),
        ("https://[fe00::1]/", "fd00::/8", True),
        ("https://10.1.2.3/", "fd00::/8,nonsense/x", True),
        ("https://example.com/", "10.0.0.0/8", True),
        ("http://localhost:5000/", "", False),
        ("http://127.0.0.1:5000/", "", False),
        ("http://127.9.9.9/", "", False),
        ("http://[::1]/", "", False),
    ],
)
def test_no_proxy_rules(url: str, no_proxy: str, expected: bool) -> None:
    assert uses_proxy(url, no_proxy) is expected


def test_each_scheme_has_its_variable_and_lower_case_goes_first() -> None:
    proxies = Proxies.from_environment({"HTTP_PROXY": "http://a:1", "http_proxy": "http://b:2", "HTTPS_PROXY": "c"})
    assert proxies.for_url(Url.parse("http://x/")) == ProxyServer("b", 2)
    assert proxies.for_url(Url.parse("https://x/")) == ProxyServer("c", 80)
    assert Proxies.from_environment({}).for_url(Url.parse("http://x/")) is None


def test_a_password_is_decoded_and_never_shown() -> None:
    proxy = ProxyServer.parse("http://us%40er:p%3Ass@[::1]:3128", "HTTPS_PROXY")
    assert (proxy.host, proxy.port) == ("::1", 3128)
    assert proxy.authorization == "Basic dXNAZXI6cDpzcw=="
    assert "dXNA" not in repr(proxy)


@pytest.mark.parametrize("text", ["socks5://p:1", "https://p:1", "http://", "http://p:x", "http://u:secret@:1"])
def test_a_proxy_that_cant_be_used_is_named_by_its_variable(text: str) -> None:
    with pytest.raises(InvalidInput, match="HTTPS_PROXY") as caught:
        Proxies.from_environment({"https_proxy": text})
    assert "secret" not in str(caught.value)
