"""A registry of the internet leads nobody to what only this host reaches; 127.0.0.2 stands for the internet."""

from collections.abc import Iterator

import pytest

from p2pdist.core.errors import ProtocolError
from p2pdist.http.dial import LeadsInside
from p2pdist.http.interrupt import Interrupt
from p2pdist.oci.credentials import Credentials
from p2pdist.oci.origin import OriginClient, Upstream
from p2pdist.oci.reference import Tag
from tests.fakes.origin_server import OriginServer, Reply, image_manifest, oci_error

BODY = image_manifest()
ONE = Tag("1")
PATH = "/v2/app/manifests/1"


class Account:
    """Credentials for every host: an identity token, which is sent by POST."""

    def get(self, host: str, interrupt: Interrupt) -> Credentials | None:
        return Credentials("me", identity_token="secret")


@pytest.fixture
def inside() -> Iterator[OriginServer]:
    with OriginServer() as server:
        server.put_manifest("app", "1", BODY)
        yield server


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[OriginServer]:
    for module in ("dial", "reach"):
        monkeypatch.setattr(f"p2pdist.http.{module}.is_private", lambda address: address != "127.0.0.2")
    with OriginServer(host="127.0.0.2") as server:
        server.put_manifest("app", "1", BODY)
        yield server


async def fetch(server: OriginServer) -> bytes:
    with OriginClient(Upstream("registry.test", server.url, credentials=Account())) as client:
        return (await client.manifest("app", ONE)).body


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_redirect_inside_isnt_followed(outside: OriginServer, inside: OriginServer, host: str) -> None:
    outside.script(PATH, Reply(307, {"Location": f"http://{host}:{inside.port}{PATH}"}))
    with pytest.raises(LeadsInside, match=str(inside.port)):
        await fetch(outside)
    assert inside.connections == 0


async def test_an_upstream_that_is_inside_may_lead_anywhere(outside: OriginServer, inside: OriginServer) -> None:
    inside.script(PATH, Reply(307, {"Location": f"{outside.url}{PATH}"}))
    assert await fetch(inside) == BODY
    with OriginServer() as other:
        other.put_manifest("app", "1", BODY)
        inside.script(PATH, Reply(307, {"Location": f"{other.url}{PATH}"}))
        assert await fetch(inside) == BODY


async def test_whom_it_leads_to_may_not(outside: OriginServer, inside: OriginServer) -> None:
    with OriginServer() as first:
        first.script(PATH, Reply(307, {"Location": f"{outside.url}{PATH}"}))
        outside.script(PATH, Reply(307, {"Location": f"{inside.url}{PATH}"}))
        with pytest.raises(LeadsInside):
            await fetch(first)
    assert inside.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_realm_inside_isnt_asked(outside: OriginServer, inside: OriginServer, host: str) -> None:
    challenge = f'Bearer realm="http://{host}:{inside.port}/token"'
    outside.guard = lambda _: oci_error(401, "UNAUTHORIZED", WWW_Authenticate=challenge)
    with pytest.raises(ProtocolError, match="no host of it"):
        await fetch(outside)
    assert inside.connections == 0


@pytest.mark.parametrize("status", [200, 401])
async def test_a_realm_whose_name_turns_out_to_be_inside_isnt_asked(
    outside: OriginServer, inside: OriginServer, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whether the anonymous or our account asks: neither connects.
    monkeypatch.setattr("p2pdist.oci.authorizer.names_private", lambda host: False)
    challenge = f'Bearer realm="http://localhost:{inside.port}/token"'
    outside.guard = lambda _: oci_error(401, "UNAUTHORIZED", WWW_Authenticate=challenge)
    inside.put("/token", Reply(status, body=b'{"token": "t"}'))
    with pytest.raises(LeadsInside):
        await fetch(outside)
    assert inside.connections == 0


async def test_a_realm_of_the_internet_that_redirects_inside(outside: OriginServer, inside: OriginServer) -> None:
    challenge = f'Bearer realm="{outside.url}/token"'

    def guard(seen: object) -> Reply | None:
        if getattr(seen, "path", "") == "/token":
            return Reply(307, {"Location": f"{inside.url}/token"})
        return oci_error(401, "UNAUTHORIZED", WWW_Authenticate=challenge)

    outside.guard = guard
    with pytest.raises(LeadsInside):
        await fetch(outside)
    assert inside.connections == 0
