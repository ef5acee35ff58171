"""The account of a pull, by a clock that the test moves."""

import json
from pathlib import Path

import pytest

from p2pdist.agent.account import GAP_SECONDS, KEPT_PULLS, KEPT_WAITS, Account, Accounts, Awaited, State
from p2pdist.core.digest import Digest
from p2pdist.relay.transfer import Counts
from p2pdist.telemetry.events import By, EventLog

_BLOB = Digest.of(b"blob")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def account(clock: Clock) -> Account:
    return Account(_BLOB, "docker.io", "library/app", 1000, clock=clock)


def waits(account: Account, clock: Clock) -> list[tuple[float, float, Awaited]]:
    return [
        (round(wait.since - account.began, 3), round(wait.seconds, 3), wait.what)
        for wait in account.waits_until(clock.now)
    ]


def test_all_time_before_the_first_byte_is_waited_for_something(account: Account, clock: Clock) -> None:
    clock.pass_(0.01)
    account.wait_for(Awaited.RELAY)
    clock.pass_(0.02)
    account.piece_came()
    assert waits(account, clock) == [(0.0, 0.01, Awaited.ANSWER), (0.01, 0.02, Awaited.RELAY)]
    assert account.first_at == pytest.approx(100.03)


def test_after_it_only_gaps_count(account: Account, clock: Clock) -> None:
    account.wait_for(Awaited.RELAY)
    account.piece_came()
    for _ in range(10):
        clock.pass_(GAP_SECONDS)
        account.piece_came()
    clock.pass_(2.0)
    assert waits(account, clock) == [(5.0, 2.0, Awaited.RELAY)]
    account.piece_came()
    clock.pass_(0.1)
    account.piece_came()
    assert waits(account, clock) == [(5.0, 2.0, Awaited.RELAY)]


def test_a_gap_is_divided_when_something_else_is_waited_for(account: Account, clock: Clock) -> None:
    account.wait_for(Awaited.SWARM)
    account.piece_came()
    clock.pass_(5.0)
    account.wait_for(Awaited.ORIGIN)
    account.rescued("the swarm brings nothing more")
    clock.pass_(0.7)
    account.piece_came()
    assert waits(account, clock) == [(0.0, 5.0, Awaited.SWARM), (5.0, 0.7, Awaited.ORIGIN)]
    assert account.steps == [(105.0, "went to the origin: the swarm brings nothing more")]


def test_what_comes_after_the_last_byte_always_counts(account: Account, clock: Clock) -> None:
    account.wait_for(Awaited.RELAY)
    account.piece_came()
    account.wait_for(Awaited.DIGEST)
    clock.pass_(0.1)
    account.wait_for(Awaited.STORE)
    clock.pass_(0.02)
    account.end(State.HELD)
    clock.pass_(60)
    assert waits(account, clock) == [(0.0, 0.1, Awaited.DIGEST), (0.1, 0.02, Awaited.STORE)]
    assert account.ended == pytest.approx(100.12)


def test_a_pull_that_stalls_for_ever_stays_small(account: Account, clock: Clock) -> None:
    account.piece_came()
    for _ in range(KEPT_WAITS + 5):
        clock.pass_(1)
        account.piece_came()
        account.asked_for(2, 7)
    assert len(account.waits) == KEPT_WAITS
    assert account.waits_left_out == 5
    assert account.overdue_pieces == 2 * (KEPT_WAITS + 5)
    assert account.steps_left_out == 5


def test_bytes_by_who_gave_them(account: Account) -> None:
    for size_bytes in (10, 5):
        counts = Counts()
        counts.received_from["tracker"] += size_bytes
        counts.received_from["b"] += 1
        account.relays.append(counts)
    account.came_from_origin(7)
    account.came_by_swarm(20, {"c": 12})
    account.came_by_swarm(30, {"c": 12, "d": 9})
    assert account.received("tracker") == {
        (By.DEAL, "tracker"): 15,
        (By.RELAY, "b"): 2,
        (By.SWARM, "c"): 12,
        (By.SWARM, "d"): 9,
        (By.SWARM, ""): 9,
        (By.ORIGIN, ""): 7,
    }


@pytest.mark.parametrize(
    ("peers", "told"),
    [
        ({}, {"": 100}),
        ({"c": 3}, {"c": 100}),
        ({"c": 150, "d": 50}, {"c": 75, "d": 25}),
        ({"c": 60, "d": 40}, {"c": 60, "d": 40}),
    ],
)
def test_a_swarms_bytes_are_never_more_than_came(account: Account, peers: dict[str, int], told: dict[str, int]) -> None:
    account.came_by_swarm(100, peers)
    assert account.received("") == {(By.SWARM, peer): size_bytes for peer, size_bytes in told.items()}


def test_the_same_goes_to_the_event_log(tmp_path: Path, clock: Clock) -> None:
    with EventLog.open(tmp_path / "events") as events:
        account = Account(_BLOB, "docker.io", "library/app", 64, events, clock)
        clock.pass_(0.25)
        account.answered("swarm")
        account.wait_for(Awaited.SWARM)
        account.came_by_swarm(5, {"b": 5})
        account.came_by_swarm(9, {"b": 6})
        account.piece_came()
        clock.pass_(3)
        account.piece_came()
        account.rescued("nothing came")
        account.came_from_origin(55)
        account.end(State.HELD)
    found = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert {line.pop("digest") for line in found} == {_BLOB.hex[:16]}
    told = [{key: value for key, value in line.items() if key not in ("time", "node")} for line in found]
    assert told == [
        {"event": "wanted", "bytes": 64, "name": "docker.io/library/app"},
        {"event": "planned", "by": "swarm", "seconds": 0.25},
        {"event": "swarmed", "peer": "b", "bytes": 5},
        {"event": "swarmed", "peer": "b", "bytes": 1},
        {"event": "starved", "seconds": 3.0, "reason": "pieces by swarm"},
        {"event": "rescued", "reason": "nothing came"},
        {"event": "received", "by": "origin", "bytes": 55},
        {"event": "swarmed", "bytes": 3},
        {"event": "held", "bytes": 64, "seconds": 3.25},
    ]


def test_the_oldest_ended_account_goes_first() -> None:
    accounts = Accounts()
    digests = [Digest.of(str(number).encode()) for number in range(KEPT_PULLS + 1)]
    running = accounts.begin(digests[0], "u", "r", 0)
    for digest in digests[1:-1]:
        accounts.begin(digest, "u", "r", 0).end(State.HELD)
    newest = accounts.begin(digests[-1], "u", "r", 0)
    assert accounts.get(digests[0]) is running
    assert accounts.get(digests[1]) is None
    assert accounts.get(digests[-1]) is newest
    again = accounts.begin(digests[0], "u", "r", 0)
    assert accounts.get(digests[0]) is again
    assert len(list(accounts)) == KEPT_PULLS


def test_peers_of_a_swarm_never_gave_more_than_the_blob(account: Account) -> None:
    account.came_by_swarm(900, {"c": 500, "d": 400})
    account.came_by_swarm(1000, {"c": 700, "d": 400})
    assert account.received("") == {(By.SWARM, "c"): 600, (By.SWARM, "d"): 400}
