"""Whether the tables are those of this release, and how they become so.

One migration at a time: a second process waits for the first and finds nothing left to do. A database that a newer
release has migrated is refused, because this release cannot know what its rows mean.
"""

from importlib import resources
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from orchestrator.domain.errors import StoreUnavailableError

MIGRATION_LOCK = 7_203_003


def migration_config() -> Config:
    """Alembic's configuration, without a file."""
    config = Config()
    config.set_main_option("script_location", str(Path(str(resources.files("orchestrator.store") / "migrations"))))
    config.set_main_option("path_separator", "os")
    return config


def migrate(engine: Engine, revision: str = "head") -> None:
    """Upgrade to `revision` in one transaction. Raises StoreUnavailableError (schema_too_new)."""
    config = migration_config()
    with engine.connect() as connection:
        is_sqlite = engine.dialect.name == "sqlite"
        if is_sqlite:
            _switch_foreign_keys(connection, "OFF")
        try:
            with connection.begin():
                if not is_sqlite:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
                _refuse_newer(connection, ScriptDirectory.from_config(config))
                config.attributes["connection"] = connection
                command.upgrade(config, revision)
        finally:
            if is_sqlite:
                _switch_foreign_keys(connection, "ON")


def check_schema(connection: Connection) -> None:
    """Raise StoreUnavailableError, with code schema_too_old or schema_too_new, unless the tables are ours."""
    script = ScriptDirectory.from_config(migration_config())
    _refuse_newer(connection, script)
    if set(MigrationContext.configure(connection).get_current_heads()) != set(script.get_heads()):
        raise StoreUnavailableError("The database has not been migrated to this release.", code="schema_too_old")


def _refuse_newer(connection: Connection, script: ScriptDirectory) -> None:
    known = {revision.revision for revision in script.walk_revisions()}
    unknown = set(MigrationContext.configure(connection).get_current_heads()) - known
    if unknown:
        raise StoreUnavailableError(
            f"The database was migrated by a newer release (revision {', '.join(sorted(unknown))}).",
            code="schema_too_new",
        )


def _switch_foreign_keys(connection: Connection, setting: str) -> None:
    """Rebuilding a table on SQLite drops the old one, which would take its children along. Not inside a transaction."""
    driver = connection.connection.driver_connection
    assert driver is not None
    driver.execute(f"PRAGMA foreign_keys={setting}")
