import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from p2pdist.core.errors import InvalidInput, ProtocolError
from p2pdist.http.client import ConnectionBroken, HttpClient, PassedBody
from p2pdist.http.dial import AddressInfo, ConnectFailed, LeadsInside
from p2pdist.http.interrupt import Interrupt, Interrupted
from p2pdist.http.proxies import Proxies
from p2pdist.http.proxies import ProxyServer as Proxy
from p2pdist.http.url import Url
from tests.fakes.origin_server import OriginServer, Reply, cut
from tests.fakes.proxy_server import ProxyServer


@pytest.fixture
def server() -> Iterator[OriginServer]:
    with OriginServer() as server:
        yield server


@contextmanager
def client(ca_file: Path | None = None, timeout_seconds: float = 5, **options: object) -> Iterator[HttpClient]:
    made = HttpClient(ca_file=ca_file, timeout_seconds=timeout_seconds, **options)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.close()


def get(made: HttpClient, url: str, limit_bytes: int = 1 << 20) -> bytes:
    with made.request("GET", Url.parse(url), {}, interrupt=Interrupt()) as exchange:
        return exchange.read(limit_bytes)


def test_one_connection_carries_many_requests(server: OriginServer) -> None:
    server.put("/a", Reply(body=b"x" * 100_000))
    server.put("/c", Reply(body=b"y" * 30_000, chunked=True))
    with client() as made:
        for _ in range(3):
            assert get(made, f"{server.url}/a") == b"x" * 100_000
            assert get(made, f"{server.url}/c") == b"y" * 30_000
            with made.request("HEAD", Url.parse(f"{server.url}/a"), {}, interrupt=Interrupt()) as exchange:
                assert exchange.content_length == 100_000
                assert exchange.read(10) == b""
    assert server.connections == 1


def test_a_connection_whose_body_wasnt_read_isnt_used_again(server: OriginServer) -> None:
    server.put("/a", Reply(body=b"x" * 1_000_000))
    with client() as made:
        with made.request("GET", Url.parse(f"{server.url}/a"), {}, interrupt=Interrupt()) as exchange:
            assert exchange.readinto(memoryview(bytearray(10))) == 10
        assert get(made, f"{server.url}/a") == b"x" * 1_000_000
    assert server.connections == 2


def test_a_connection_that_the_server_closes_is_replaced(server: OriginServer) -> None:
    server.put("/a", Reply(body=b"x"))
    with client() as made:
        get(made, f"{server.url}/a")
        # The server takes the next request on the kept connection and hangs up: only a new one will do.
        server.script("/a", Reply(cut_after=-1))
        assert get(made, f"{server.url}/a") == b"x"
        get(made, f"{server.url}/a")
    assert [len(server.seen("/a")), server.connections] == [4, 2]


def test_the_request_says_who_asks_and_wants_no_compression(server: OriginServer) -> None:
    with client() as made:
        get(made, f"{server.url}/a?b=c")
    seen = server.requests[0]
    assert seen.target == "/a?b=c"
    assert seen.headers["host"] == f"127.0.0.1:{server.port}"
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.headers["user-agent"].startswith("p2pdist/")


def test_a_post_has_its_body(server: OriginServer) -> None:
    server.put("/t", Reply(body=b"ok"))
    with client() as made:
        answer = made.request("POST", Url.parse(f"{server.url}/t"), {"X": "y"}, interrupt=Interrupt(), body=b"a=b")
        with answer as exchange:
            assert exchange.read(10) == b"ok"
    assert server.requests[0].body == b"a=b"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused(server: OriginServer, chunked: bool) -> None:
    server.put("/a", Reply(body=b"x" * 101, chunked=chunked))
    with client() as made:
        assert len(get(made, f"{server.url}/a", 101)) == 101
        with pytest.raises(ProtocolError, match="longer than the limit of 100 bytes"):
            get(made, f"{server.url}/a", 100)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_cut_body_is_an_error(server: OriginServer, chunked: bool) -> None:
    server.put("/a", Reply(body=b"x" * 50_000, chunked=chunked, cut_after=20_000))
    with client() as made, pytest.raises(ConnectionBroken, match=server.url):
        get(made, f"{server.url}/a")


