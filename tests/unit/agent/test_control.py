"""The control connection against a tracker that a test plays, over real sockets."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing

from p2pdist.agent import control as control_module
from p2pdist.agent.control import ControlLink
from p2pdist.agent.control_errors import error_of
from p2pdist.core.errors import BlobUnknown, Denied, P2PDistError, ProtocolError, Unavailable
from p2pdist.wire.messages import (
    VERSION,
    Beat,
    Failed,
    Goodbye,
    Greeting,
    HeldBlob,
    Hello,
    Inventory,
    ManifestIs,
    Message,
    Probe,
    RelayPlan,
    RingInfo,
    SizeIs,
    SizeWanted,
    Table,
    Welcome,
    Working,
)

from .scripted_tracker import Line, ScriptedTracker, listening, member

WELCOMED = ("connected", "tracker", "127.0.0.1")
HELD = Inventory((HeldBlob("sha256:" + "0" * 64, 1),))


class Listener:
    """What a listener is told, in order; it announces one blob whenever it is connected."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.link: ControlLink
        self.failure: Exception | None = None

    def hello(self) -> Hello:
        return Hello(VERSION, (), "test", "agent", "agent", "", "", 1, "", 1)

    def connected(self, welcome: Welcome, tracker: str, tracker_address: str) -> None:
        self.told.append(("connected", tracker, tracker_address))
        self.link.say(HELD)

    def disconnected(self) -> None:
        self.told.append("disconnected")

    def message(self, message: Message) -> None:
        if self.failure is not None:
            raise self.failure
        self.told.append(message)


class Bench:
    def __init__(self, tracker: ScriptedTracker) -> None:
        self.tracker = tracker
        self.listener = Listener()
        self.link = self.listener.link = ControlLink("127.0.0.1", tracker.port, lambda: None, self.listener)

    async def ask(self, seconds: float = 5.0) -> object:
        return await self.link.ask(lambda id_: SizeWanted(id_, "u", "r", "d"), seconds)

    async def answer_of(self, answers: list[object]) -> None:
        try:
            answers.append(await self.ask())
        except P2PDistError as error:
            answers.append(error)

    async def lost(self, reason: str) -> None:
        """Wait until the connection has ended with such a reason."""
        with trio.fail_after(5):
            while reason not in self.link.last_error:  # noqa: ASYNC110 - an attempt that fails sets no event
                await trio.sleep(0.005)
        assert not self.link.connected


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(control_module, "_FIRST_PAUSE_SECONDS", 0.01)
    async with running() as bench:
        yield bench


@asynccontextmanager
async def running() -> AsyncIterator[Bench]:
    async with listening() as tracker, trio.open_nursery() as nursery:
        bench = Bench(tracker)
        nursery.start_soon(bench.link.run)
        yield bench
        nursery.cancel_scope.cancel()


async def connected(bench: Bench) -> Line:
    line = await bench.tracker.welcome()
    assert await bench.link.wait_connected(5)
    return line


async def test_questions_and_answers(bench: Bench) -> None:
    with pytest.raises(Unavailable, match="isn't connected: not connected yet"):
        await bench.ask()
    line = await connected(bench)
    answers: list[object] = []
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(bench.answer_of, answers)
        ids = [(await line.next(SizeWanted)).id for _ in range(3)]
        await line.say(Table(False, (member(5, "n"),)))
        await line.say(SizeIs(ids[1], 11), Failed(ids[0], "BLOB_UNKNOWN", 404, "no such blob"), SizeIs(ids[2], 22))
    assert sum(isinstance(answer, BlobUnknown) for answer in answers) == 1
    assert sorted(answer.size_bytes for answer in answers if isinstance(answer, SizeIs)) == [11, 22]
    assert bench.listener.told[0] == WELCOMED
    assert bench.listener.told[-1] == Table(False, (member(5, "n"),))
    await line.say(SizeIs(ids[0], 1), ManifestIs(999, "d", "m", b"", False), Working(999))
    answers.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.answer_of, answers)
        await line.say(SizeIs((await line.next(SizeWanted)).id, 33))
    assert [answer.size_bytes for answer in answers if isinstance(answer, SizeIs)] == [33]


