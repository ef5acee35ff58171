"""The token flow and Basic, with and without credentials, and where credentials must not go."""

import base64
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from p2pdist.core.digest import Digest
from p2pdist.core.errors import Denied, ManifestUnknown, ProtocolError, Unavailable
from p2pdist.http.client import HttpClient
from p2pdist.http.interrupt import Interrupt
from p2pdist.http.proxies import Proxies
from p2pdist.oci.authorizer import Authorizer
from p2pdist.oci.bearer import BearerToken
from p2pdist.oci.call import Call, Wanted
from p2pdist.oci.challenge import Challenge
from p2pdist.oci.credentials import Credentials, CredentialSource, DockerConfig
from p2pdist.oci.errors import Unauthorized
from p2pdist.oci.origin import OriginClient, Upstream
from p2pdist.oci.reference import Repository, Tag
from tests.fakes.origin_server import OriginServer, Reply, TokenServer, basic_guard, cut, image_manifest, oci_error

PUBLIC, PRIVATE = "library/app", "team/secret"
BODY = image_manifest(b"layer")
ONE = Tag("1")


@dataclass
class Known:
    """A source that has the same credentials for every host that it is asked for in `hosts` (all when empty)."""

    credentials: Credentials
    hosts: tuple[str, ...] = ()

    def get(self, host: str, interrupt: Interrupt) -> Credentials | None:
        return self.credentials if not self.hosts or host in self.hosts else None


USER = Known(Credentials("me", "pass"))
WRONG = Known(Credentials("me", "wrong"))


@pytest.fixture
def server() -> Iterator[OriginServer]:
    with OriginServer() as server:
        for repository in (PUBLIC, PRIVATE):
            server.put_manifest(repository, "1", BODY)
            server.put_blob(repository, b"layer")
        yield server


@pytest.fixture
def tokens(server: OriginServer) -> TokenServer:
    return TokenServer(server, {"me": "pass"}, (PUBLIC,))


@contextmanager
def client(server: OriginServer, credentials: CredentialSource | None = None) -> Iterator[OriginClient]:
    with OriginClient(Upstream("docker.io", server.url, credentials=credentials), proxies=Proxies()) as origin:
        yield origin


def paths(server: OriginServer) -> list[str]:
    return [seen.path.rpartition("/")[2] for seen in server.requests]


@pytest.mark.parametrize("credentials", [None, USER, WRONG])
async def test_a_public_image_takes_an_anonymous_token_and_isnt_private(
    server: OriginServer, tokens: TokenServer, credentials: CredentialSource | None
) -> None:
    with client(server, credentials) as origin:
        assert not (await origin.manifest(PUBLIC, ONE)).private
        assert paths(server) == ["1", "token", "1"]
        asked = server.seen("/token")[0]
        assert asked.query == {"service": ["reg"], "scope": [f"repository:{PUBLIC}:pull"]}
        assert "authorization" not in asked.headers
        received = bytearray()
        fetched = await origin.blob(PUBLIC, Digest.of(b"layer"), received.extend)
        assert not fetched.private
        assert bytes(received) == b"layer"
        assert fetched.requests == 1
    assert len(server.seen("/token")) == 1


async def test_a_private_image_takes_our_credentials_and_is_private(server: OriginServer, tokens: TokenServer) -> None:
    with client(server, USER) as origin:
        assert (await origin.manifest(PRIVATE, ONE)).private
        events: list[object] = []
        fetched = await origin.blob(
            PRIVATE,
            Digest.of(b"layer"),
            lambda view: events.append(bytes(view)),
            on_size=events.append,
            on_private=lambda: events.append("private"),
        )
    assert fetched.private
    assert events == ["private", 5, b"layer"]
    assert paths(server) == ["1", "token", "1", "token", "1", str(Digest.of(b"layer"))]


async def test_what_began_without_credentials_stays_public(server: OriginServer, tokens: TokenServer) -> None:
    digest = Digest.of(b"layer")
    server.script(f"/v2/{PUBLIC}/blobs/{digest}", cut(2), oci_error(429, "TOOMANYREQUESTS"))
    received = bytearray()
    with client(server, USER) as origin:
        fetched = await origin.blob(PUBLIC, digest, received.extend, on_private=lambda: pytest.fail("it is public"))
    assert received == b"layer"
    assert not fetched.private
    assert server.requests[-1].headers["authorization"].startswith("Bearer user-")


async def test_a_private_image_without_credentials(server: OriginServer, tokens: TokenServer) -> None:
    with client(server) as origin, pytest.raises(Denied, match=r"401.*set credentials_file.*docker\.io"):
        await origin.manifest(PRIVATE, ONE)