@pytest.mark.parametrize("hang_after", [-1, 0, 10])
def test_a_server_that_hangs_is_left(server: OriginServer, hang_after: int) -> None:
    server.put("/a", Reply(body=b"x" * 20, hang_after=hang_after))
    with client(timeout_seconds=0.2) as made, pytest.raises(ConnectionBroken, match="in time"):
        get(made, f"{server.url}/a")


@pytest.mark.parametrize(
    "raw", [b"SSH-2.0-x\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n"]
)
def test_what_isnt_http_is_the_servers_fault(server: OriginServer, raw: bytes) -> None:
    server.put("/a", Reply(raw=raw))
    with client() as made, pytest.raises(ProtocolError, match="doesn't answer in HTTP"):
        get(made, f"{server.url}/a")


@pytest.mark.parametrize("hang_after", [-1, 10])
def test_an_interrupt_ends_the_wait_at_once(server: OriginServer, hang_after: int) -> None:
    server.put("/a", Reply(body=b"x" * 20, hang_after=hang_after))
    interrupt = Interrupt()

    def call_off() -> None:
        server.hanging.wait()
        interrupt.trigger()

    other = threading.Thread(target=call_off)
    other.start()
    began = time.monotonic()
    with client(timeout_seconds=60) as made, pytest.raises(Interrupted):  # noqa: SIM117
        with made.request("GET", Url.parse(f"{server.url}/a"), {}, interrupt=interrupt) as exchange:
            exchange.read(100)
    other.join()
    assert time.monotonic() - began < 5


def test_a_port_where_nobody_listens(server: OriginServer) -> None:
    with socket.socket() as bound, client() as made:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectFailed, match=r"no connection to 127\.0\.0\.1:\d+: 127\.0\.0\.1: Connection refused"):
            get(made, f"http://127.0.0.1:{bound.getsockname()[1]}/")


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port whose queue of connections is full, so that no further one comes about."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_connecting_has_a_limit_and_can_be_interrupted() -> None:
    with deaf_port() as port, client(timeout_seconds=0.4) as made:
        with pytest.raises(ConnectFailed, match=r"no answer within 0\.4 s"):
            get(made, f"http://127.0.0.1:{port}/")
        interrupt = Interrupt()
        interrupt.trigger()
        with pytest.raises(Interrupted):
            made.request("GET", Url.parse(f"http://127.0.0.1:{port}/"), {}, interrupt=interrupt)


def test_all_addresses_are_tried_and_a_deaf_one_doesnt_hold_up_the_others(server: OriginServer) -> None:
    server.put("/a", Reply(body=b"x"))
    with deaf_port() as port:

        def resolver(host: str, wanted_port: int, _: Interrupt) -> list[AddressInfo]:
            assert host == "registry.test"
            kind = (socket.SOCK_STREAM, 6, "")
            return [
                (socket.AF_INET, *kind, ("127.0.0.1", port)),
                (socket.AF_INET6, *kind, ("::1", 1, 0, 0)),
                (socket.AF_INET, *kind, ("127.0.0.1", wanted_port)),
            ]

        with client(resolver=resolver, timeout_seconds=10) as made:
            began = time.monotonic()
            assert get(made, f"http://registry.test:{server.port}/a") == b"x"
            assert time.monotonic() - began < 5


def test_a_name_that_doesnt_exist() -> None:
    def resolver(host: str, port: int, _: Interrupt) -> list[AddressInfo]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with client(resolver=resolver) as made, pytest.raises(ConnectFailed, match=r"'nowhere\.test' can't be resolved"):
        get(made, "http://nowhere.test/")


def test_ipv6_literals() -> None:
    with OriginServer(host="::1") as server, client() as made:
        server.put("/a", Reply(body=b"x"))
        assert get(made, f"{server.url}/a") == b"x"
        assert server.requests[0].headers["host"] == f"[::1]:{server.port}"


class Authority:
    def __init__(self, directory: Path) -> None:
        self._ca = trustme.CA()
        self.file = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def context(self, *names: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*names).configure_cert(context)
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_tls_with_a_ca_of_our_own(authority: Authority) -> None:
    with OriginServer(authority.context("127.0.0.1")) as server:
        server.put("/a", Reply(body=b"x" * 300_000))
        with client(authority.file) as made:
            assert get(made, f"{server.url}/a") == b"x" * 300_000
            assert get(made, f"{server.url}/a") == b"x" * 300_000
        assert server.connections == 1
        with client() as made, pytest.raises(ConnectFailed, match=r"isn't trusted.*ca_file"):
            get(made, f"{server.url}/a")


