"""Which clients the shim answered: by User-Agent, only what was answered to its end, not more than are kept."""

from p2pdist.agent.clients import Clients
from p2pdist.agent.report import Client, Served
from p2pdist.core.errors import NotFound
from p2pdist.http.server import Request, Response
from tests.fakes.raw_client import TestServer, running_server

DIGEST = "sha256:" + "ab" * 32


class Bench:
    """A shim that answers as told, watched; its clock stands still unless it is set."""

    def __init__(self) -> None:
        self.now = 100.0
        self.status = 200
        self.clients = Clients(lambda: self.now)

    async def __call__(self, request: Request, response: Response) -> None:
        await self.clients.watch(self._answer, request, response)

    async def _answer(self, request: Request, response: Response) -> None:
        if self.status == 404:
            raise NotFound("not here")
        await response.send(self.status, {}, b"x")


async def ask(server: TestServer, target: str, user_agent: str, method: str = "GET") -> None:
    async with server.connect() as client:
        await client.get(target, f"User-Agent: {user_agent}", method=method)


async def test_the_last_manifest_and_blob_of_each_client() -> None:
    bench = Bench()
    async with running_server(bench) as server:
        await ask(server, "/v2/library/app/manifests/1?ns=docker.io", "containerd/2.0", "HEAD")
        await ask(server, f"/v2/library/app/manifests/{DIGEST}?ns=docker.io", "containerd/2.0")
        bench.now = 101.0
        await ask(server, f"/ghcr.io/v2/app/blobs/{DIGEST}", "skopeo/1.9.3")
        bench.status = 206
        await ask(server, f"/v2/library/app/blobs/{DIGEST}?ns=docker.io", "containerd/2.0")
        bench.now = 103.5
        assert bench.clients.report() == [
            Client(
                user_agent="skopeo/1.9.3", runtime="podman", blob=Served(name=f"ghcr.io/app@{DIGEST}", seconds_ago=2.5)
            ),
            Client(
                user_agent="containerd/2.0",
                runtime="containerd",
                manifest=Served(name=f"docker.io/library/app@{DIGEST}", seconds_ago=3.5),
                blob=Served(name=f"docker.io/library/app@{DIGEST}", seconds_ago=2.5),
            ),
        ]


async def test_what_was_not_answered_is_not_a_pull() -> None:
    bench = Bench()
    async with running_server(bench) as server:
        await ask(server, "/v2/", "docker/29")
        await ask(server, f"/v2/app/blobs/{DIGEST}", "docker/29", "HEAD")
        await ask(server, f"/v2/app/referrers/{DIGEST}", "docker/29")
        bench.status = 404
        await ask(server, "/v2/app/manifests/1", "docker/29")
    assert bench.clients.report() == []


async def test_only_the_latest_clients_are_kept() -> None:
    bench = Bench()
    async with running_server(bench) as server:
        for number in [*range(40), 10]:
            await ask(server, "/v2/app/manifests/1", f"{'x' * 300}" if number == 39 else f"client/{number}")
    names = [client.user_agent for client in bench.clients.report()]
    assert len(names) == 32
    assert names[-2:] == ["x" * 200, "client/10"]
    assert "client/7" not in names