async def test_a_token_server_that_knows_no_anonymous(server: OriginServer, tokens: TokenServer) -> None:
    tokens.anonymous_refused = True
    with client(server) as origin, pytest.raises(Denied, match="set credentials_file"):
        await origin.manifest(PUBLIC, ONE)
    with client(server, USER) as origin:
        assert (await origin.manifest(PUBLIC, ONE)).private


async def test_a_wrong_password(server: OriginServer, tokens: TokenServer) -> None:
    with (
        client(server, WRONG) as origin,
        pytest.raises(Denied, match=r"token server .*/token refuses our credent") as caught,
    ):
        await origin.manifest(PRIVATE, ONE)
    assert "wrong" not in str(caught.value)


async def test_an_identity_token_is_posted(server: OriginServer, tokens: TokenServer) -> None:
    tokens.identity_tokens.add("refresh-me")
    tokens.field = "access_token"
    with client(server, Known(Credentials("", identity_token="refresh-me"))) as origin:
        assert (await origin.manifest(PRIVATE, ONE)).private
    posted = server.seen("/token")[-1]
    assert posted.method == "POST"
    assert b"scope=repository%3Ateam%2Fsecret%3Apull" in posted.body
    with client(server, Known(Credentials("", identity_token="stale"))) as origin, pytest.raises(Denied):
        await origin.manifest(PRIVATE, ONE)


async def test_a_token_that_is_no_longer_accepted_is_replaced_once(server: OriginServer, tokens: TokenServer) -> None:
    with client(server, USER) as origin:
        await origin.manifest(PUBLIC, ONE)
        tokens.valid.clear()
        await origin.manifest(PUBLIC, ONE)
        assert paths(server) == ["1", "token", "1", "1", "token", "1"]
        server.guard = lambda seen: oci_error(401, "UNAUTHORIZED", WWW_Authenticate="Bearer realm=x")
        before = len(server.requests)
        with pytest.raises(ProtocolError, match="bad address"):
            await origin.manifest(PUBLIC, ONE)
        assert len(server.requests) == before + 1


async def test_a_registry_that_never_has_enough(server: OriginServer, tokens: TokenServer) -> None:
    give = server.guard

    def never(seen: object) -> Reply | None:
        tokens.valid.clear()
        return give(seen)  # type: ignore[arg-type]

    server.guard = never
    with client(server, USER) as origin, pytest.raises(Denied, match="check that the account"):
        await origin.manifest(PRIVATE, ONE)
    assert paths(server) == ["1", "token", "1", "token", "1"]


def test_tokens_expire(server: OriginServer, tokens: TokenServer) -> None:
    now = 1000.0
    http = HttpClient(proxies=Proxies())
    authorizer = Authorizer(Upstream("docker.io", server.url), http, lambda: now)
    call = Call(Wanted.manifest(Repository("docker.io", PUBLIC), ONE), 0, lambda _: None)
    challenge = f'Bearer realm="{server.url}/token"'
    for lifetime, used in ((300, 269), (None, 53), (3, 53)):
        tokens.expires_in = lifetime
        asked = len(server.requests)
        grant = next(authorizer.answers(challenge, call))
        authorizer.prove(PUBLIC, grant)
        now += used
        assert authorizer.proven(PUBLIC) == grant
        assert next(authorizer.answers(challenge, call)) == grant
        assert len(server.requests) == asked + 1
        now += 2
        assert authorizer.proven(PUBLIC) is None
    http.close()


@pytest.mark.parametrize("status", [403, 404, 429])
async def test_what_an_anonymous_token_doesnt_get_is_tried_with_credentials(
    server: OriginServer, tokens: TokenServer, status: int
) -> None:
    reply = oci_error(status, "DENIED", Retry_After="100")
    server.put(f"/v2/{PRIVATE}/manifests/1", reply)
    tokens.public = (PRIVATE,)
    with client(server) as origin, pytest.raises((Denied, ManifestUnknown, Unavailable)):
        await origin.manifest(PRIVATE, ONE)
    give = server.guard

    def only_for_users(seen: object) -> Reply | None:
        refused = give(seen)  # type: ignore[arg-type]
        if refused is None and "user-" in seen.headers["authorization"]:  # type: ignore[attr-defined]
            return Reply(200, {"Docker-Content-Digest": str(Digest.of(BODY))}, BODY)
        return refused

    server.guard = only_for_users
    with client(server, USER) as origin:
        assert (await origin.manifest(PRIVATE, ONE)).private


