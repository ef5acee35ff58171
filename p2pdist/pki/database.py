"""The tracker's SQLite file as pki uses it: opened here or handed in, one short transaction at a time.

The command line writes to it while the tracker runs; hence WAL and a busy timeout.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from p2pdist.core.errors import StoreError

# A connection must not be in a transaction when it is handed in.
Database = sqlite3.Connection | Path

_BUSY_SECONDS = 10.0
_TABLES = (
    """CREATE TABLE IF NOT EXISTS join_token (
        hash BLOB PRIMARY KEY,          -- sha256 of the token's text, which is stored nowhere
        created_at REAL NOT NULL,       -- seconds since 1970, like every time here
        expires_at REAL NOT NULL,
        uses INTEGER NOT NULL,
        revoked_at REAL
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS join_use (
        hash BLOB NOT NULL,
        agent_id TEXT NOT NULL,
        used_at REAL NOT NULL,
        PRIMARY KEY (hash, agent_id)
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS revoked_agent (
        agent_id TEXT PRIMARY KEY,
        revoked_at REAL NOT NULL
    ) WITHOUT ROWID""",
)


def connect(path: Path) -> sqlite3.Connection:
    """A connection to the file at `path`, made with mode 0600 when it isn't there; raises `StoreError`."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.Error:
            connection.close()
            raise
    except OSError as error:
        raise StoreError(f"the tracker's database {path} can't be opened: {error.strerror}") from error
    except sqlite3.Error as error:
        raise StoreError(f"the tracker's database {path} can't be used: {error}") from error
    return connection


@contextmanager
def transaction(database: Database) -> Iterator[sqlite3.Connection]:
    """A write transaction on `database`, with our tables there: committed at the end, rolled back on an exception."""
    if isinstance(database, Path):
        with closing(connect(database)) as connection, transaction(connection):
            yield connection
        return
    try:
        _make_tables(database)
        # IMMEDIATE takes the write lock now: what is read below can't change before it is written.
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
        except BaseException:
            database.rollback()
            raise
        database.commit()
    except sqlite3.Error as error:
        raise StoreError(f"the tracker's database can't be used: {error}") from error


@contextmanager
def reading(database: Database) -> Iterator[sqlite3.Connection]:
    """`database` for one query, with our tables there; takes no lock that a writer must wait for."""
    if isinstance(database, Path):
        with closing(connect(database)) as connection, reading(connection):
            yield connection
        return
    try:
        _make_tables(database)
        yield database
    except sqlite3.Error as error:
        raise StoreError(f"the tracker's database can't be used: {error}") from error


def _make_tables(connection: sqlite3.Connection) -> None:
    for statement in _TABLES:
        connection.execute(statement)
