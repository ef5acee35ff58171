import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pdist.core.errors import InvalidInput
from p2pdist.http.url import Url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://Example.COM", Url("https", "example.com", 443, "/")),
        ("HTTP://h:8080/a/b?c=d&e=%20#f", Url("http", "h", 8080, "/a/b?c=d&e=%20")),
        ("https://[::1]:5000/v2/", Url("https", "::1", 5000, "/v2/")),
        ("http://h?q", Url("http", "h", 80, "/?q")),
        ("http://h/a b\u00e4", Url("http", "h", 80, "/a%20b%C3%A4")),
        ("http://b\u00fccher.de/", Url("http", "xn--bcher-kva.de", 80, "/")),
    ],
)
def test_takes_urls_apart(text: str, url: Url) -> None:
    assert Url.parse(text) == url
    assert Url.parse(str(url)) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ftp://h/",
        "//h/",
        "http:///x",
        "http://h:0/",
        "http://h:70000/",
        "http://[::1/",
        "http://a b/",
        "http://h\x00/",
        "http://user:secret@h/",
        "http://h/" + "x" * 20_000,
    ],
)
def test_refuses_others_without_repeating_secrets(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Url.parse(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/x", "https://h:1/x"),
        ("x?y", "https://h:1/a/x?y"),
        ("//other/x", "https://other/x"),
        ("http://other:99/x", "http://other:99/x"),
    ],
)
def test_follows_locations(location: str, expected: str) -> None:
    assert str(Url.parse("https://h:1/a/b?c").join(location)) == expected


def test_same_server_means_scheme_host_and_port() -> None:
    assert Url.parse("https://H/a").origin == Url.parse("https://h:443/b").origin
    assert Url.parse("https://h/").origin != Url.parse("http://h:443/").origin


def test_a_signature_in_the_query_is_not_shown() -> None:
    assert Url.parse("https://cdn/blob?sig=secret").shown == "https://cdn/blob"


@given(st.text(max_size=60))
def test_any_location_gives_a_url_fit_for_a_request_line_or_is_refused(location: str) -> None:
    try:
        url = Url.parse("http://h/a").join(location)
    except InvalidInput:
        return
    assert url.target.isascii()
    assert url.target.isprintable()
    assert " " not in url.target
    assert url.target.startswith("/")
    assert Url.parse(str(url)) == url