@pytest.mark.parametrize(
    ("reply", "error", "why"),
    [
        (Reply(200, body=b"<html>"), ProtocolError, "isn't a token"),
        (Reply(200, body=b"{}"), ProtocolError, "doesn't fit"),
        (Reply(200, body=json.dumps({"token": "a\r\nX: y"}).encode()), ProtocolError, "doesn't fit"),
        (Reply(200, body=b" " * 300_000), ProtocolError, "longer than"),
        (Reply(500), Unavailable, "answers 500"),
        (Reply(302), ProtocolError, "doesn't say where"),
        (Reply(418), ProtocolError, "418"),
        (Reply(cut_after=-1), Unavailable, "broke"),
    ],
)
async def test_a_bad_token_server(
    server: OriginServer, tokens: TokenServer, reply: Reply, error: type[Exception], why: str
) -> None:
    give = server.guard
    server.guard = lambda seen: reply if seen.path == "/token" else give(seen)
    with client(server) as origin, pytest.raises(error, match=why) as caught:
        await origin.manifest(PUBLIC, ONE)
    assert str(caught.value).startswith("manifest 1 of docker.io/library/app: ")


async def test_basic(server: OriginServer) -> None:
    server.guard = basic_guard("me", "pass")
    with client(server, USER) as origin:
        for _ in range(2):
            assert (await origin.manifest(PRIVATE, ONE)).private
        assert len(server.requests) == 3
    with client(server) as origin, pytest.raises(Denied, match="set credentials_file"):
        await origin.manifest(PRIVATE, ONE)
    with client(server, WRONG) as origin, pytest.raises(Denied, match="check that the account") as caught:
        await origin.manifest(PRIVATE, ONE)
    assert "wrong" not in str(caught.value)


async def test_a_docker_config_is_looked_up_by_origin_then_by_name(server: OriginServer, tmp_path: Path) -> None:
    server.guard = basic_guard("me", "pass")
    right, wrong = (base64.b64encode(text).decode() for text in (b"me:pass", b"me:wrong"))
    for auths in (
        {f"127.0.0.1:{server.port}": {"auth": right}, "https://index.docker.io/v1/": {"auth": wrong}},
        {"https://index.docker.io/v1/": {"auth": right}},
    ):
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"auths": auths}))
        with client(server, DockerConfig(path)) as origin:
            assert (await origin.manifest(PRIVATE, ONE)).private


async def test_another_host_never_sees_authorization(server: OriginServer) -> None:
    server.guard = basic_guard("me", "pass")
    digest = Digest.of(b"layer")
    with OriginServer() as elsewhere, client(server, USER) as origin:
        elsewhere.put("/cdn", Reply(200, body=b"layer"))
        server.put("/here", Reply(307, {"Location": f"{elsewhere.url}/cdn?sig=s"}))
        server.put(f"/v2/{PRIVATE}/blobs/{digest}", Reply(307, {"Location": "/here"}))
        fetched = await origin.blob(PRIVATE, digest, lambda _: None)
        assert fetched.private
        assert "authorization" in server.seen("/here")[0].headers
        assert "authorization" not in elsewhere.requests[0].headers
        assert fetched.requests == 4


async def test_a_redirected_token_request_keeps_the_password_at_home(server: OriginServer, tokens: TokenServer) -> None:
    with OriginServer() as elsewhere, client(server, USER) as origin:
        elsewhere.put("/token", Reply(200, body=b'{"token": "user-stolen"}'))
        give = server.guard
        moved = Reply(307, {"Location": f"{elsewhere.url}/token"})
        server.guard = lambda seen: moved if seen.path == "/token" else give(seen)
        with pytest.raises(Denied):
            await origin.manifest(PRIVATE, ONE)
        assert len(elsewhere.requests) == 2
        assert all("authorization" not in seen.headers for seen in elsewhere.requests)


