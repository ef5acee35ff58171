"""`p2pdist explain` and the event log of an agent whose parts are real: each way by which a blob can come."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pdist.agent.explain import Explainer
from p2pdist.agent.guard import commands_only
from p2pdist.cli import main
from p2pdist.core.digest import Digest
from p2pdist.http.admin import admin_handler
from p2pdist.http.listeners import open_listeners
from p2pdist.http.server import serve
from p2pdist.store import BlobStore
from p2pdist.swarm import Endpoint, Swarm, SwarmSettings
from p2pdist.telemetry.events import EventLog
from p2pdist.wire.messages import Ended, Failed, Join, SwarmPlan, Table
from p2pdist.wire.messages import Endpoint as WireEndpoint
from tests.fakes.origin_server import OriginServer

from .bench import NODE, PIECE_BYTES, Bench, Blob, running
from .scripted_tracker import member
from .test_pull import REPOSITORY, Reader, relayed


class Asking:
    """Runs the command against the agent of a bench."""

    def __init__(self, address: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._address = address
        self._capsys = capsys

    async def __call__(self, *arguments: str) -> tuple[int, str]:
        """The exit code, and what was printed."""
        code = await trio.to_thread.run_sync(main, ["explain", *arguments, "--admin", self._address])
        printed = self._capsys.readouterr()
        return code, printed.out + printed.err

    async def json(self, digest: Digest) -> dict[str, Any]:
        code, printed = await self(str(digest), "--json")
        assert code == 0, printed
        return dict(json.loads(printed))


Ask = Callable[[Bench], Any]


@pytest.fixture
def asking(capsys: pytest.CaptureFixture[str]) -> Ask:
    @asynccontextmanager
    async def answered(bench: Bench) -> AsyncIterator[Asking]:
        explainer = Explainer(NODE, "web-1", bench.accounts, bench.relays, bench.store)
        routes = {("GET", "/v1/explain"): commands_only(explainer.handle, "127.0.0.1")}
        (listener,) = listeners = await open_listeners("127.0.0.1:0")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, admin_handler(bench.registry, list, routes), listeners)
            yield Asking(f"127.0.0.1:{listener.socket.getsockname()[1]}", capsys)
            nursery.cancel_scope.cancel()

    return answered


def noted(path: Path, *names: str) -> list[dict[str, Any]]:
    """The lines about these events, without their time."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in found if line["event"] in names and line.pop("time")]


async def held(bench: Bench, digest: Digest) -> None:
    await bench.until(lambda: bench.store.has(digest) and not bench.library.pulls)