async def test_a_question_has_its_time_and_more_while_the_tracker_is_at_it(bench: Bench) -> None:
    line = await connected(bench)
    with pytest.raises(Unavailable, match="no answer within"):
        await bench.ask(0.05)
    answers: list[object] = []

    async def ask() -> None:
        answers.append(await bench.ask(0.5))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await line.next(SizeWanted)
        id_ = (await line.next(SizeWanted)).id
        for _ in range(3):
            await trio.sleep(0.3)
            await line.say(Working(id_))
        await line.say(SizeIs(id_, 3))
    assert answers == [SizeIs(id_, 3)]


async def test_a_broken_connection_fails_questions_at_once_and_comes_back_with_the_inventory(bench: Bench) -> None:
    line = await connected(bench)
    assert await line.next(Inventory) == HELD
    answers: list[object] = []
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.answer_of, answers)
        await line.next(SizeWanted)
        await line.drop()
    assert trio.current_time() - began < 2
    assert isinstance(answers[0], Unavailable)
    assert "broke before it answered" in str(answers[0])
    line = await connected(bench)
    assert await line.next(Inventory) == HELD
    assert bench.link.connects == 2
    names = [
        told if isinstance(told, str) else told[0] for told in bench.listener.told if isinstance(told, (str, tuple))
    ]
    assert names == ["connected", "disconnected", "connected"]


async def _greet(line: Line) -> None:
    await line.say(Greeting(VERSION, (), "tracker"))


def _welcome(lease_seconds: float) -> Welcome:
    return Welcome("agent", 0, lease_seconds, (), (), (), "", 1)


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (Greeting(VERSION + 1, (), "tracker"), f"speaks version {VERSION + 1}"),
        (Greeting(VERSION, (), "tracker", b"a CA"), "must enrol first"),
        (Beat(), "doesn't greet like a tracker"),
    ],
)
async def test_greetings_that_are_refused(bench: Bench, says: Message, reason: str) -> None:
    line = await bench.tracker.accept()
    await line.say(says)
    await bench.lost(reason)


@pytest.mark.parametrize("lease_seconds", [0.0, -1.0, math.nan, math.inf, 1e9])
async def test_a_lease_that_means_nothing(bench: Bench, lease_seconds: float) -> None:
    line = await bench.tracker.accept()
    await _greet(line)
    await line.say(_welcome(lease_seconds))
    await bench.lost("lease")


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "a control frame of 1213486160 bytes"),
        (b"\0\0\0\3abc", "isn't a message"),
        (b"\0\0\0\x09abc", "in the middle of a frame"),
        (b"", "hung up before it said anything"),
    ],
)
async def test_garbage_ends_the_connection_with_a_reason(bench: Bench, garbage: bytes, reason: str) -> None:
    line = await bench.tracker.accept()
    if garbage:
        await line.stream.send_all(garbage)
    await line.stream.send_eof()
    await bench.lost(reason)
    await connected(bench)


async def test_garbage_after_the_welcome(bench: Bench) -> None:
    line = await connected(bench)
    await line.stream.send_all(b"\0\0\0\3abc")
    await bench.lost("isn't a message")
    await connected(bench)


@pytest.mark.parametrize("failure", [ProtocolError("it means nothing"), ZeroDivisionError("a bug")])
async def test_what_a_listener_raises_ends_the_connection_only(bench: Bench, failure: Exception) -> None:
    line = await connected(bench)
    bench.listener.failure = failure
    await line.say(Table(True, ()))
    await bench.lost("it means nothing" if isinstance(failure, ProtocolError) else "a bug of this agent")
    bench.listener.failure = None
    await connected(bench)


