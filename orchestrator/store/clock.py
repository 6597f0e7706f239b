"""The one clock of leases, bills and order: the database's.

PostgreSQL has its own. SQLite is on one host, so that host's clock serves; the newest moment that a writer saw is kept
in a row, and a clock that is set back stands still until it has caught up. So on SQLite no row is older than one that
was committed before it.
"""

from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, bindparam, func, select, update

from orchestrator.store.tables.pool import clock

_SMALLEST_STEP = timedelta(microseconds=1)
_LATEST = select(clock.c.latest_at)
_REMEMBER = update(clock).values(latest_at=bindparam("moment"))
_POSTGRES_NOW = select(func.now())


def read_clock(connection: Connection) -> datetime:
    if connection.dialect.name == "postgresql":
        return _postgres_now(connection)
    return max(datetime.now(UTC), _latest(connection))


def tick_clock(connection: Connection) -> datetime:
    """Read the clock in a writing transaction, and remember it: later than any earlier writer's."""
    if connection.dialect.name == "postgresql":
        return _postgres_now(connection)
    moment = max(datetime.now(UTC), _latest(connection) + _SMALLEST_STEP)
    connection.execute(_REMEMBER, {"moment": moment})
    return moment


def _latest(connection: Connection) -> datetime:
    latest: datetime = connection.execute(_LATEST).scalar_one()
    return latest


def _postgres_now(connection: Connection) -> datetime:
    moment: datetime = connection.execute(_POSTGRES_NOW).scalar_one()
    return moment.astimezone(UTC)
