import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from p2pdist.core.errors import InvalidInput, NotFound, StoreError
from p2pdist.pki import database as databases
from p2pdist.pki import revocations, tokens
from p2pdist.pki.database import Database
from p2pdist.pki.errors import AgentRevoked, TokenExpired, TokenRevoked, TokenUnknown, TokenUsedUp
from p2pdist.pki.tokens import TokenState

A, B, C = (digit * 32 for digit in "abc")


@pytest.fixture(params=["path", "connection", "autocommit"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    path = tmp_path / "tracker.sqlite"
    if request.param == "path":
        yield path
        return
    with closing(databases.connect(path)) as connection:
        if request.param == "autocommit":
            connection.isolation_level = None
        yield connection


def test_token_lets_in_as_many_agents_as_it_may(database: Database) -> None:
    token = tokens.create(database, uses=2)
    assert token.startswith("p2pjoin_")
    tokens.redeem(database, token, A)
    tokens.redeem(database, token, B)
    with pytest.raises(TokenUsedUp, match=r"used up \(2 of 2\)"):
        tokens.redeem(database, token, C)
    (known,) = tokens.listed(database)
    assert known.used_by == (A, B) or known.used_by == (B, A)


def test_agent_that_lost_the_answer_comes_again_for_free(database: Database) -> None:
    token = tokens.create(database, uses=1)
    tokens.redeem(database, token, A)
    tokens.redeem(database, token, A)
    with pytest.raises(TokenUsedUp):
        tokens.redeem(database, token, B)


def test_token_expires_to_the_second(database: Database) -> None:
    token = tokens.create(database, ttl_seconds=60, uses=3, now=1000.0)
    tokens.redeem(database, token, A, now=1059.9)
    with pytest.raises(TokenExpired):
        tokens.redeem(database, token, B, now=1060.0)
    with pytest.raises(TokenExpired):
        tokens.redeem(database, token, A, now=1060.0)


@pytest.mark.parametrize(
    "wrong", ["", "p2pjoin_", "p2pjoin_x", "nonsense", "p2pjoin_" + "x" * 10_000, "p2pjoin_\ud800"]
)
def test_wrong_tokens(database: Database, wrong: str) -> None:
    tokens.create(database)
    with pytest.raises(TokenUnknown, match="p2pdist pki token"):
        tokens.redeem(database, wrong, A)


def test_token_text_is_stored_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "tracker.sqlite"
    token = tokens.create(path)
    tokens.redeem(path, token, A)
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert A.encode() in stored
    assert token.removeprefix("p2pjoin_").encode() not in stored
    assert path.stat().st_mode & 0o077 == 0


def test_revoked_token_lets_nobody_in(database: Database) -> None:
    token, other = tokens.create(database, uses=5), tokens.create(database)
    tokens.redeem(database, token, A)
    revoked = tokens.revoke(database, token, now=5.0)
    assert revoked.used_by == (A,)
    assert tokens.revoke(database, revoked.id, now=6.0).revoked_at == 5.0
    for agent in (A, B):
        with pytest.raises(TokenRevoked, match=revoked.id):
            tokens.redeem(database, token, agent)
    tokens.redeem(database, other, A)


def test_revoke_must_name_one_token(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound):
        tokens.revoke(database, "0123456789ab")
    with pytest.raises(NotFound):
        tokens.revoke(database, "p2pjoin_unknown")
    with pytest.raises(InvalidInput, match="at least 6 digits"):
        tokens.revoke(database, "012")
    tokens.create(database)
    tokens.create(database)
    with databases.transaction(database) as connection:
        for number, (key,) in enumerate(connection.execute("SELECT hash FROM join_token").fetchall()):
            connection.execute("UPDATE join_token SET hash = ? WHERE hash = ?", (b"\1\2\3" + bytes([number]), key))
    with pytest.raises(InvalidInput, match="2 join tokens start with 010203"):
        tokens.revoke(database, "010203")
    assert tokens.revoke(database, "01020301").id == "01020301"


def test_states_and_order(database: Database) -> None:
    used = tokens.create(database, now=1.0)
    tokens.redeem(database, used, A, now=2.0)
    tokens.create(database, now=3.0)
    tokens.create(database, ttl_seconds=2, now=4.0)
    tokens.revoke(database, tokens.create(database, now=5.0), now=6.0)
    states = [token.state(7.0) for token in tokens.listed(database)]
    assert states == [TokenState.REVOKED, TokenState.EXPIRED, TokenState.VALID, TokenState.USED_UP]


def test_old_tokens_are_forgotten(database: Database) -> None:
    old = tokens.create(database, ttl_seconds=10, now=0.0)
    tokens.redeem(database, old, A, now=1.0)
    tokens.create(database, now=29 * 86400.0)
    assert len(tokens.listed(database)) == 2
    tokens.create(database, now=31 * 86400.0)
    assert len(tokens.listed(database)) == 2
    with databases.reading(database) as connection:
        assert connection.execute("SELECT count(*) FROM join_use").fetchone() == (0,)


@pytest.mark.parametrize(("ttl", "uses"), [(0, 1), (-1, 1), (1e9, 1), (float("nan"), 1), (60, 0), (60, 10**9)])
def test_lifetimes_and_uses_out_of_range(database: Database, ttl: float, uses: int) -> None:
    with pytest.raises(InvalidInput):
        tokens.create(database, ttl_seconds=ttl, uses=uses)


def test_many_agents_at_once_get_exactly_the_uses(tmp_path: Path) -> None:
    path = tmp_path / "tracker.sqlite"
    token = tokens.create(path, uses=5)
    start = threading.Barrier(16)
    outcomes: list[str] = []

    def redeem(agent_id: str) -> None:
        start.wait(10)
        try:
            tokens.redeem(path, token, agent_id)
            outcomes.append("in")
        except TokenUsedUp:
            outcomes.append("out")

    threads = [threading.Thread(target=redeem, args=(f"{number:032x}",)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["in"] * 5 + ["out"] * 11


def test_command_line_makes_tokens_while_the_tracker_holds_the_database(tmp_path: Path) -> None:
    path = tmp_path / "tracker.sqlite"
    with closing(databases.connect(path)) as tracker:
        tracker.execute("CREATE TABLE blob (digest TEXT)")
        tracker.execute("INSERT INTO blob VALUES ('x')")
        tracker.commit()
        reader = tracker.execute("SELECT digest FROM blob")
        token = tokens.create(path)
        assert reader.fetchall() == [("x",)]
        tokens.redeem(tracker, token, A)
    (known,) = tokens.listed(path)
    assert known.used_by == (A,)


def test_a_database_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"missing/tracker\.sqlite can't be opened: No such file"):
        tokens.create(tmp_path / "missing" / "tracker.sqlite")
    (tmp_path / "text").write_text("this is no database" * 100)
    with pytest.raises(StoreError, match="text can't be used: file is not a database"):
        tokens.create(tmp_path / "text")


def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    token = tokens.create(database)
    with pytest.raises(StoreError), databases.transaction(database) as connection:  # noqa: PT012
        connection.execute("DELETE FROM join_token")
        connection.execute("DELETE FROM no_such_table")
    tokens.redeem(database, token, A)


def test_revoked_agents(database: Database) -> None:
    revocations.check(database, A)
    revocations.revoke(database, A, now=7.0)
    revocations.revoke(database, A, now=8.0)
    with pytest.raises(AgentRevoked, match=A):
        revocations.check(database, A)
    revocations.check(database, B)
    assert revocations.listed(database) == {A: 7.0}
    with pytest.raises(InvalidInput):
        revocations.revoke(database, "host-1")
