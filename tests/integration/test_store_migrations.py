"""Migrations: up, down, twice at once, and equal to the tables; older and newer schemas are refused."""

import threading
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, inspect, text

from orchestrator.domain.errors import StoreUnavailableError
from orchestrator.store.schema import migration_config
from orchestrator.store.session import Store
from orchestrator.store.tables import accounts, attempts, files, jobs, observations, pool
from orchestrator.store.tables.conventions import metadata

TABLE_MODULES = (accounts, attempts, files, jobs, observations, pool)
TABLE_COUNT = 26


@pytest.fixture
def connection(empty_database_url: str):
    engine = create_engine(empty_database_url)
    with engine.connect() as opened:
        yield opened
    engine.dispose()


def run(connection: Connection, action: Any, revision: str) -> None:
    config = migration_config()
    config.attributes["connection"] = connection
    with connection.begin():
        action(config, revision)


def describe(connection: Connection) -> dict[str, Any]:
    """Everything that an engine tells about its tables, in an order that does not depend on how they were made."""
    inspector = inspect(connection)
    described = {}
    for name in sorted(set(inspector.get_table_names()) - {"alembic_version"}):
        indexes = inspector.get_indexes(name)
        described[name] = {
            "columns": [(c["name"], str(c["type"]), c["nullable"], c["default"]) for c in inspector.get_columns(name)],
            "primary_key": inspector.get_pk_constraint(name),
            "unique": sorted(map(repr, inspector.get_unique_constraints(name))),
            "foreign_keys": sorted(map(repr, inspector.get_foreign_keys(name))),
            "checks": sorted((c["name"], _flat(c["sqltext"])) for c in inspector.get_check_constraints(name)),
            "indexes": sorted(
                (
                    i["name"],
                    i["column_names"],
                    i["unique"],
                    sorted((k, str(v)) for k, v in i["dialect_options"].items()),
                )
                for i in indexes
            ),
        }
    return described


def _flat(sql: str) -> str:
    return " ".join(sql.split())


def test_migrated_schema_is_what_the_tables_say(connection: Connection) -> None:
    assert len(metadata.tables) == TABLE_COUNT
    run(connection, command.upgrade, "head")
    with connection.begin():
        migrated = describe(connection)
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    run(connection, command.downgrade, "base")
    with connection.begin():
        metadata.create_all(connection)
        created = describe(connection)
    assert len(migrated) == TABLE_COUNT
    assert migrated == created


def test_every_revision_goes_down_again(connection: Connection) -> None:
    for revision in ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010", "0011", "0012"):
        run(connection, command.upgrade, revision)
    run(connection, command.downgrade, "0001")
    with connection.begin():
        assert "teams" in describe(connection)
        assert "jobs" not in describe(connection)
    run(connection, command.downgrade, "base")
    with connection.begin():
        assert describe(connection) == {}
    run(connection, command.upgrade, "head")


def test_many_processes_may_migrate_at_once(empty_database_url: str) -> None:
    stores = [Store(empty_database_url, connections=2) for _ in range(4)]
    barrier = threading.Barrier(len(stores))
    failures: list[BaseException] = []

    def migrate(store: Store) -> None:
        barrier.wait()
        try:
            store.migrate()
            store.check_schema()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=migrate, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    assert failures == []


def test_missing_schema_is_refused(empty_database_url: str) -> None:
    store = Store(empty_database_url)
    with pytest.raises(StoreUnavailableError) as caught:
        store.check_schema()
    store.close()
    assert caught.value.code == "schema_too_old"


def test_newer_schema_is_refused_and_not_migrated(store: Store) -> None:
    with store.write() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for refuse in (store.check_schema, store.migrate):
        with pytest.raises(StoreUnavailableError) as caught:
            refuse()
        assert caught.value.code == "schema_too_new"


def test_rows_survive_migrating_again(store: Store) -> None:
    with store.write() as tx:
        tx.execute(text("INSERT INTO prices VALUES ('cpu', 1, 5, :at)"), {"at": tx.now() if tx.is_postgres else 0})
    store.migrate()
    with store.read() as tx:
        assert tx.scalar(text("SELECT count(*) FROM prices")) == 1