@pytest.fixture
def tls(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return tmp_path / "ca.pem", context


async def test_nothing_leads_from_https_to_http(server: OriginServer, tls: tuple[Path, ssl.SSLContext]) -> None:
    ca_file, context = tls
    with OriginServer(context) as secure:
        upstream = Upstream("reg.test", secure.url, ca_file, USER)
        secure.put_manifest(PUBLIC, "1", BODY)
        with OriginClient(upstream) as origin:
            assert (await origin.manifest(PUBLIC, ONE)).body == BODY
            secure.script(f"/v2/{PUBLIC}/manifests/1", Reply(302, {"Location": server.url}))
            with pytest.raises(ProtocolError, match="from https to http"):
                await origin.manifest(PUBLIC, ONE)
            challenge = f'Bearer realm="{server.url}/token"'
            secure.guard = lambda _: oci_error(401, "UNAUTHORIZED", WWW_Authenticate=challenge)
            with pytest.raises(ProtocolError, match="from https to http"):
                await origin.manifest(PUBLIC, ONE)
    assert server.requests == []


# On behalf of a caller, whose token is all that is shown.


def bearer(tokens: TokenServer) -> BearerToken:
    tokens.valid.add("user-of-a-caller")
    return BearerToken("user-of-a-caller")


async def test_a_callers_token_is_all_that_is_shown_and_is_not_remembered(
    server: OriginServer, tokens: TokenServer
) -> None:
    digest = Digest.of(b"layer")
    with client(server, USER) as origin:
        caller = origin.on_behalf_of(bearer(tokens))
        assert (await caller.manifest(PRIVATE, ONE)).private
        assert (await caller.resolve(PRIVATE, ONE)).digest == Digest.of(BODY)
        assert await caller.blob_size(PRIVATE, digest) == 5
        private: list[str] = []
        assert (await caller.blob(PRIVATE, digest, lambda _: None, on_private=lambda: private.append("yes"))).private
        assert private == ["yes"]
        assert {seen.headers["authorization"] for seen in server.requests} == {"Bearer user-of-a-caller"}
        assert server.seen("/token") == []
        await origin.manifest(PRIVATE, ONE)
        assert "authorization" not in server.requests[4].headers


@pytest.mark.parametrize("credentials", [None, USER])
async def test_a_callers_token_that_is_refused_is_replaced_by_nothing(
    server: OriginServer, tokens: TokenServer, credentials: CredentialSource | None
) -> None:
    with client(server, credentials) as origin, pytest.raises(Unauthorized) as caught:
        await origin.on_behalf_of(BearerToken("stolen")).manifest(PRIVATE, ONE)
    assert len(server.requests) == 1
    assert "stolen" not in str(caught.value)
    assert caught.value.challenge == Challenge(
        "bearer", {"realm": f"{server.url}/token", "service": "reg", "scope": f"repository:{PRIVATE}:pull"}
    )


async def test_the_challenge_of_an_expired_token_says_so(server: OriginServer) -> None:
    line = f'Bearer realm="{server.url}/token",error="invalid_token"'
    server.guard = lambda _: oci_error(401, "UNAUTHORIZED", WWW_Authenticate=line)
    with client(server) as origin, pytest.raises(Unauthorized) as caught:
        await origin.on_behalf_of(BearerToken("old")).manifest(PRIVATE, ONE)
    assert caught.value.challenge.parameters["error"] == "invalid_token"


@pytest.mark.parametrize("anonymous_refused", [False, True])
async def test_what_the_anonymous_do_not_get_comes_with_the_challenge(
    server: OriginServer, tokens: TokenServer, anonymous_refused: bool
) -> None:
    tokens.anonymous_refused = anonymous_refused
    with client(server) as origin, pytest.raises(Unauthorized) as caught:
        await origin.manifest(PRIVATE, ONE)
    assert str(caught.value).startswith("manifest 1 of docker.io/team/secret: ")
    assert caught.value.challenge.parameters["scope"] == f"repository:{PRIVATE}:pull"


async def test_a_403_after_an_anonymous_token_comes_with_the_challenge_of_before(
    server: OriginServer, tokens: TokenServer
) -> None:
    tokens.public = (PRIVATE,)
    server.put(f"/v2/{PRIVATE}/manifests/1", oci_error(403, "DENIED"))
    with client(server) as origin:
        with pytest.raises(Unauthorized):
            await origin.manifest(PRIVATE, ONE)
        with pytest.raises(Denied) as refused:
            await origin.on_behalf_of(bearer(tokens)).manifest(PRIVATE, ONE)
        assert not isinstance(refused.value, Unauthorized)


async def test_basic_is_no_challenge_for_a_caller(server: OriginServer) -> None:
    server.guard = basic_guard("me", "pass")
    with client(server) as origin:
        for asking in (origin, origin.on_behalf_of(BearerToken("x"))):
            with pytest.raises(Denied) as caught:
                await asking.manifest(PRIVATE, ONE)
            assert not isinstance(caught.value, Unauthorized)


async def test_a_callers_token_stays_at_the_upstream(server: OriginServer, tokens: TokenServer) -> None:
    digest = Digest.of(b"layer")
    with OriginServer() as elsewhere, client(server) as origin:
        elsewhere.put("/cdn", Reply(200, body=b"layer"))
        server.put(f"/v2/{PRIVATE}/blobs/{digest}", Reply(307, {"Location": f"{elsewhere.url}/cdn"}))
        assert (await origin.on_behalf_of(bearer(tokens)).blob(PRIVATE, digest, lambda _: None)).private
        assert "authorization" not in elsewhere.requests[0].headers