def test_tls_for_another_name(authority: Authority) -> None:
    untrusted = pytest.raises(ConnectFailed, match=r"isn't trusted.*mismatch")
    with OriginServer(authority.context("other.test")) as server, client(authority.file) as made, untrusted:
        get(made, f"{server.url}/a")


def test_tls_where_plain_http_is_spoken(server: OriginServer) -> None:
    with client() as made, pytest.raises(ConnectFailed, match="broke it off"):
        get(made, f"https://127.0.0.1:{server.port}/")


def test_an_interrupt_ends_a_tls_handshake() -> None:
    interrupt = Interrupt()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def call_off() -> None:
            with listener.accept()[0] as connection:
                connection.recv(1)
                interrupt.trigger()

        other = threading.Thread(target=call_off)
        other.start()
        url = Url.parse(f"https://127.0.0.1:{listener.getsockname()[1]}/")
        with client(timeout_seconds=60) as made, pytest.raises(Interrupted):
            made.request("GET", url, {}, interrupt=interrupt)
        other.join()


@pytest.mark.parametrize("content", [None, b"", b"no pem"])
def test_a_ca_file_that_cant_be_used(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInput, match=str(path)):
        HttpClient(ca_file=path, proxies=Proxies())


def test_https_goes_through_a_proxy_by_connect(authority: Authority) -> None:
    with OriginServer(authority.context("registry.test")) as server, ProxyServer(server.port, "us:er") as proxy:
        server.put("/a", Reply(body=b"x" * 100_000))
        proxies = Proxies(https=Proxy.parse(f"http://us:er@127.0.0.1:{proxy.port}", "HTTPS_PROXY"))
        with client(authority.file, proxies=proxies) as made:
            assert get(made, "https://registry.test/a") == b"x" * 100_000
            assert get(made, "https://registry.test/a") == b"x" * 100_000
        assert proxy.asked == ["CONNECT registry.test:443 HTTP/1.1"]
        assert server.requests[0].headers["host"] == "registry.test"
        assert "proxy-authorization" not in server.requests[0].headers


def test_http_goes_through_a_proxy_by_absolute_urls(server: OriginServer) -> None:
    server.put("/a", Reply(body=b"x"))
    with ProxyServer(server.port, "us:er") as proxy:
        proxies = Proxies(http=Proxy.parse(f"http://us:er@127.0.0.1:{proxy.port}", "HTTP_PROXY"))
        with client(proxies=proxies) as made:
            assert get(made, "http://registry.test:8000/a") == b"x"
        assert proxy.asked == ["GET http://registry.test:8000/a HTTP/1.1"]
        assert server.requests[0].headers["host"] == "registry.test:8000"


@pytest.mark.parametrize(("userinfo", "status", "why"), [("a:b", 200, "credentials"), ("", 403, "403.*NO_PROXY")])
def test_a_proxy_that_refuses(server: OriginServer, userinfo: str, status: int, why: str) -> None:
    with ProxyServer(server.port, userinfo, status) as proxy:
        proxies = Proxies(https=Proxy("127.0.0.1", proxy.port))
        with client(proxies=proxies) as made, pytest.raises(ConnectFailed, match=why):
            get(made, "https://registry.test/a")


def test_a_proxy_that_isnt_there() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        proxies = Proxies(https=Proxy("127.0.0.1", bound.getsockname()[1]))
        with client(proxies=proxies) as made, pytest.raises(ConnectFailed, match=r"the proxy 127\.0\.0\.1:"):
            get(made, "https://registry.test/a")


def test_the_head_of_a_cut_answer_is_still_read(server: OriginServer) -> None:
    server.put("/a", Reply(body=b"x" * 30))
    server.script("/a", cut(10))
    with client() as made, made.request("GET", Url.parse(f"{server.url}/a"), {}, interrupt=Interrupt()) as exchange:
        assert exchange.status == 200
        assert exchange.read_start(10) == b"x" * 10


def passed(*parts: bytes, length_bytes: int | None = None) -> PassedBody:
    left = list(parts)
    return PassedBody(lambda: left.pop(0) if left else b"", length_bytes)


def put(made: HttpClient, url: str, body: PassedBody) -> int:
    with made.request("PUT", Url.parse(url), {}, interrupt=Interrupt(), body=body) as exchange:
        exchange.read(1 << 20)
        return exchange.status