async def test_silence_for_a_lease_ends_the_connection(bench: Bench) -> None:
    bench.tracker.lease_seconds = 0.3
    line = await connected(bench)
    await line.next(Beat)
    await line.say(Beat())
    await bench.lost("no sign of life for a whole lease")


async def test_a_tracker_that_hangs_is_given_up_when_something_is_awaited(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_module, "QUIET_SECONDS", 0.05)
    monkeypatch.setattr(control_module, "SIGN_SECONDS", 0.2)
    line = await connected(bench)
    answers: list[object] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.answer_of, answers)
        # As long as it gives signs of life, the question has its time.
        id_ = (await line.next(SizeWanted)).id
        for _ in range(4):
            await line.next(Beat)
            await line.say(Beat())
        assert bench.link.connected
        await line.say(SizeIs(id_, 3))
    assert answers == [SizeIs(id_, 3)]
    began = trio.current_time()
    with pytest.raises(Unavailable, match="broke before it answered"):
        await bench.ask(20)
    assert trio.current_time() - began < 5
    await bench.lost("gave no sign of life for 0.2 s")
    # It was gone since its last word, not since that was noticed.
    assert trio.current_time() - bench.link.since > 0.2
    await connected(bench)


async def test_goodbye(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    line = await connected(bench)
    await line.say(Goodbye("restarting"))
    await bench.lost("goodbye: restarting")
    line = await connected(bench)
    await line.say(Goodbye("you are shut out", final=True))
    await bench.lost("you are shut out")
    # It isn't bothered again at once.
    with trio.move_on_after(0.3), suppress(trio.TooSlowError):
        await bench.tracker.accept()
        pytest.fail("it came back")


async def test_a_hello_that_is_refused(bench: Bench) -> None:
    line = await bench.tracker.accept()
    await _greet(line)
    await line.say(Goodbye("no certificate", final=True))
    await bench.lost("no certificate")


async def test_an_agent_that_stops_says_goodbye() -> None:
    async with listening() as tracker:
        async with trio.open_nursery() as nursery:
            bench = Bench(tracker)
            nursery.start_soon(bench.link.run)
            line = await connected(bench)
            await line.next(Inventory)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert (await line.next(Goodbye)).reason == "the agent stops"


async def test_a_tracker_that_does_not_read_loses_the_connection(bench: Bench) -> None:
    await connected(bench)
    for _ in range(5000):
        bench.link.say(HELD)
    await bench.lost("doesn't read")
    await connected(bench)


async def test_a_probe_is_answered_at_once(bench: Bench) -> None:
    line = await connected(bench)
    told = len(bench.listener.told)
    before = sum(isinstance(message, Beat) for message in line.heard)
    await line.say(Probe())
    with trio.fail_after(2):
        for _ in range(before + 1):
            await line.next(Beat)
    assert len(bench.listener.told) == told


async def test_a_plan_comes_before_what_is_said_of_it_only_if_somebody_waits(bench: Bench) -> None:
    line = await connected(bench)
    plan = RelayPlan(77, "d", 1, 32768, 5, 4, False, (RingInfo(1, b"\1", "tracker"),))
    await line.say(plan, Table(False, ()))
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert plan not in bench.listener.told
    assert Table(False, ()) in bench.listener.told


async def test_nobody_listens_there(bench: Bench) -> None:
    await bench.tracker.close()
    await bench.lost("Connection refused")
    assert not await bench.link.wait_connected(0.01)


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("BLOB_UNKNOWN", 404, BlobUnknown),
        ("UNAUTHORIZED", 401, Denied),
        ("TOOMANYREQUESTS", 429, Unavailable),
        ("", 0, ProtocolError),
    ],
)
def test_the_trackers_errors(code: str, status: int, kind: type[P2PDistError]) -> None:
    error = error_of(code, status, "why")
    assert type(error) is kind
    assert (error.oci_code, error.http_status) == (code or "UNKNOWN", status or 502)