async def test_by_relay(root: Path, tmp_path: Path, asking: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("account", "explain"):
        monkeypatch.setattr(f"p2pdist.agent.{module}.GAP_SECONDS", 0.05)
    blob = Blob(3 * PIECE_BYTES + 1)
    with EventLog.open(tmp_path / "events") as events:
        async with running(root, events=events) as bench, asking(bench) as ask, trio.open_nursery() as readers:
            Reader(bench, blob.digest, readers)
            await relayed(bench, blob)
            bench.dealer.deal(blob, [0, 1])
            account = bench.accounts.get(blob.digest)
            assert account is not None
            await bench.until(lambda: account.received("tracker").get(("deal", "tracker")) == 2 * PIECE_BYTES)
            await bench.until(lambda: account.clock() - account.last_at > 0.1)
            arriving = (await ask.json(blob.digest))["pull"]
            assert (arriving["state"], arriving["received_bytes"]) == ("running", 2 * PIECE_BYTES)
            assert arriving["waits"][-1]["what"] == "pieces by relay"
            assert arriving["waits"][-1]["seconds"] > 0.05
            bench.dealer.deal(blob, [2, 3])
            await held(bench, blob.digest)
            told = await ask.json(blob.digest)
            code, printed = await ask(blob.digest.hex[:8])
    pull = told["pull"]
    assert (told["digest"], told["name"], told["held"]["size_bytes"]) == (str(blob.digest), "web-1", len(blob.data))
    assert (pull["state"], pull["size_bytes"], pull["received_bytes"]) == ("held", len(blob.data), len(blob.data))
    assert pull["sources"] == [{"by": "deal", "node": "tracker", "name": "tracker", "bytes": len(blob.data)}]
    assert [wait["what"] for wait in pull["waits"]] == [
        "the tracker's answer",
        "pieces by relay",
        "pieces by relay",
        "the check of its digest",
        "its entry in the store",
    ]
    assert 0 < pull["first_byte_seconds"] < pull["last_byte_seconds"] < pull["seconds"]
    assert [step["what"] for step in pull["steps"]] == ["the tracker answered: relay"]
    assert code == 0
    assert f"blob       {blob.digest}" in printed
    assert "100 %  dealt by the tracker" in printed
    assert "nothing for" in printed
    received = noted(tmp_path / "events", "received")
    assert [line["piece"] for line in received] == [0, 1, 2, 3]
    assert received[0] == {
        "node": "",
        "event": "received",
        "digest": blob.digest.hex[:16],
        "peer": "tracker",
        "by": "deal",
        "piece": 0,
        "bytes": PIECE_BYTES,
        "generation": 7,
        "epoch": 1,
    }
    (ended,) = noted(tmp_path / "events", "held")
    assert (ended["bytes"], ended["seconds"]) == (len(blob.data), pytest.approx(pull["seconds"], abs=1e-5))
    assert noted(tmp_path / "events", "peer") == [{"node": "", "event": "peer", "peer": NODE[:12], "name": NODE}]


async def test_by_swarm_from_a_named_host(root: Path, asking: Ask) -> None:
    blob = Blob(64 * PIECE_BYTES)
    with BlobStore.open(root.parent / "holder") as store:
        with store.begin(blob.digest, blob.layout, metainfo=blob.metainfo) as partial:
            for index in range(blob.layout.count):
                partial.write_piece(index, blob.piece(index))
            partial.commit()
        settings = SwarmSettings(listen=(Endpoint("127.0.0.1", 0),))
        async with running(root) as bench, Swarm.open(settings) as other, asking(bench) as ask:
            (there,) = other.addresses
            other.allow_peers({"127.0.0.1"})
            with store.committed(blob.digest) as whole:
                await other.seed(whole.path, blob.metainfo)
            async with trio.open_nursery() as readers:
                reader = Reader(bench, blob.digest, readers)
                join = await bench.line.next(Join)
                hashes, at = b"".join(blob.hashes), WireEndpoint(there.address, there.port)
                await bench.line.say(
                    Table(False, (member(1, "holder", 1, there.port),)),
                    SwarmPlan(join.id, str(blob.digest), len(blob.data), PIECE_BYTES, hashes, (at,)),
                )
                assert await reader.finished() == blob.data
            await held(bench, blob.digest)
            pull = (await ask.json(blob.digest))["pull"]
    assert pull["sources"] == [{"by": "swarm", "node": "holder", "name": "holder", "bytes": len(blob.data)}]
    assert [wait["what"] for wait in pull["waits"]][:2] == ["the tracker's answer", "pieces by swarm"]


async def test_by_rescue_and_a_pull_that_fails(root: Path, tmp_path: Path, asking: Ask) -> None:
    blob, missing = Blob(5 * PIECE_BYTES), Blob(PIECE_BYTES, seed=1)
    with OriginServer() as origin, EventLog.open(tmp_path / "events") as events:
        origin.put_blob(REPOSITORY, blob.data)
        async with running(root, origin=origin.url, events=events) as bench, asking(bench) as ask:
            async with trio.open_nursery() as readers:
                reader = Reader(bench, blob.digest, readers)
                await relayed(bench, blob)
                bench.dealer.deal(blob, [0])
                account = bench.accounts.get(blob.digest)
                assert account is not None
                await bench.until(lambda: account.first_at is not None)
                await bench.line.say(Ended(7, "UNAVAILABLE", 503, "the registry hung up"))
                assert await reader.finished() == blob.data
                Reader(bench, missing.digest, readers)
                join = await bench.line.next(Join)
                await bench.line.say(Failed(join.id, "BLOB_UNKNOWN", 404, "the registry has no such blob"))
            await held(bench, blob.digest)
            pull = (await ask.json(blob.digest))["pull"]
            code, printed = await ask(str(missing.digest))
    assert {source["by"]: source["bytes"] for source in pull["sources"]} == {
        "deal": PIECE_BYTES,
        "origin": 4 * PIECE_BYTES,
    }
    assert pull["steps"][-1]["what"] == "went to the origin: the registry hung up"
    assert (code, "FAILED after" in printed, "the registry has no such blob" in printed) == (0, True, True)
    assert [line["reason"] for line in noted(tmp_path / "events", "rescued")] == ["the registry hung up"]
    (failed,) = noted(tmp_path / "events", "failed")
    assert (failed["digest"], failed["reason"]) == (missing.digest.hex[:16], "the registry has no such blob")


async def test_a_held_blob_that_was_not_pulled_lately(root: Path, asking: Ask) -> None:
    blob = Blob(10)
    async with running(root) as bench, asking(bench) as ask:
        with bench.store.begin(blob.digest, blob.layout, upstream="ghcr.io", repository="a/b") as partial:
            partial.write_piece(0, blob.data)
            partial.commit()
        code, printed = await ask(f"sha256:{blob.digest.hex[:12]}")
        told = await ask.json(blob.digest)
    assert code == 0
    assert "held       10 B of ghcr.io/a/b, since 20" in printed
    assert "not remembered" in printed
    assert told["pull"] is None
    assert told["held"]["written_at"] > 1.7e9


@pytest.mark.parametrize(
    ("digest", "code", "said"),
    [
        ("sha256:" + "0" * 64, 1, "no blob whose digest begins with sha256:0000"),
        ("nginx:1.27", 2, "'nginx:1.27' isn't a digest"),
        ("abc", 2, "at least the first 4"),
        ("abcd", 2, "2 blobs begin with abcd: sha256:abcd"),
    ],
)
async def test_what_cannot_be_explained(root: Path, asking: Ask, digest: str, code: int, said: str) -> None:
    async with running(root) as bench, asking(bench) as ask:
        for end in "01":
            bench.accounts.begin(Digest("sha256", "abcd" + end * 60), "u", "r", 0)
        found, printed = await ask(digest)
        assert found == code
        assert said in printed
        assert (await ask("sha256:abcd0"))[0] == 0