def test_a_body_that_is_passed_on_arrives_with_its_length_or_chunked(server: OriginServer) -> None:
    server.put("/up", Reply(201))
    with client() as made:
        assert put(made, f"{server.url}/up", passed(b"ab", b"c" * 300_000, length_bytes=300_002)) == 201
        assert put(made, f"{server.url}/up", passed(b"ab", b"c" * 300_000)) == 201
        assert put(made, f"{server.url}/up", passed(length_bytes=0)) == 201
    bodies = [seen.body for seen in server.requests]
    assert bodies == [b"ab" + b"c" * 300_000] * 2 + [b""]
    assert [seen.headers.get("content-length") for seen in server.requests] == ["300002", None, "0"]
    assert [seen.headers.get("transfer-encoding") for seen in server.requests] == [None, "chunked", None]


def test_what_reading_a_body_raises_ends_the_request(server: OriginServer) -> None:
    def fail() -> bytes:
        raise InvalidInput("the client hung up")

    with client() as made, pytest.raises(InvalidInput, match="hung up"):
        put(made, f"{server.url}/up", PassedBody(fail, None))


def test_a_body_that_isnt_as_long_as_announced_isnt_passed_off_as_whole(server: OriginServer) -> None:
    with client() as made, pytest.raises(ProtocolError, match="5 bytes ended after 3"):
        put(made, f"{server.url}/up", passed(b"abc", length_bytes=5))


def test_an_answer_that_comes_before_the_body_is_read_counts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endless = PassedBody(lambda: b"x" * 65536, None)

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
                connection.shutdown(socket.SHUT_RD)

        refusing = threading.Thread(target=refuse)
        refusing.start()
        with client() as made:
            assert put(made, f"http://127.0.0.1:{listener.getsockname()[1]}/up", endless) == 413
        refusing.join()


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.2 counts as a host of the internet."""
    monkeypatch.setattr("p2pdist.http.dial.is_private", lambda address: address != "127.0.0.2")


def fetch(made: HttpClient, url: str, *, public_only: bool = False) -> bool:
    """Whether the answer came from inside."""
    with made.request("GET", Url.parse(url), {}, interrupt=Interrupt(), public_only=public_only) as exchange:
        exchange.read(1 << 20)
        return exchange.inside


def test_an_answer_knows_whether_it_came_from_inside(server: OriginServer, internet: None) -> None:
    server.put("/a", Reply(body=b"x"))
    with OriginServer(host="127.0.0.2") as outside, client() as made:
        outside.put("/a", Reply(body=b"x"))
        assert [fetch(made, f"{server.url}/a"), fetch(made, f"{outside.url}/a")] == [True, False]
        assert fetch(made, f"{outside.url}/a", public_only=True) is False


def test_a_private_address_isnt_connected_to_when_only_public_ones_may_be(server: OriginServer, internet: None) -> None:
    server.put("/a", Reply(body=b"x"))
    with client() as made:
        with pytest.raises(LeadsInside, match=f"127.0.0.1:{server.port}"):
            fetch(made, f"{server.url}/a", public_only=True)
        assert server.connections == 0
        # A connection that stands for somebody who may go inside is none for whom may not.
        assert fetch(made, f"{server.url}/a")
        with pytest.raises(LeadsInside):
            fetch(made, f"{server.url}/a", public_only=True)
    assert len(server.requests) == 1


def test_of_several_addresses_only_the_public_ones_are_tried(server: OriginServer, internet: None) -> None:
    server.put("/a", Reply(body=b"x"))

    def both(_host: str, port: int, _: Interrupt) -> list[AddressInfo]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.1", "127.0.0.2")]

    with OriginServer(host="127.0.0.2") as outside, client(resolver=both) as made:
        outside.put("/a", Reply(body=b"x"))
        assert fetch(made, f"http://rebound.test:{outside.port}/a", public_only=True) is False
        assert server.connections == 0


def test_a_proxy_isnt_sent_inside_by_a_host_that_says_what_it_is() -> None:
    with ProxyServer(1) as proxy:
        proxies = Proxies(http=Proxy("127.0.0.1", proxy.port))
        with client(proxies=proxies) as made, pytest.raises(LeadsInside, match=r"10\.0\.0\.1"):
            fetch(made, "http://10.0.0.1/a", public_only=True)
