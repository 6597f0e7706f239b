"""Transactions: the only door to the database, on SQLite and PostgreSQL alike.

A use case opens one transaction, passes it first to functions of this package, and leaves. `ReadTx` cannot write: the
connection itself refuses. On SQLite writers take turns (see `orchestrator.store.writers`); on PostgreSQL they run side
by side and rely on guarded updates and row locks. Either way the clock is the database's and stands still within a
transaction.

Errors of the driver become StoreUnavailableError, and a broken constraint that no function expected ConflictError.
After a lost connection a commit may have happened or not: every write has a natural key, so repeating it is safe.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, Executable, RowMapping, Table, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from orchestrator.domain.errors import ConflictError, InvalidRequestError, StoreUnavailableError, TunepoolError
from orchestrator.store import engines, schema
from orchestrator.store.clock import read_clock, tick_clock
from orchestrator.store.writers import GroupWriter

Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]]
SCHEDULER_LOCK = 7_203_001
FEED_LOCK = 7_203_002
"""Keys of PostgreSQL advisory locks, held until the transaction ends."""


class ReadTx:
    """A transaction that reads. Its snapshot is one moment on SQLite, and one moment per statement on PostgreSQL."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._now: datetime | None = None

    @property
    def is_postgres(self) -> bool:
        return self._connection.dialect.name == "postgresql"

    def now(self) -> datetime:
        """The database's clock when it was first asked in this transaction."""
        if self._now is None:
            self._now = self._read_now()
        return self._now

    def _read_now(self) -> datetime:
        return read_clock(self._connection)

    def rows(self, statement: Executable, parameters: Parameters | None = None) -> Sequence[RowMapping]:
        return self._connection.execute(statement, parameters).mappings().all()

    def row(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> RowMapping | None:
        """The first row, or None."""
        return self._connection.execute(statement, parameters).mappings().first()

    def scalar(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> Any:
        """The first column of the first row; None when there is no row."""
        return self._connection.execute(statement, parameters).scalar()


class WriteTx(ReadTx):
    """A transaction that may write; what it did becomes visible all at once when its block ends without an error."""

    def _read_now(self) -> datetime:
        return tick_clock(self._connection)

    def execute(self, statement: Executable, parameters: Parameters | None = None) -> int:
        """Run a write and return how many rows it changed."""
        return int(self._connection.execute(statement, parameters).rowcount)

    def insert(self, table: Table) -> postgresql.Insert:
        """An INSERT of this engine's dialect: both have the same `on_conflict_*` methods."""
        if self.is_postgres:
            return postgresql.insert(table)
        return cast(postgresql.Insert, sqlite.insert(table))

    def lock_scheduler(self) -> None:
        """Let one placement run at a time, until the transaction ends. SQLite has one writer anyway."""
        self._lock(SCHEDULER_LOCK)

    def lock_feed(self) -> None:
        """Let one writer of logs and metrics run at a time, so that their ids become visible in order."""
        self._lock(FEED_LOCK)

    def _lock(self, key: int) -> None:
        if self.is_postgres:
            self._connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


class Store:
    """The database at `url`, an SQLAlchemy URL. `connections` bounds how many transactions run at once."""

    def __init__(self, url: str, *, connections: int = 20) -> None:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            assert parsed.database, "SQLite needs a file: an in-memory database has no second connection"
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            self._readers = engines.open_sqlite_readers(parsed, connections)
            self._writers = engines.open_sqlite_writer(parsed)
            self._group: GroupWriter | None = GroupWriter(self._writers, Path(parsed.database))
        elif parsed.get_backend_name() == "postgresql":
            self._readers = self._writers = engines.open_postgres(parsed, connections)
            self._group = None
        else:
            raise InvalidRequestError(f"TUNEPOOL_DATABASE_URL: {parsed.get_backend_name()} is not supported")

    @contextmanager
    def read(self) -> Iterator[ReadTx]:
        with _translated_errors(), self._begin(read_only=True) as connection:
            yield ReadTx(connection)

    @contextmanager
    def write(self) -> Iterator[WriteTx]:
        """Commits when the block ends, durably; an exception rolls everything back. Not to be nested."""
        begun = self._group.begin() if self._group else self._begin(read_only=False)
        with _translated_errors(), begun as connection:
            yield WriteTx(connection)

    @contextmanager
    def _begin(self, *, read_only: bool) -> Iterator[Connection]:
        with self._readers.connect() as connection:
            if self._group is None:
                connection.execution_options(postgresql_readonly=read_only)
            with connection.begin():
                yield connection

    def migrate(self) -> None:
        """Bring the tables to this release's schema. Safe to run from several processes at once.

        Raises StoreUnavailableError (schema_too_new) when a newer release has migrated the database already.
        """
        with _translated_errors():
            schema.migrate(self._writers)

    def check_schema(self) -> None:
        """Raise StoreUnavailableError, with code schema_too_old or schema_too_new, unless the tables are ours."""
        with _translated_errors(), self._begin(read_only=True) as connection:
            schema.check_schema(connection)

    def ping(self) -> None:
        """Raise StoreUnavailableError unless the database answers."""
        with self.read() as tx:
            tx.scalar(text("SELECT 1"))

    def close(self) -> None:
        self._readers.dispose()
        if self._group is not None:
            self._group.close()


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except TunepoolError:
        raise
    except IntegrityError as error:
        raise ConflictError("Another change to the same objects came first.") from error
    except DataError as error:
        raise InvalidRequestError("A value is out of the range that can be stored.") from error
    except ProgrammingError:
        raise
    except (DBAPIError, PoolTimeoutError) as error:
        raise StoreUnavailableError from error
