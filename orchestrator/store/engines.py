"""Engines with the settings that the promises rest on: durability, timeouts, and who may write.

SQLite: WAL with synchronous FULL (a commit is on the disk before it is acknowledged), BEGIN IMMEDIATE for every write
(an upgrade from reading to writing cannot wait and fails at once), one writing connection per process.
PostgreSQL: READ COMMITTED, with limits on statements, lock waits and idle transactions.
"""

import sqlite3
import time
from typing import Any

import stamina
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

BUSY_SECONDS = 30
STATEMENT_SECONDS = 30
LOCK_SECONDS = 5
"""Starting figures from River and Slurm's practice (reliability study, section 10)."""
IDLE_SECONDS = 10
"""Our transactions last milliseconds; one that is idle for longer is a frozen process's. Its locks keep the next leader
out, so this adds to the leader's lease until another takes over."""
PING_AFTER_SECONDS = 1.0
_USED_AT = "used_at"
SQLITE_CACHE_KIB = 16 * 1024
SQLITE_LOG_BYTES = 64 * 1024**2
"""The write-ahead log is cut back to this size after a checkpoint."""


def open_sqlite_readers(url: URL, connections: int) -> Engine:
    engine = _open_sqlite(url, pool_size=connections)
    event.listen(engine, "begin", _begin_reading)
    event.listen(engine, "connect", _refuse_writes)
    return engine


def open_sqlite_writer(url: URL) -> Engine:
    """One connection: `orchestrator.store.writers` says whose turn it is."""
    engine = _open_sqlite(url, pool_size=1)
    event.listen(engine, "begin", _begin_writing)
    return engine


def open_postgres(url: URL, connections: int) -> Engine:
    limits = {
        "statement_timeout": STATEMENT_SECONDS,
        "lock_timeout": LOCK_SECONDS,
        "idle_in_transaction_session_timeout": IDLE_SECONDS,
    }
    options = " ".join(f"-c {name}={seconds * 1000}" for name, seconds in limits.items())
    engine = create_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=BUSY_SECONDS,
        isolation_level="READ COMMITTED",
        connect_args={"options": options, "connect_timeout": 10, "application_name": "tunepool"},
    )
    _ping_the_idle(engine)
    return engine


def _ping_the_idle(engine: Engine) -> None:
    """Find out that the server has gone before a transaction does. A connection that was in use a moment ago is spared
    the round trip, which SQLAlchemy's own `pool_pre_ping` would pay each time."""

    def remember(_connection: Any, record: ConnectionPoolEntry) -> None:
        record.info[_USED_AT] = time.monotonic()

    def ping(connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
        used_at = record.info.get(_USED_AT)
        if used_at is None or time.monotonic() - used_at < PING_AFTER_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError from error

    event.listen(engine, "checkin", remember)
    event.listen(engine, "checkout", ping)


def _open_sqlite(url: URL, *, pool_size: int) -> Engine:
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=BUSY_SECONDS,
        connect_args={"check_same_thread": False, "isolation_level": None, "timeout": BUSY_SECONDS},
    )
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    """The driver's own transactions are off (isolation_level None): `_begin_*` say BEGIN themselves."""
    connection.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
    for attempt in stamina.retry_context(
        on=sqlite3.OperationalError, attempts=None, timeout=BUSY_SECONDS, wait_initial=0.005, wait_max=0.1
    ):
        with attempt:  # of a new file that two processes open at once one is 'locked', and SQLite does not wait here
            connection.execute("PRAGMA journal_mode=WAL")
    for pragma in (
        "synchronous=FULL",
        "foreign_keys=ON",
        f"cache_size=-{SQLITE_CACHE_KIB}",
        f"journal_size_limit={SQLITE_LOG_BYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _refuse_writes(connection: sqlite3.Connection, _record: Any) -> None:
    connection.execute("PRAGMA query_only=ON")


def _begin_reading(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _begin_writing(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
